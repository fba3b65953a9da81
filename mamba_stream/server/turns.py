"""Turns of those who take much memory while they are at it: so many at a time."""

from __future__ import annotations

import threading

from mamba_stream.core.clock import Clock


class Turns:
    """So many at a time. Any thread may take a turn, and ask how those are getting on who have one.

    Args:
        most: How many at a time.
        clock: Tells how long nothing was heard of them.
    """

    def __init__(self, most: int, clock: Clock) -> None:
        self._free = threading.BoundedSemaphore(most)
        self._clock = clock
        self._heard = clock.monotonic()

    def take(self, timeout: float) -> bool:
        """Waits for a turn, at most so many seconds; whether there was one, which is to be given back."""
        taken = self._free.acquire(timeout=timeout)
        if taken:
            self.hear()
        return taken

    def give_back(self) -> None:
        """Lets another one have it."""
        self.hear()
        self._free.release()

    def hear(self) -> None:
        """One of those who have a turn is getting on."""
        self._heard = self._clock.monotonic()

    @property
    def silent(self) -> float:
        """Seconds since anything was heard of any of them."""
        return self._clock.monotonic() - self._heard
