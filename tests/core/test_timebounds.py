"""Bounds on time are never narrower than what a predicate lets through."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream.core.timebounds import time_bounds
from tests.sizes import examples

t, other = pl.col("t"), pl.col("other")
NOON = dt.datetime(2024, 3, 1, 12)
MICROS = 1_709_294_400_000_000
SLACK = 999


@pytest.mark.parametrize(
    ("predicate", "bounds"),
    [
        (t >= NOON, (MICROS - SLACK, None)),
        (t > NOON, (MICROS - SLACK, None)),
        (t < NOON, (None, MICROS + SLACK)),
        (t == NOON, (MICROS - SLACK, MICROS + SLACK)),
        (t.eq_missing(NOON), (MICROS - SLACK, MICROS + SLACK)),
        (pl.lit(NOON) <= t, (MICROS - SLACK, None)),
        (pl.lit(NOON) > t, (None, MICROS + SLACK)),
        (t.is_between(NOON, NOON + dt.timedelta(seconds=1)), (MICROS - SLACK, MICROS + 1_000_000 + SLACK)),
        ((t >= NOON) & (other > 1), (MICROS - SLACK, None)),
        ((t >= NOON) | (other > 1), (None, None)),
        ((t >= NOON) & (t < NOON + dt.timedelta(seconds=1)), (MICROS - SLACK, MICROS + 1_000_000 + SLACK)),
        (pl.all_horizontal(t >= NOON, other > 1), (MICROS - SLACK, None)),
        (pl.any_horizontal(t >= NOON, t == NOON), (MICROS - SLACK, None)),
        (pl.any_horizontal(t >= NOON, other > 1), (None, None)),
        (t >= dt.date(2024, 3, 1), (MICROS - 12 * 3_600_000_000, None)),
        (t >= NOON.replace(tzinfo=dt.UTC), (MICROS - SLACK, None)),
        (t != NOON, (None, None)),
        (~(t >= NOON), (None, None)),
        (t.dt.offset_by("1h") >= NOON, (None, None)),
        (other >= NOON, (None, None)),
        (t >= other, (None, None)),
        (t >= 5, (None, None)),
        (pl.lit(True), (None, None)),
        (pl.sql_expr("t >= timestamp '2024-03-01 12:00:00' and other > 1"), (MICROS - SLACK, None)),
    ],
)
def test_bounds_of_what_is_understood(predicate, bounds):
    assert time_bounds(predicate, "t") == bounds


UNITS = st.sampled_from(["ms", "us", "ns"])
literals = st.one_of(
    st.builds(lambda ticks, unit: pl.lit(ticks, dtype=pl.Datetime(unit)), st.integers(-3000, 3000), UNITS),
    st.builds(lambda ticks: pl.lit(ticks * 1000, dtype=pl.Datetime("ns")), st.integers(-3000, 3000)),
    st.builds(lambda day: pl.lit(day, dtype=pl.Date), st.integers(-1, 1)),
)
comparisons = st.one_of(
    st.builds(
        lambda how, literal, flip: getattr(literal, how)(t) if flip else getattr(t, how)(literal),
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "eq_missing"]),
        literals,
        st.booleans(),
    ),
    st.builds(
        lambda low, high, closed: t.is_between(low, high, closed=closed),
        literals,
        literals,
        st.sampled_from(["both", "left", "right", "none"]),
    ),
    st.just(other > 0),
    st.just(t.is_not_null()),
)
predicates = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds(lambda one, two: one & two, inner, inner),
        st.builds(lambda one, two: one | two, inner, inner),
        st.builds(lambda one: ~one, inner),
        st.builds(pl.all_horizontal, inner, inner),
        st.builds(pl.any_horizontal, inner, inner),
        st.builds(lambda one, two: one ^ two, inner, inner),
    ),
    max_leaves=6,
)
PER_UNIT = {"ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}


@given(
    predicate=predicates,
    unit=UNITS,
    ticks=st.lists(
        st.none() | st.integers(-4000, 4000) | st.integers(-4_000_000, 4_000_000), min_size=1, max_size=30
    ),
)
@settings(max_examples=examples(400), deadline=None)
def test_no_row_that_is_let_through_lies_outside_of_the_bounds(predicate, unit, ticks):
    rows = pl.DataFrame(
        {
            "t": pl.Series(ticks, dtype=pl.Int64).cast(pl.Datetime(unit)),
            "other": [n % 3 - 1 for n in range(len(ticks))],
        }
    )
    low, high = time_bounds(predicate, "t")
    up, down = PER_UNIT[unit]
    for (tick,) in rows.filter(predicate).select(pl.col("t").cast(pl.Int64)).iter_rows():
        if tick is None:
            continue
        assert low is None or low * down <= tick * up
        assert high is None or tick * up <= high * down


@given(predicate=predicates, days=st.lists(st.integers(-3, 3), min_size=1, max_size=10))
@settings(max_examples=examples(150), deadline=None)
def test_no_date_that_is_let_through_lies_outside_of_the_bounds(predicate, days):
    rows = pl.DataFrame({"t": pl.Series(days, dtype=pl.Int32).cast(pl.Date), "other": [1] * len(days)})
    low, high = time_bounds(predicate, "t")
    for (day,) in rows.filter(predicate).select(pl.col("t").cast(pl.Int32)).iter_rows():
        assert low is None or low <= day * 86_400_000_000
        assert high is None or day * 86_400_000_000 <= high
