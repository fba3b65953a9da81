"""Windows of fixed length over integer time: which window, or which pane of windows, a tick falls into.

Hopping windows overlap; their panes do not. A pane is as long as the greatest common divisor of size and step, so
every window is a whole number of panes and a row costs the same however many windows it is in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows ``[start, start + size)`` whose starts are ``origin`` plus multiples of ``every``; all in ticks."""

    size: int
    every: int
    origin: int = 0

    @property
    def pane(self) -> int:
        """The length of a pane."""
        return math.gcd(self.size, self.every)

    @property
    def overlaps(self) -> bool:
        """Whether a row may be in more than one window."""
        return self.size != self.every

    @property
    def most(self) -> int:
        """How many windows a pane is in at most."""
        return -(-self.size // self.every)

    def pane_of(self, ticks: pl.Expr) -> pl.Expr:
        """The start of the pane that each tick falls into."""
        return self._floor(ticks, self.pane)

    def last_start(self, ticks: pl.Expr) -> pl.Expr:
        """The start of the last window that holds each tick."""
        return self._floor(ticks, self.every)

    def _floor(self, ticks: pl.Expr, step: int) -> pl.Expr:
        shift = self.origin % step
        if not shift:
            return ticks // step * step
        return (ticks - shift) // step * step + shift

    def end_reached(self, ticks: pl.Expr) -> pl.Expr:
        """The end of the last window that is over at each tick."""
        return self._floor(ticks - self.size, self.every) + self.size

    def ends(self, after: int, until: int) -> range:
        """The ends of windows behind one tick, up to another."""
        first = (after - self.size - self.origin) // self.every + 1
        last = (until - self.size - self.origin) // self.every
        shift = self.origin + self.size
        return range(first * self.every + shift, last * self.every + shift + 1, self.every)

    def last_end(self, pane: int) -> int:
        """The end of the last window that holds the pane starting there."""
        return (pane - self.origin) // self.every * self.every + self.origin + self.size

    def first_end(self, pane: int) -> int:
        """The end of the first window that holds the pane starting there."""
        earliest = pane + self.pane - self.size - self.origin
        return -(-earliest // self.every) * self.every + self.origin + self.size
