"""From windows as users describe them to ticks of a time column, aligned as Polars' ``dt.truncate`` aligns.

Truncation in Polars goes by local time. In UTC and without a zone that is arithmetic on the column's integers; in
another zone it is the same only where the zone's offsets are whole multiples of the step.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import polars as pl

from mamba_stream.core.durations import duration_in, ticks_per_day
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.calendar import Calendar
from mamba_stream.operators.grid import Cumulative, Grid, Windows
from mamba_stream.plan.nodes import WindowSpec

_UTC = (None, "UTC", "Etc/UTC", "Etc/GMT", "GMT", "Zulu", "Etc/Zulu", "Universal", "UCT", "Etc/UCT")


_SHORTEST = {"d": 23, "w": 7 * 24 - 1, "mo": 28 * 24 - 1, "q": 90 * 24 - 1, "y": 365 * 24 - 1}
"""Hours of the shortest day, week, month, quarter and year."""


def windows_of(spec: WindowSpec, dtype: pl.DataType) -> Windows:
    """The windows in ticks of a time column of this type: by arithmetic where that does, else by the calendar.

    Raises:
        InvalidInput: The type cannot hold the lengths, as hours in a column of dates.
        PipelineRefused: The windows would not be those of ``dt.truncate`` in the column's time zone.
    """
    zone = getattr(dtype, "time_zone", None)
    if spec.calendar and (not spec.size or (zone not in _UTC and not _lines_up(spec.every, zone))):
        count, unit = re.fullmatch(r"(\d+)([a-z]+)", spec.calendar).groups()  # type: ignore[union-attr]
        per_day = ticks_per_day(dtype)
        offset = duration_in(spec.offset, dtype, what=f"window offset of {spec.words!r}")
        probe = max(1, int(count) * _SHORTEST[unit] * per_day // 24)
        return Calendar(spec.calendar, dtype, offset, probe, per_day)
    grid = grid_of(spec, dtype)
    return Cumulative(grid.size, grid.every, grid.origin) if spec.kind == "cumulative" else grid


def check_windows(spec: WindowSpec, dtype: pl.DataType) -> None:
    """Refuses windows that a time column cannot hold.

    Raises:
        InvalidInput: As :func:`windows_of`.
        PipelineRefused: As :func:`windows_of`.
    """
    if spec.kind == "session":
        duration_in(spec.size, dtype, what=f"gap of {spec.words!r}")
    elif spec.kind != "rows":
        windows_of(spec, dtype)


def grid_of(spec: WindowSpec, dtype: pl.DataType) -> Grid:
    """The windows in ticks of a time column of this type.

    Raises:
        InvalidInput: The type cannot hold the lengths, as hours in a column of dates.
        PipelineRefused: The windows would not be those of ``dt.truncate`` in the column's time zone.
    """
    size = duration_in(spec.size, dtype, what=f"window size {spec.words!r}")
    every = duration_in(spec.every, dtype, what=f"window step {spec.words!r}")
    origin = duration_in(spec.origin, dtype, what="window origin")
    zone = getattr(dtype, "time_zone", None)
    if zone not in _UTC and not _lines_up(spec.every if spec.kind != "cumulative" else spec.size, zone):
        raise PipelineRefused(
            f"windows of {spec.words} do not line up with local time in {zone!r}: put "
            f'.with_columns(pl.col(...).dt.convert_time_zone("UTC")) on the time column before the window'
        )
    return Grid(size, every, origin % (size if spec.kind == "cumulative" else every))


def _lines_up(step: int, zone: str) -> bool:
    """Whether windows that start so far apart start with the local time of a zone."""
    return not any(offset % step for offset in _offsets(zone))


@lru_cache(maxsize=64)
def _offsets(zone: str) -> frozenset[int]:
    """The zone's offsets from UTC since 1970, in microseconds; one a week sees every summer and winter."""
    place = ZoneInfo(zone)
    weeks = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(weeks=week) for week in range(7_000))
    offsets = {moment.astimezone(place).utcoffset() or timedelta(0) for moment in weeks}
    return frozenset(offset // timedelta(microseconds=1) for offset in offsets)
