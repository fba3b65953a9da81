"""How much a run does at a time, so that results come out as soon as they are wanted.

A row that comes when a turn has just begun waits for its end, and then has a turn of its own; what that gives waits for
a commit to begin and to end, before anybody sees it. Each of the four gets a quarter of the latency that is wanted. How
many rows that is for a turn, earlier turns tell.
"""

from __future__ import annotations

from typing import Final

_FIRST: Final = 16_384
_FEWEST: Final = 1_024
"""Fewer rows take no less time."""
_SHARE: Final = 0.25
_SOONEST: Final = 0.001
_LATEST: Final = 0.02


class Pace:
    """The rows of a turn, and how long results may wait for a commit.

    Example:
        >>> pace = Pace(0.02, most=500_000)
        >>> pace.took(16_384, 0.02)
        >>> pace.rows, pace.patience
        (4096, 0.005)
    """

    def __init__(self, latency: float | None, most: int) -> None:
        """The pace of a run.

        Args:
            latency: How long a row may be on its way, in seconds; ``None`` does as much at a time as is efficient.
            most: How many rows a turn has at most.
        """
        self._latency = latency
        self._most = most
        self.rows = most if latency is None else min(_FIRST, most)
        """How many rows the next turn has at most."""
        self.ask = _SOONEST
        """When to ask sources again that cannot say when they have rows, in seconds: soon after some, then rarely."""

    @property
    def patience(self) -> float | None:
        """How long results may wait for a commit to begin, in seconds."""
        return None if self._latency is None else self._latency * _SHARE

    def took(self, rows: int, seconds: float) -> None:
        """A turn had so many rows, and lasted so long."""
        rarely = _LATEST if self.patience is None else min(_LATEST, self.patience)
        self.ask = min(_SOONEST if rows else 2 * self.ask, rarely)
        if self._latency is None or not rows:
            return
        wanted = self._latency * _SHARE
        if seconds > wanted or 2 * rows >= self.rows:
            fitting = int(rows * wanted / seconds) if seconds > 0 else self._most
            # Not by more at a time: one turn may have closed windows, or waited for others on this machine.
            near = max(self.rows // 4, min(fitting, self.rows * 2))
            self.rows = max(min(_FEWEST, self._most), min(near, self._most))
