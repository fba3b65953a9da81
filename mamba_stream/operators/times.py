"""Ticks back into the types of time columns."""

from __future__ import annotations

import polars as pl


def as_time(physical: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Ticks as a time column of this type."""
    return physical.cast(pl.Int32).cast(dtype) if dtype == pl.Date else physical.cast(dtype)


def as_duration(physical: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Ticks between times of this type as a duration."""
    return (physical * 86_400_000 if dtype == pl.Date else physical).cast(duration_type(dtype))


def duration_type(dtype: pl.DataType) -> pl.Duration:
    """The type of differences of a time type."""
    return pl.Duration(dtype.time_unit) if isinstance(dtype, pl.Datetime) else pl.Duration("ms")
