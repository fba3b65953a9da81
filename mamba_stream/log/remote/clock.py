"""The server's clock, as far as a client can tell."""

from __future__ import annotations

from collections.abc import Callable

from mamba_stream.core.clock import Clock

_DRIFT = 1e-4
"""Seconds by which two clocks may part in a second."""
_ASK_AFTER = 60.0
"""Seconds after which the server is asked again, and before which it is not asked a second time."""


class ServerClock:
    """Tells the server's time, so that leases end when the server says, whatever this machine's clock shows.

    It runs on this machine's monotonic clock from the last time that the server told. Whoever asks it for the time does
    not wait for the server: what that tells counts from then on.

    Args:
        local: This machine's clock.
        ask: Has the server asked, and returns at once.
    """

    def __init__(self, local: Clock, ask: Callable[[], None]) -> None:
        self._local = local
        self._ask = ask
        self._asked = local.monotonic()
        self._ahead = local.now() / 1e6 - local.monotonic()
        self._around = float("inf")
        self._told = float("-inf")

    def now(self) -> int:
        """Microseconds since 1970-01-01T00:00:00 UTC by the server's clock."""
        here = self._local.monotonic()
        if here - max(self._asked, self._told) > _ASK_AFTER:
            self._asked = here
            self._ask()
        return int((here + self._ahead) * 1_000_000)

    def monotonic(self) -> float:
        """Seconds of this machine's clock; never runs backwards."""
        return self._local.monotonic()

    def tell(self, now: int, asked: float, answered: float) -> None:
        """Takes over the server's time, which it told between these two moments of the monotonic clock."""
        around = answered - asked
        # What a slow call says of the time is less certain; but what is known becomes so, too, as clocks drift.
        if around <= self._around + _DRIFT * (answered - self._told):
            self._ahead = now / 1e6 - (asked + answered) / 2
            self._around = around
            self._told = answered
