"""Packed keys group and sort as the keys themselves do."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

from mamba_stream.operators import grouping
from mamba_stream.operators.folding import Fold, Folds
from mamba_stream.operators.grid import Grid
from mamba_stream.operators.grouping import Panes, combined, grouped, ordered, run_by_panes, run_of
from tests.sizes import examples

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
    monkeypatch.setattr(grouping, "_WORTH_ADDING", 0)


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


HOWS = {
    "sum": pl.Expr.sum,
    "least": pl.Expr.min,
    "greatest": pl.Expr.max,
    "count": lambda expr: expr.count().cast(pl.Int64),
}


@st.composite
def folds_over_values(draw: st.DrawFn) -> tuple[pl.DataFrame, list[str], list[pl.Expr], Folds]:
    """Rows with keys close together, and aggregates that fold, as expressions too."""
    frame, keys = draw(frames())
    height, exprs, folds = frame.height, [pl.len().cast(pl.Int64).alias("rows")], []
    folds.append(("rows", pl.Int64(), Fold("count")))
    numbers = {dtype: values for dtype, values in VALUES.items() if dtype not in (pl.String(), pl.Boolean())}
    for number in range(draw(st.integers(1, 3))):
        name, dtype = f"x{number}", draw(st.sampled_from(list(numbers)))
        values = draw(st.lists(st.none() | numbers[dtype], min_size=height, max_size=height))
        frame = frame.with_columns(pl.Series(name, values, dtype=dtype))
        how = draw(st.sampled_from(list(HOWS)))
        keep = draw(st.sampled_from([(), (pl.col("v") % 3 > 0,), (pl.col("v") > 2, pl.col("v") % 2 == 0)]))
        seen = pl.col(name).filter(*keep) if keep else pl.col(name)
        expr, fold = HOWS[how](seen).alias(f"made {number}"), Fold(how, pl.col(name), keep)
        made = frame.lazy().group_by(keys).agg(expr).collect_schema()[f"made {number}"]
        if fold.fits(made):
            exprs.append(expr)
            folds.append((f"made {number}", made, fold))
    return frame, keys, exprs, Folds(folds)


MERGED = {"count": pl.Expr.sum, "sum": pl.Expr.sum, "least": pl.Expr.min, "greatest": pl.Expr.max}


@settings(deadline=None, max_examples=examples(300), suppress_health_check=list(HealthCheck))
@given(folds_over_values(), st.integers(0, 30))
def test_folds_give_what_expressions_give(made, cut):
    whole, keys, exprs, folds = made
    frame = pl.concat([whole[:cut], whole[cut:]], rechunk=False)
    merging = [MERGED[fold.how](pl.col(name)) for name, _, fold in folds.folds]
    merged = Folds([(name, dtype, fold.over(name)) for name, dtype, fold in folds.folds])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grouping, "_CELLS_A_ROW", 100)
        expected = whole.group_by(keys).agg(exprs)
        assert_frame_equal(grouped(frame, keys, exprs, folds=folds), expected, check_row_order=False)
        run = run_of(frame, keys, exprs, folds=folds)
        assert_frame_equal(run, expected, check_row_order=False)
        assert_frame_equal(run.select(keys[0]), run.select(keys[0]).sort(keys[0]))
        both = pl.concat([part.group_by(keys).agg(exprs) for part in (frame[:cut], frame[cut:])])
        found = combined(both, keys, merging, folds=merged)
        if found is not None:
            assert_frame_equal(found, both.group_by(keys).agg(merging).sort(keys))


@pytest.mark.parametrize("nulls", [False, True])
def test_keys_that_lie_close_together_are_not_looked_up(nulls):
    """Without the expressions: it is the folds that give the groups."""
    key = pl.when(pl.col("v") % 7 != 0 if nulls else True).then(pl.col("v") % 5 - 2)
    slots = pl.when(pl.col("v") % 11 != 0 if nulls else True).then(pl.col("v") // 40 * 60_000_000 - 7)
    frame = pl.DataFrame({"v": range(100)}).with_columns(k=key, slot=slots)
    folds = Folds([("n", pl.Int64(), Fold("count")), ("s", pl.Int64(), Fold("sum", pl.col("v")))])
    expected = (
        frame.group_by("slot", "k").agg(n=pl.len().cast(pl.Int64), s=pl.col("v").sum()).sort("slot", "k")
    )
    assert_frame_equal(run_of(frame, ["slot", "k"], [], folds=folds, steps={"slot": 60_000_000}), expected)
    far_apart = run_of(
        frame, ["slot", "k"], [pl.len().alias("n").cast(pl.Int64), pl.col("v").sum().alias("s")], folds=folds
    )
    assert_frame_equal(far_apart, expected)


@pytest.mark.parametrize("dtype", [pl.Float32(), pl.Float64()])
@pytest.mark.parametrize("how", ["least", "greatest"])
def test_nan_is_the_last_resort_unless_it_is_asked_for(how, dtype):
    nan, inf = float("nan"), float("inf")
    values = [
        [1.0, nan],
        [nan, nan],
        [inf, nan],
        [-inf, nan],
        [None, nan],
        [None, None],
        [-0.0, 2.5],
        [inf, -inf],
    ]
    frame = pl.DataFrame({"k": range(len(values)), "x": pl.Series(values, dtype=pl.List(dtype))}).explode("x")
    for nans in (False, True):
        name = ("nan_" if nans else "") + ("min" if how == "least" else "max")
        expr = getattr(pl.col("x"), name)()
        found = run_of(frame, ["k"], [], folds=Folds([("x", dtype, Fold(how, pl.col("x"), nans=nans))]))
        assert_frame_equal(found, frame.group_by("k").agg(expr).sort("k"))


def test_a_row_in_a_chunk_of_its_own_is_computed_as_among_others():
    """Polars divides a single row by 49 otherwise than many: 49 / 49 is 1 then, and less among others."""
    frame = pl.DataFrame({"k": [0, 1, 0], "x": [98, 49, 49]})
    chunked = pl.concat([frame[:1], frame[1:2], frame[2:]], rechunk=False)
    expr = (pl.col("x") / 49).floor()
    folds = Folds([("s", pl.Float64(), Fold("sum", expr))])
    expected = frame.group_by("k").agg(s=expr.sum()).sort("k")
    assert_frame_equal(run_of(chunked, ["k"], [], folds=folds), expected)
    far_apart = run_of(
        chunked.with_columns(k=pl.col("k") * 10**6), ["k"], [expr.sum().alias("s")], folds=folds
    )
    assert_frame_equal(far_apart.select("s"), expected.select("s"))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(
    folds_over_values(),
    st.integers(-50, 50),
    st.sampled_from([(1, 0), (7, 0), (10, 3), (60, 59)]),
    st.sampled_from([0, 1, -13]),
    st.lists(st.integers(-40, 40), min_size=30, max_size=30),
)
def test_panes_made_of_times_are_those_of_a_column_of_panes(made, first, grid, shift, times):
    frame, keys, exprs, folds = made
    step, origin = grid
    frame = frame.with_columns(
        pl.Series("at", [first + time for time in times[: frame.height]]).cast(pl.Datetime("ms"))
    )
    ticks = pl.col("at").cast(pl.Int64) + shift
    slots = frame.with_columns(Grid(step, step, origin).pane_of(ticks).alias("slot"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grouping, "_CELLS_A_ROW", 1_000)
        found = run_by_panes(frame, Panes("slot", "at", shift, origin, step), keys, folds)
    if found is not None:
        assert_frame_equal(found, run_of(slots, ["slot", *keys], exprs), check_row_order=False)
        assert found.get_column("slot").is_sorted()


def test_panes_are_made_of_times_alone_too_but_not_of_times_at_the_end_of_all_time():
    folds = Folds([("n", pl.Int64(), Fold("count"))])
    panes = Panes("slot", "at", 0, 0, 10)
    found = run_by_panes(pl.DataFrame({"at": [-1, 5, 12, 9]}), panes, [], folds)
    assert found.rows() == [(-10, 1), (0, 2), (10, 1)]
    for beyond in ((1 << 63) - 1, -(1 << 63)):
        assert run_by_panes(pl.DataFrame({"at": [beyond] * 4}), panes, [], folds) is None
    assert run_by_panes(pl.DataFrame({"at": [1, None, 2, 3]}), panes, [], folds) is None
