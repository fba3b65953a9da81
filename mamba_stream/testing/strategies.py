"""Hypothesis strategies: rows of a schema, with all the values that break things, and how they may be dealt out.

Needs Hypothesis, which the extra ``testing`` brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from mamba_stream.core.schemas import polars_schema
from mamba_stream.errors import MissingExtra, UnsupportedType

try:
    import hypothesis.strategies as st
except ModuleNotFoundError as error:
    raise MissingExtra(
        "mamba_stream.testing.strategies needs Hypothesis: pip install 'mamba-stream[testing]'"
    ) from error

_START = datetime.fromisoformat("2024-01-01")
_WORDS = ("a", "b", "c", "", "A", "ä", "\u0000", "long " * 10)


def values(dtype: pl.DataType, *, nulls: bool = True) -> st.SearchStrategy[Any]:
    """Values of a type: few, so that they meet, and the odd ones among them.

    Raises:
        UnsupportedType: There is no strategy for the type.
    """
    found = _values(dtype)
    return st.none() | found if nulls else found


def frames(
    schema: Any, *, time: str | None = None, span: str = "1h", max_rows: int = 60, nulls: bool = True
) -> st.SearchStrategy[pl.DataFrame]:
    """Frames of a schema.

    Args:
        schema: As ``log.create_topic`` takes it.
        time: The time column: never null, whole seconds within ``span``, in any order and with ties.
        span: How far apart times lie at most, such as ``"1h"``.
        max_rows: How many rows at most.
        nulls: Whether other columns may have nulls.
    """
    from mamba_stream.core.durations import duration_us

    known = pl.Schema(polars_schema(schema))
    seconds = max(1, duration_us(span, what="span") // 1_000_000)
    columns = {
        name: st.integers(0, seconds).map(lambda s: _START + timedelta(seconds=s))
        if name == time
        else values(dtype, nulls=nulls)
        for name, dtype in known.items()
    }
    rows = st.lists(st.fixed_dictionaries(columns), max_size=max_rows)
    return rows.map(lambda found: pl.DataFrame(found, schema=known, orient="row"))


def partitions(schema: Any, *, most: int = 3, **options: Any) -> st.SearchStrategy[list[pl.DataFrame]]:
    """The rows of one to ``most`` partitions, each as :func:`frames` makes them."""
    return st.lists(frames(schema, **options), min_size=1, max_size=most)


def _values(dtype: pl.DataType) -> st.SearchStrategy[Any]:
    if dtype.is_integer():
        low, high = _range(dtype)
        return st.sampled_from(sorted({max(low, -1), 0, 1, 2, 7, high, low}))
    if dtype.is_float():
        return st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.1, 1e6, float("nan"), float("inf")])
    simple: Mapping[type[pl.DataType], st.SearchStrategy[Any]] = {
        pl.Boolean: st.booleans(),
        pl.String: st.sampled_from(_WORDS),
        pl.Binary: st.sampled_from([b"", b"a", b"\x00\xff"]),
        pl.Date: st.integers(0, 60).map(lambda days: date(2024, 1, 1) + timedelta(days=days)),
        pl.Duration: st.integers(-60, 60).map(lambda seconds: timedelta(seconds=seconds)),
    }
    if type(dtype) in simple:
        return simple[type(dtype)]
    if isinstance(dtype, pl.Datetime):
        return st.integers(0, 3_600).map(lambda seconds: _START + timedelta(seconds=seconds))
    raise UnsupportedType(f"no strategy makes values of {dtype}: pass your own with st.builds")


def _range(dtype: pl.DataType) -> tuple[int, int]:
    zero = pl.lit(0, dtype=dtype)
    low, high = pl.select(low=zero.lower_bound(), high=zero.upper_bound()).row(0)
    return int(low), int(high)
