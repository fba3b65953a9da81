"""Packed keys group and sort as the keys themselves do."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

from mamba_stream.operators import grouping
from mamba_stream.operators.grouping import combined, grouped, ordered, run_of

VALUES = {
    pl.Int8(): st.integers(-128, 127),
    pl.Int64(): st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3),
    pl.UInt64(): st.integers(0, (1 << 64) - 1) | st.integers(0, 3),
    pl.UInt8(): st.integers(0, 255),
    pl.Boolean(): st.booleans(),
    pl.Date(): st.dates(date(1800, 1, 1), date(2200, 1, 1)),
    pl.Datetime("us"): st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    pl.Duration("ms"): st.integers(-5, 5).map(lambda n: timedelta(seconds=n)),
    pl.String(): st.sampled_from(["a", "b", ""]),
    pl.Float64(): st.sampled_from([0.0, -1.5, float("nan"), float("inf")]),
}


@st.composite
def frames(draw: st.DrawFn) -> tuple[pl.DataFrame, list[str]]:
    dtypes = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3))
    height = draw(st.integers(0, 30))
    columns = {}
    for number, dtype in enumerate(dtypes):
        pool = draw(st.lists(st.none() | VALUES[dtype], min_size=1, max_size=4))
        values = draw(st.lists(st.sampled_from(pool), min_size=height, max_size=height))
        columns[f"k{number}"] = pl.Series(values, dtype=dtype)
    keys = list(columns)
    return pl.DataFrame({**columns, "v": pl.Series(range(height), dtype=pl.Int64)}), keys


@pytest.fixture(autouse=True)
def every_frame_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_WORTH_IT", 0)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames())
def test_grouping_gives_what_polars_gives(made):
    frame, keys = made
    exprs = [pl.len().alias("n"), pl.col("v").sum()]
    found = grouped(frame, keys, exprs)
    expected = frame.group_by(keys).agg(exprs)
    assert found.schema == expected.schema
    assert_frame_equal(found, expected, check_row_order=False)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames())
def test_sorting_gives_what_polars_gives(made):
    frame, keys = made
    assert_frame_equal(ordered(frame, keys).select(keys), frame.sort(keys).select(keys))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames())
def test_runs_are_groups_sorted_by_the_first_key(made):
    frame, keys = made
    exprs = [pl.len().alias("n"), pl.col("v").sum()]
    found = run_of(frame, keys, exprs)
    assert_frame_equal(found, frame.group_by(keys).agg(exprs), check_row_order=False)
    assert_frame_equal(found.select(keys[0]), found.select(keys[0]).sort(keys[0]))


@pytest.mark.parametrize("company", [0.0, 0.25, 1.0])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames())
def test_what_is_combined_is_what_is_grouped_and_sorted(company, made):
    frame, keys = made
    exprs = [pl.col("v").sum(), pl.col("w").min()]
    frame = frame.with_columns(w=pl.col("v") - 7, unused=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grouping, "_COMPANY", company)
        found = combined(frame, keys, exprs)
    if found is not None:
        assert_frame_equal(found, frame.group_by(keys).agg(exprs).sort(keys))


def test_runs_that_lie_one_behind_the_other_are_combined():
    runs = [pl.DataFrame({"a": range(first, first + 90, 3), "v": range(30)}) for first in (5, 2, 61)]
    frame = pl.concat(runs).with_columns(b=pl.col("a") % 2)
    found = combined(frame, ["b", "a"], [pl.col("v").sum()])
    assert found is not None
    assert_frame_equal(found, frame.group_by("b", "a").agg(pl.col("v").sum()).sort("b", "a"))


def test_many_rows_are_grouped_alike():
    frame = pl.DataFrame({"a": range(100_000), "b": [True, None, False, None] * 25_000}).with_columns(
        pl.col("a") % 77
    )
    exprs = [pl.len().alias("n"), pl.col("a").sum().alias("s")]
    assert_frame_equal(
        grouped(frame, ["a", "b"], exprs), frame.group_by("a", "b").agg(exprs), check_row_order=False
    )
