"""Windows by the calendar: days, weeks, months and years of a time zone, which are not all equally long.

They start where Polars' ``dt.truncate`` says. A day on which clocks go forward at midnight begins when they have; of
two midnights on one day, the first begins it, so that a day is one window.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.times import as_time

_Ticks = npt.NDArray[np.int64]
_BLOCK_YEARS = 40
"""The calendar is probed over so many years at once, and what is found is kept."""
_FARTHEST = (1 << 63) - (1 << 56)
"""In nanoseconds, time ends in the year 2262."""
_MOST = 1_000_000
"""Probes that pay: rows that lie farther apart are truncated one by one."""
_REACH_YEARS = 8_100
"""Farther from 1970 than any time; behind it lie the ends of time."""


class Calendar(msgspec.Struct, frozen=True):
    """Windows side by side that start at local times.

    Attributes:
        size: How long a window is, as ``dt.truncate`` takes it, such as ``1mo``.
        dtype: The type of the time column.
        offset: How far behind the start that the calendar gives a window starts, in ticks of local time.
        probe: In ticks, at most as long as the shortest window.
        per_day: Ticks per day.
    """

    size: str
    dtype: pl.DataType
    offset: int
    probe: int
    per_day: int

    @property
    def pane(self) -> int:
        return 1

    @property
    def origin(self) -> None:
        return None

    @property
    def overlaps(self) -> bool:
        return False

    @property
    def every(self) -> int:
        return self.probe

    @property
    def most(self) -> int:
        return 1

    def pane_of(self, ticks: pl.Expr) -> pl.Expr:
        return ticks.map_batches(lambda column: self._looked_up(column, 0), return_dtype=pl.Int64)

    def last_end_of(self, ticks: pl.Expr) -> pl.Expr:
        return ticks.map_batches(lambda column: self._looked_up(column, 1), return_dtype=pl.Int64)

    def end_reached(self, ticks: pl.Expr) -> pl.Expr:
        return self.pane_of(ticks)

    def last_end(self, tick: int) -> int:
        return self._beside(tick, 1)

    def first_end(self, tick: int) -> int:
        return self._beside(tick, 1)

    def first_open(self, watermark: int) -> int:
        return self._beside(watermark, 0)

    def ends(self, after: int, until: int) -> range:
        raise NotImplementedError("windows by the calendar do not overlap")

    def start_before(self, end: int) -> int:
        raise NotImplementedError("windows by the calendar do not overlap")

    def bounds(self, slot: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        return slot, self.last_end_of(slot)

    def _beside(self, tick: int, place: int) -> int:
        """The start of the window of a tick, or of one behind it."""
        if abs(tick) > _REACH_YEARS * 366 * self.per_day:
            return FOREVER if tick > 0 else NEVER
        starts = _starts_around(self, tick, tick)
        return int(starts[np.searchsorted(starts, tick, side="right") - 1 + place])

    def _looked_up(self, column: pl.Series, place: int) -> pl.Series:
        if len(column) == 0:
            return column
        first: Any = column.min()
        last: Any = column.max()
        if last - first > _MOST * self.probe:
            starts = np.unique(_truncated(self, column.to_numpy()))
            starts = np.append(starts, self._beside(int(starts[-1]), 1))
        else:
            starts = _starts_around(self, first, last)
        found = np.searchsorted(starts, column.to_numpy(), side="right") - 1 + place
        return pl.Series(column.name, starts[found])


def _starts_around(calendar: Calendar, first: int, last: int) -> _Ticks:
    block = _block(calendar)
    return _starts(calendar, first // block, last // block)


@lru_cache(maxsize=256)
def _starts(calendar: Calendar, first: int, last: int) -> _Ticks:
    """The starts of windows in some blocks, with one before and one behind at least."""
    block, probe = _block(calendar), calendar.probe
    # No window is twice as long as the shortest.
    edges = (first * block - 2 * probe, (last + 1) * block + 3 * probe)
    low, high = (max(-_FARTHEST, min(_FARTHEST, edge)) for edge in edges)
    return np.unique(_truncated(calendar, np.arange(low, high, probe, dtype=np.int64)))


def _block(calendar: Calendar) -> int:
    return _BLOCK_YEARS * 366 * calendar.per_day


def _truncated(calendar: Calendar, ticks: _Ticks) -> _Ticks:
    """The start of the window of each tick."""
    # Two at least: over a single row Polars may compute otherwise.
    column = pl.select(pl.Series("ticks", np.append(ticks, ticks[-1:])))
    return column.select(_start(calendar, pl.col("ticks"))).to_series().to_numpy()[:-1]


def _start(calendar: Calendar, ticks: pl.Expr) -> pl.Expr:
    dtype, zone = calendar.dtype, getattr(calendar.dtype, "time_zone", None)
    if zone is None:
        return _ticks(as_time(ticks - calendar.offset, dtype).dt.truncate(calendar.size)) + calendar.offset
    local = as_time(ticks, dtype).dt.replace_time_zone(None)
    start = _moved(_moved(local, -calendar.offset, dtype).dt.truncate(calendar.size), calendar.offset, dtype)
    there = start.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    # A start that clocks skip: as long behind the day before as a day without a change is.
    before = _moved(start, -calendar.per_day, dtype)
    before = before.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return pl.coalesce(_ticks(there), _ticks(before) + calendar.per_day)


def _ticks(time: pl.Expr) -> pl.Expr:
    return time.to_physical().cast(pl.Int64)


def _moved(time: pl.Expr, by: int, dtype: pl.DataType) -> pl.Expr:
    assert isinstance(dtype, pl.Datetime)
    return (_ticks(time) + by).cast(pl.Datetime(dtype.time_unit)) if by else time
