"""From windows as users describe them to ticks of a time column, aligned as Polars' ``dt.truncate`` aligns.

Truncation in Polars goes by local time. In UTC and without a zone that is arithmetic on the column's integers; in
another zone it is the same only where the zone's offsets are whole multiples of the step.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import polars as pl

from mamba_stream.core.durations import duration_in
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.grid import Grid
from mamba_stream.plan.nodes import WindowSpec

_UTC = (None, "UTC", "Etc/UTC", "Etc/GMT", "GMT", "Zulu", "Etc/Zulu", "Universal", "UCT", "Etc/UCT")


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
    if zone not in _UTC and any(offset % spec.every for offset in _offsets(zone)):
        raise PipelineRefused(
            f"windows of {spec.words} do not line up with local time in {zone!r}: put "
            f'.with_columns(pl.col(...).dt.convert_time_zone("UTC")) on the time column before the window'
        )
    return Grid(size, every, origin % every)


@lru_cache(maxsize=64)
def _offsets(zone: str) -> frozenset[int]:
    """The zone's offsets from UTC since 1970, in microseconds; one a week sees every summer and winter."""
    place = ZoneInfo(zone)
    weeks = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(weeks=week) for week in range(7_000))
    offsets = {moment.astimezone(place).utcoffset() or timedelta(0) for moment in weeks}
    return frozenset(offset // timedelta(microseconds=1) for offset in offsets)
