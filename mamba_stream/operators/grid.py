"""Windows of fixed length over integer time: which window, or which pane of windows, a tick falls into.

Hopping windows overlap, and so do cumulative ones; their panes do not. A pane is as long as the greatest common
divisor of size and step, so every window is a whole number of panes and a row costs the same however many windows
it is in. Windows that overlap are told apart by their ends.
"""

from __future__ import annotations

import math
from typing import Protocol

import msgspec
import polars as pl


class Windows(Protocol):
    """Which windows a time falls into, whatever their kind; all in ticks."""

    @property
    def pane(self) -> int:
        """What all panes start a multiple of behind each other."""
        ...

    @property
    def origin(self) -> int | None:
        """The start of a pane, where all other panes start whole panes before or behind it."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether a row may be in more than one window."""
        ...

    @property
    def every(self) -> int:
        """How far apart the ends of overlapping windows are."""
        ...

    @property
    def most(self) -> int:
        """How many windows a pane is in at most."""
        ...

    def pane_of(self, ticks: pl.Expr) -> pl.Expr:
        """The start of the pane that each tick falls into; where windows do not overlap, of its window."""
        ...

    def last_end_of(self, ticks: pl.Expr) -> pl.Expr:
        """The end of the last window that holds each tick."""
        ...

    def end_reached(self, ticks: pl.Expr) -> pl.Expr:
        """The end of the last window that is over at each tick."""
        ...

    def last_end(self, tick: int) -> int:
        """The end of the last window that holds a tick."""
        ...

    def first_end(self, tick: int) -> int:
        """The end of the first window that holds a tick."""
        ...

    def first_open(self, watermark: int) -> int:
        """The start of the first window that ends behind a watermark: panes before it are in none that does."""
        ...

    def ends(self, after: int, until: int) -> range:
        """The ends of overlapping windows behind one tick, up to another."""
        ...

    def start_before(self, end: int) -> int:
        """The start of the overlapping window that ends there."""
        ...

    def bounds(self, slot: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """Start and end of windows: of overlapping ones by their end, of others by their start."""
        ...


class Grid(msgspec.Struct, frozen=True):
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
        return self.size != self.every

    @property
    def most(self) -> int:
        return -(-self.size // self.every)

    def pane_of(self, ticks: pl.Expr) -> pl.Expr:
        return floored(ticks, self.pane, self.origin)

    def last_start(self, ticks: pl.Expr) -> pl.Expr:
        """The start of the last window that holds each tick."""
        return floored(ticks, self.every, self.origin)

    def last_end_of(self, ticks: pl.Expr) -> pl.Expr:
        return self.last_start(ticks) + self.size

    def end_reached(self, ticks: pl.Expr) -> pl.Expr:
        return floored(ticks - self.size, self.every, self.origin) + self.size

    def ends(self, after: int, until: int) -> range:
        first = (after - self.size - self.origin) // self.every + 1
        last = (until - self.size - self.origin) // self.every
        shift = self.origin + self.size
        return range(first * self.every + shift, last * self.every + shift + 1, self.every)

    def last_end(self, tick: int) -> int:
        return (tick - self.origin) // self.every * self.every + self.origin + self.size

    def first_end(self, tick: int) -> int:
        return (
            (tick - self.size - self.origin) // self.every * self.every + self.every + self.origin + self.size
        )

    def first_open(self, watermark: int) -> int:
        return (watermark - self.size - self.origin) // self.every * self.every + self.every + self.origin

    def start_before(self, end: int) -> int:
        return end - self.size

    def bounds(self, slot: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        return (slot - self.size, slot) if self.overlaps else (slot, slot + self.size)


class Cumulative(msgspec.Struct, frozen=True):
    """Windows that start together every ``size`` and end ``every`` after each other, until all of it is covered."""

    size: int
    every: int
    origin: int = 0

    @property
    def pane(self) -> int:
        return self.every

    @property
    def overlaps(self) -> bool:
        return True

    @property
    def most(self) -> int:
        return self.size // self.every

    def pane_of(self, ticks: pl.Expr) -> pl.Expr:
        return floored(ticks, self.every, self.origin)

    def last_end_of(self, ticks: pl.Expr) -> pl.Expr:
        return floored(ticks, self.size, self.origin) + self.size

    def end_reached(self, ticks: pl.Expr) -> pl.Expr:
        return floored(ticks, self.every, self.origin)

    def ends(self, after: int, until: int) -> range:
        first = (after - self.origin) // self.every + 1
        last = (until - self.origin) // self.every
        return range(first * self.every + self.origin, last * self.every + self.origin + 1, self.every)

    def last_end(self, tick: int) -> int:
        return self._start(tick) + self.size

    def first_end(self, tick: int) -> int:
        return (tick - self.origin) // self.every * self.every + self.every + self.origin

    def first_open(self, watermark: int) -> int:
        return self._start(watermark)

    def start_before(self, end: int) -> int:
        return self._start(end - 1)

    def bounds(self, slot: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        return floored(slot - 1, self.size, self.origin), slot

    def _start(self, tick: int) -> int:
        return (tick - self.origin) // self.size * self.size + self.origin


def floored(ticks: pl.Expr, step: int, origin: int) -> pl.Expr:
    """The greatest of ``origin`` plus multiples of ``step`` that is not beyond each tick."""
    shift = origin % step
    if not shift:
        return ticks // step * step
    return (ticks - shift) // step * step + shift
