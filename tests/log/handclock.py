"""A clock for tests of what depends on how old rows are."""

from __future__ import annotations

from mamba_stream.core.clock import Clock

DAY = 86_400_000_000
"""In microseconds."""


class HandClock(Clock):
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 20_000 * DAY

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1e6
