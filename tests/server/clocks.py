"""A clock that tests move."""

from __future__ import annotations


class HandClock:
    """Stands still until it is moved; both of its times go together, unless the wall clock is set."""

    def __init__(self, now: int = 1_800_000_000_000_000) -> None:
        self.wall = now
        self.seconds = 1_000.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.wall += int(seconds * 1e6)
        self.seconds += seconds
