"""Rows that have a time, as they come when time passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mamba_stream.core.clock import Clock


class Pace:
    """Says how many rows are due. The first that is asked about is due at once, and sets the beginning."""

    def __init__(self, clock: Clock, *, speed: float) -> None:
        """Starts no watch yet.

        Args:
            clock: Whose monotonic time passes.
            speed: How many seconds of rows pass in one.
        """
        self._clock = clock
        self._speed = speed
        self._begun: tuple[float, int] | None = None

    def due(self, times: npt.NDArray[np.int64]) -> int:
        """How many of the first rows are due.

        Args:
            times: When each is, in microseconds, never falling.
        """
        if not len(times):
            return 0
        if self._begun is None:
            self._begun = self._clock.monotonic(), int(times[0])
        return int(np.searchsorted(times, self._reached(self._begun), side="right"))

    def seconds_to(self, time: int) -> float:
        """How long until a row of this time is due; asked about rows before."""
        return 0.0 if self._begun is None else (time - self._reached(self._begun)) / self._speed / 1_000_000

    def _reached(self, begun: tuple[float, int]) -> int:
        began, first = begun
        return first + int((self._clock.monotonic() - began) * self._speed * 1_000_000)
