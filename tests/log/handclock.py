"""Clocks for tests of what depends on how old rows are."""

from __future__ import annotations

import time
from pathlib import Path

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


class FileClock(Clock):
    """A clock that is set by hand for several processes: its time stands in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, at: int) -> None:
        self.path.write_bytes(at.to_bytes(8, "big"))

    def now(self) -> int:
        return int.from_bytes(self.path.read_bytes(), "big")

    def monotonic(self) -> float:
        return time.monotonic()
