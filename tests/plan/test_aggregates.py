"""Splitting aggregations gives what Polars gives over all rows, however rows are cut and results are merged."""

from __future__ import annotations

import datetime as dt
import math
import statistics
import warnings
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import msgpack
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from polars.testing import assert_series_equal

from mamba_stream.core.batches import batch_from_frame, frame_from_batch
from mamba_stream.core.trees import columns
from mamba_stream.errors import ColumnNotFound, ExpressionRefused
from mamba_stream.operators import grouping
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.grouping import run_of
from mamba_stream.plan.aggregates import AggregatePlan, split
from mamba_stream.plan.partials import ROWS
from tests.sizes import examples

ORDER = ("_time", "_source", "_partition", "_offset")
EPOCH = dt.datetime(2024, 3, 1)
INF, NAN = float("inf"), float("nan")


c = pl.col


def maybe(values):
    return st.none() | values


#: For every column its type and its values. Floats are such that their sums are exact: what is compared is the
#: splitting, not the rounding, which has tests of its own.
COLUMNS = {
    "i8": (pl.Int8(), maybe(st.integers(-128, 127))),
    "i16": (pl.Int16(), maybe(st.integers(-(2**15), 2**15 - 1))),
    "i32": (pl.Int32(), maybe(st.integers(-(2**31), 2**31 - 1) | st.integers(-3, 3))),
    "i64": (pl.Int64(), maybe(st.integers(-(2**40), 2**40) | st.integers(-3, 3))),
    "u8": (pl.UInt8(), maybe(st.integers(0, 255))),
    "u32": (pl.UInt32(), maybe(st.integers(0, 2**32 - 1))),
    "big": (pl.Int64(), maybe(st.integers(-(2**63), 2**63 - 1))),
    "u64": (pl.UInt64(), maybe(st.integers(0, 2**64 - 1))),
    "f32": (
        pl.Float32(),
        maybe(st.integers(-4000, 4000).map(lambda n: n / 4) | st.sampled_from([NAN, INF, -INF, -0.0])),
    ),
    "f64": (
        pl.Float64(),
        maybe(st.integers(-4000, 4000).map(lambda n: n / 4) | st.sampled_from([NAN, INF, -INF, -0.0])),
    ),
    "plain": (pl.Float64(), st.integers(-4000, 4000).map(lambda n: n / 4)),
    "dec": (pl.Decimal(12, 2), maybe(st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 100))),
    "flag": (pl.Boolean(), maybe(st.booleans())),
    "text": (pl.String(), maybe(st.text("abé\x00", max_size=3))),
    "raw": (pl.Binary(), maybe(st.binary(max_size=2))),
    "day": (
        pl.Date(),
        maybe(st.integers(-5, 40000).map(lambda n: dt.date(1970, 1, 1) + dt.timedelta(days=n))),
    ),
    "at": (
        pl.Datetime("us"),
        maybe(st.integers(-(10**9), 10**15).map(lambda n: EPOCH + dt.timedelta(microseconds=n // 10**3))),
    ),
    "zoned": (
        pl.Datetime("ms", "Europe/Berlin"),
        maybe(st.integers(0, 10**6).map(lambda n: (EPOCH + dt.timedelta(seconds=n)).replace(tzinfo=dt.UTC))),
    ),
    "span": (
        pl.Duration("us"),
        maybe(st.integers(-(10**12), 10**12).map(lambda n: dt.timedelta(microseconds=n))),
    ),
    "clock": (pl.Time(), maybe(st.times())),
}
SCHEMA = pl.Schema({"key": pl.Int16(), **{name: dtype for name, (dtype, _) in COLUMNS.items()}})
NUMBERS = ["i8", "i16", "i32", "i64", "u8", "u32", "f32", "f64", "plain", "dec"]
WIDE = ["big", "u64"]
OTHERS = ["flag", "text", "raw", "day", "at", "zoned", "span", "clock"]


# --- a grammar of aggregations ----------------------------------------------------------------------------------

numeric_columns = st.sampled_from(NUMBERS).map(pl.col)
conditions = st.one_of(
    st.just(pl.col("flag")),
    st.sampled_from(NUMBERS).map(lambda name: pl.col(name) > 0),
    st.sampled_from(NUMBERS + OTHERS).map(lambda name: pl.col(name).is_not_null()),
    st.sampled_from(NUMBERS).map(lambda name: pl.col(name).is_in([0, 1, 2])),
    st.just(pl.col("text").str.contains("a")),
    st.just(pl.col("i8").cast(pl.Int64) > pl.col("i16")),
    st.just(pl.lit(True) & pl.col("flag").fill_null(False)),
)
numbers = st.one_of(
    numeric_columns,
    numeric_columns.map(lambda one: one.cast(pl.Float64) * 2 + 1),
    numeric_columns.map(lambda one: one.fill_null(0)),
    numeric_columns.map(lambda one: one.abs()),
    st.builds(lambda when, one: pl.when(when).then(one), conditions, numeric_columns),
    st.builds(
        lambda one, other: one.cast(pl.Float64) + other.cast(pl.Float64), numeric_columns, numeric_columns
    ),
    st.just(pl.col("text").str.len_chars()),
    st.just(pl.col("span").dt.total_milliseconds()),
)
anything = st.one_of(numbers, st.sampled_from([*NUMBERS, *WIDE, *OTHERS]).map(pl.col))


def filtered(values):
    return st.one_of(
        values,
        values,
        st.builds(lambda one, when: one.filter(when), values, conditions),
        values.map(lambda one: one.drop_nulls()),
        st.builds(lambda one, when: one.filter(when).drop_nulls(), values, conditions),
    )


def quantile(one, fraction, method):
    return one.quantile(fraction, interpolation=method)


single_values = st.one_of(
    st.just(pl.len()),
    *(
        filtered(numbers).map(lambda one, name=name: getattr(one, name)())
        for name in ("sum", "mean", "median", "min", "max", "nan_min", "n_unique")
    ),
    st.builds(lambda one, ddof: one.var(ddof=ddof), filtered(numbers), st.integers(0, 2)),
    st.builds(lambda one, ddof: one.std(ddof=ddof), filtered(numbers), st.integers(0, 2)),
    st.builds(
        quantile,
        filtered(numbers),
        st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0]),
        st.sampled_from(["nearest", "higher", "lower", "midpoint", "linear"]),
    ),
    st.builds(
        lambda name, how: getattr(pl.col(name), how)(),
        st.sampled_from(["i8", "i32", *WIDE]),
        st.sampled_from(["sum", "min", "max", "product", "bitwise_and", "bitwise_or", "bitwise_xor"]),
    ),
    *(
        filtered(anything).map(lambda one, name=name: getattr(one, name)())
        for name in ("first", "last", "count", "len", "null_count", "n_unique", "min", "max", "has_nulls")
    ),
    filtered(anything).map(lambda one: one.first(ignore_nulls=True)),
    st.sampled_from([c("f32"), c("f64")]).map(lambda one: one.drop_nans().first()),
    st.sampled_from([c("f32"), c("f64")]).map(
        lambda one: one.filter(c("flag")).drop_nulls().drop_nans().last()
    ),
    filtered(anything).map(lambda one: one.last(ignore_nulls=True)),
    st.builds(lambda one, ignore: one.any(ignore_nulls=ignore), filtered(conditions), st.booleans()),
    st.builds(lambda one, ignore: one.all(ignore_nulls=ignore), filtered(conditions), st.booleans()),
    st.sampled_from([pl.col("flag"), pl.col("span")]).map(lambda one: one.sum()),
    st.sampled_from([pl.col("flag"), pl.col("span"), pl.col("at"), pl.col("day"), pl.col("clock")]).map(
        lambda one: one.mean()
    ),
    st.sampled_from([pl.col("span"), pl.col("at"), pl.col("day"), pl.col("zoned")]).map(
        lambda one: one.median()
    ),
    # These keep rows.
    st.just((pl.col("plain") - pl.col("plain").mean()).abs().sum()),
    numbers.map(lambda one: one.sort().first()),
    anything.map(lambda one: one.unique(maintain_order=True).len()),
    st.just(pl.col("text").max_by("i32")),
    st.just(pl.col("i32").mode(maintain_order=True).first()),
    st.just(pl.col("i32").implode()),
    st.just(pl.col("i32")),
    st.just(pl.col("plain").diff().sum()),
    st.just(pl.struct("i8", "text").first()),
)
some_numbers = st.one_of(
    st.just(pl.len()),
    numbers.map(lambda one: one.sum()),
    numbers.map(lambda one: one.mean()),
    numbers.map(lambda one: one.max()),
    numbers.map(lambda one: one.first()),
    numbers.map(lambda one: one.std()),
    numbers.map(lambda one: one.n_unique()),
    st.just(pl.lit(2)),
    st.just(pl.lit(0.5)),
)
aggregations = st.one_of(
    single_values,
    single_values,
    st.builds(
        lambda one, other, how: getattr(one.cast(pl.Float64), how)(other.cast(pl.Float64)),
        some_numbers,
        some_numbers,
        st.sampled_from(["add", "sub", "mul", "truediv"]),
    ),
    st.builds(lambda one, other: one + other, some_numbers, some_numbers),
    st.builds(
        lambda one, when, other: pl.when(when.count() > 2).then(one).otherwise(other.cast(pl.Float64)),
        some_numbers,
        anything,
        some_numbers,
    ),
    st.builds(
        lambda one, other: pl.coalesce(one.mean(), other.max().cast(pl.Float64), 0.0), numbers, numbers
    ),
    some_numbers.map(lambda one: one.fill_null(0).cast(pl.Float64).round(1)),
    st.just((pl.col("at").max() - pl.col("at").min()).dt.total_seconds()),
    st.just(pl.col("at").max().dt.hour()),
    st.just(pl.col("text").first().str.to_uppercase()),
    st.just(pl.col("text").max() + pl.col("text").min()),
    st.just(pl.lit(7)),
    st.just(pl.lit(None)),
    st.just(pl.sum_horizontal(pl.col("i64").sum(), pl.col("i8").sum())),
    st.just(pl.struct(pl.col("i8").sum(), pl.len())),
)


# --- evaluating a plan ------------------------------------------------------------------------------------------


def grouped(frame: pl.DataFrame, *exprs: pl.Expr, **named: pl.Expr) -> pl.DataFrame:
    """A group_by over rows in their order, where a single row is grouped beside a twin.

    A frame of one row is not like others (see the note in plan/rowwise.py). Besides, Polars gives 0.0 as the
    variance (ddof=0) of one null, after a sort by several columns, and null everywhere else.
    """
    if frame.height != 1:
        return frame.group_by("key", maintain_order=True).agg(*exprs, **named)
    twins = pl.DataFrame([column.new_from_index(0, 2) for column in frame.get_columns()])
    twins = twins.with_columns(pl.Series("_twin", [0, 1]))
    both = twins.group_by("key", "_twin", maintain_order=True).agg(*exprs, **named)
    return both.filter(pl.col("_twin") == 0).drop("_twin")


def stored(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame after a round trip through what the log stores."""
    back = frame_from_batch(batch_from_frame(frame))
    assert back.schema == frame.schema
    return back


def evaluated(
    plan: AggregatePlan, batches: list[pl.DataFrame], merges: list[tuple[int, int]]
) -> pl.DataFrame:
    """What the plan gives for batches whose partial results are merged in the order given, then all of them."""
    partials = [stored(grouped(batch, *plan.partial_exprs)) for batch in batches if batch.height]
    for frame in partials:
        assert dict(frame.drop("key").schema) == dict(plan.partial_schema)
    for first, second in merges:
        if len(partials) > 2:
            pair = [partials.pop(first % len(partials)), partials.pop(second % len(partials))]
            partials.append(stored(pl.concat(pair).group_by("key").agg(plan.merge_exprs)))
    merged = partials[0] if len(partials) == 1 else pl.concat(partials).group_by("key").agg(plan.merge_exprs)
    result = merged.select("key", **plan.final_exprs)
    if plan.kept:
        rows = pl.concat(batches).sort(ORDER).select("key", *plan.kept_columns)
        kept = grouped(rows, **plan.kept)
        result = result.join(kept, on="key", nulls_equal=True, validate="1:1")
    return result.select("key", *plan.output_schema.names()).sort("key")


def expected(named: dict[str, pl.Expr], rows: pl.DataFrame) -> pl.DataFrame:
    return grouped(rows.sort(ORDER).drop(ORDER), **named).sort("key")


def assert_same(have: pl.DataFrame, want: pl.DataFrame) -> None:
    assert have.schema == want.schema
    for name, dtype in want.schema.items():
        tolerance = 1e-5 if dtype == pl.Float32 else 1e-9
        if dtype.is_float():
            assert_series_equal(have[name], want[name], rel_tol=tolerance, abs_tol=tolerance)
        else:
            assert_series_equal(have[name], want[name], check_exact=True)


@st.composite
def rows_of(draw, names, most=24):
    """Rows with the named columns, keys and an order, shuffled."""
    count = draw(st.integers(1, most))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    frame = {"key": pl.Series(column(maybe(st.integers(0, 2))), dtype=pl.Int16)}
    for name in SCHEMA:
        if name in names:
            dtype, values = COLUMNS[name]
            frame[name] = pl.Series(column(values), dtype=dtype)
    frame["_time"] = pl.Series(
        [EPOCH + dt.timedelta(seconds=n) for n in column(st.integers(0, 3))], dtype=pl.Datetime("us")
    )
    frame["_source"] = pl.Series(column(st.integers(0, 1)), dtype=pl.Int32)
    frame["_partition"] = pl.Series(column(st.integers(0, 1)), dtype=pl.Int32)
    frame["_offset"] = pl.Series(draw(st.permutations(range(count))), dtype=pl.Int64)
    return pl.DataFrame(frame)


def cut(rows: pl.DataFrame, at: list[int]) -> list[pl.DataFrame]:
    ends = [0, *sorted(min(end, rows.height) for end in at), rows.height]
    return [rows[start:end] for start, end in pairwise(ends)]


merge_orders = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)
cuts = st.lists(st.integers(0, 24), max_size=6)


@given(data=st.data(), exprs=st.lists(aggregations, min_size=1, max_size=4), at=cuts, merges=merge_orders)
@settings(
    max_examples=examples(250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_cut_and_any_merge_gives_what_polars_gives_over_all_rows(data, exprs, at, merges):
    named = {f"out{n}": expr for n, expr in enumerate(exprs)}
    used = set().union(*(columns(expr) for expr in exprs))
    rows = data.draw(rows_of(used))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            want = expected(named, rows)
        except pl.exceptions.PolarsError:
            assume(False)
        plan = split(named, rows.schema, ORDER)
        assert_same(evaluated(plan, cut(rows, at), merges), want)


@given(data=st.data(), exprs=st.lists(aggregations, min_size=1, max_size=2))
@settings(
    max_examples=examples(250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_folds_give_the_partial_results_that_expressions_give(data, exprs):
    named = {f"out{n}": expr for n, expr in enumerate(exprs)}
    rows = data.draw(rows_of(set().union(*(columns(expr) for expr in exprs))))
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore", DeprecationWarning)
        patched.setattr(grouping, "_WORTH_IT", 0)
        patched.setattr(grouping, "_CELLS_A_ROW", 100)
        try:
            expected(named, rows)
        except pl.exceptions.PolarsError:
            assume(False)
        plan = split(named, rows.schema, ORDER)
        assume(plan.partial_folds is not None)
        # A single row is computed as two.
        rows = pl.concat([rows, rows])
        have = run_of(rows, ["key"], [], folds=plan.partial_folds)
        assert_same(have, grouped(rows, *plan.partial_exprs).sort("key"))
        several = pl.concat([have, have])
        merged = run_of(several, ["key"], [], folds=plan.merge_folds)
        assert_same(merged, grouped(several, *plan.merge_exprs).sort("key"))


@pytest.mark.parametrize(
    "expr",
    [
        c("f64").sum(),
        c("i64").mean(),
        c("f32").filter(c("flag")).max(),
        c("u64").min(),
        c("i8").sum() + c("plain").drop_nans().max(),
        c("text").count(),
        pl.len(),
        c("flag").filter(c("i64") > 3).len(),
    ],
)
def test_counts_sums_and_extremes_fold(expr):
    plan = split({"out": expr}, SCHEMA, ORDER)
    assert plan.partial_folds is not None
    assert plan.merge_folds is not None


@pytest.mark.parametrize("name", ["i8", "u64", "f32", "day", "at", "zoned", "span", "clock"])
def test_folded_extremes_of_a_group_of_nulls_are_null(monkeypatch, name):
    monkeypatch.setattr(grouping, "_WORTH_IT", 0)
    monkeypatch.setattr(grouping, "_CELLS_A_ROW", 100)
    plan = split({"least": c(name).min(), "most": c(name).max()}, SCHEMA, ORDER)
    assert plan.partial_folds is not None
    none, some = [None, None], pl.Series([1, 2]).cast(pl.Int32).cast(SCHEMA[name])
    rows = pl.DataFrame({"key": [0, 0, 1, 1], name: pl.Series([*none, *some], dtype=SCHEMA[name])})
    have = run_of(rows, ["key"], [], folds=plan.partial_folds)
    assert_same(have, grouped(rows, *plan.partial_exprs).sort("key"))
    assert have.row(0)[1:].count(None) >= 2


@pytest.mark.parametrize(
    "expr", [c("f64").var(), c("i64").quantile(0.5), c("text").max(), c("dec").sum(), c("i64").first()]
)
def test_other_partials_do_not_fold(expr):
    assert split({"out": expr}, SCHEMA, ORDER).partial_folds is None


# --- what splits, and what it shares ----------------------------------------------------------------------------


def kind(expr: pl.Expr) -> str:
    return split({"out": expr}, SCHEMA, ORDER).describe()["out"]


WIDTHS = ["i8", "i16", "i32", "i64", "u8", "u32", "u64", "f32", "f64", "dec"]


@pytest.mark.parametrize(
    "expr",
    [
        pl.len(),
        pl.len() * 2 + 1,
        *(
            getattr(c(name), how)()
            for name in WIDTHS
            for how in ("sum", "mean", "min", "max", "var", "std", "first")
        ),
        c("flag").any(),
        c("flag").all(ignore_nulls=False),
        c("flag").sum(),
        c("flag").mean(),
        (c("i8") > 3).sum() / pl.len(),
        c("span").sum(),
        c("span").mean(),
        c("text").min(),
        c("text").last(ignore_nulls=True),
        c("at").max().dt.truncate("1h"),
        (c("at").max() - c("at").min()).dt.total_minutes(),
        c("f64").filter(c("flag")).mean(),
        c("f64").drop_nulls().drop_nans().mean(),
        c("f64").drop_nulls().len(),
        (c("f64") * c("i8")).sum() / c("i8").sum(),
        pl.when(c("i8").count() > 0).then(c("f64").mean()).otherwise(None),
        pl.coalesce(c("f64").mean(), 0.0).round(2),
        c("i8").sum().cast(pl.Float32).clip(0, 10),
        c("i64").null_count() > 0,
        c("i8").product(),
        c("i8").sum().alias("other"),
        c("i8").sum().name.suffix("_sum"),
        pl.lit("same"),
    ],
    ids=str,
)
def test_what_decomposes_needs_no_rows(expr):
    plan = split({"out": expr}, SCHEMA, ORDER)
    assert plan.describe() == {"out": "partial"}
    assert not plan.kept and not plan.kept_columns
    assert not any(isinstance(dtype, pl.List) for dtype in plan.partial_schema.values())


@pytest.mark.parametrize(
    "expr",
    [
        c("f64").median(),
        c("i8").quantile(0.9),
        c("text").n_unique(),
        c("at").median(),
        c("f64").n_unique() / pl.len(),
    ],
    ids=str,
)
def test_quantiles_and_distinct_counts_hold_values(expr):
    assert kind(expr) == "partial holding values"


@pytest.mark.parametrize(
    "expr",
    [
        c("i8"),
        c("i8").implode(),
        c("i8").sort().first(),
        c("i8").mode(maintain_order=True).first(),
        (c("i8") - c("i8").mean()).sum(),
        c("i8").filter(c("i8") > c("i8").mean()).sum(),
        c("i8").cum_sum().max(),
        c("i8").sum() + c("i8"),
        c("at").mean(),
        c("day").mean(),
        c("f64").product(),
        c("text").max_by("i8"),
        pl.corr("i8", "f64"),
        c("f64").skew(),
        pl.struct("i8", "text").first(),
        pl.struct(c("i8").sum()),
        pl.sum_horizontal(pl.col("i8", "i16")).sum(),
        pl.lit([1, 2]),
        c("text").hash().max(),
        pl.lit(1).sum(),
        (c("i8").filter(c("flag")) + c("i16").filter(c("flag"))).sum(),
        c("f64").quantile(c("f64").min() - c("f64").min()),
    ],
    ids=str,
)
def test_what_does_not_decompose_keeps_its_rows(expr):
    assert kind(expr) == "keeps rows"


def test_kept_columns_are_those_that_kept_aggregations_read():
    plan = split(
        {"total": c("i64").sum(), "top": c("text").max_by("i8"), "spread": c("f64").skew()}, SCHEMA, ORDER
    )
    assert plan.kept_columns == ("i8", "f64", "text")
    assert list(plan.kept) == ["top", "spread"] and list(plan.final_exprs) == ["total"]
    assert plan.layout["kept"] == {"i8": "Int8", "f64": "Float64", "text": "String"}


def test_a_selector_keeps_every_column_that_it_may_pick_but_none_of_the_order():
    schema = pl.Schema(
        {
            **SCHEMA,
            "_time": pl.Datetime("us"),
            "_source": pl.Int32(),
            "_partition": pl.Int32(),
            "_offset": pl.Int64(),
        }
    )
    plan = split({"rows": pl.struct(pl.all()).n_unique()}, schema, ORDER)
    assert plan.kept_columns == tuple(SCHEMA)


def test_equal_partials_are_shared():
    plan = split(
        {"sum": c("f64").sum(), "mean": c("f64").mean(), "std": c("f64").std(), "n": c("f64").count()},
        SCHEMA,
        ORDER,
    )
    kinds = sorted(name.removeprefix(PREFIX).split("_")[0] for name in plan.partial_schema)
    assert kinds == ["count", "rows", "sum", "variance"]


def test_one_list_of_values_serves_all_quantiles():
    plan = split({"p50": c("f64").median(), "p95": c("f64").quantile(0.95)}, SCHEMA, ORDER)
    assert [name.removeprefix(PREFIX).split("_")[0] for name in plan.partial_schema] == ["rows", "values"]


def test_the_firsts_of_several_columns_are_looked_for_once():
    plan = split({name: c(name).first() for name in ("i8", "f64", "text")}, SCHEMA, ORDER)
    assert [name.removeprefix(PREFIX).split("_")[0] for name in plan.partial_schema] == ["rows", "first"]
    assert plan.needs_order


def test_only_ends_need_the_order():
    assert not split({"n": pl.len(), "mean": c("f64").mean()}, SCHEMA, ORDER).needs_order


def test_every_plan_counts_rows():
    assert list(split({}, SCHEMA, ORDER).partial_schema.items()) == [(ROWS, pl.Int64())]
    assert ROWS in split({"top": c("text").max_by("i8")}, SCHEMA, ORDER).partial_schema


def test_the_layout_says_when_state_no_longer_fits():
    def layout(**named):
        return split(named, SCHEMA, ORDER).layout

    same = layout(mean=c("f64").mean(), n=pl.len())
    assert layout(renamed=c("f64").mean(), half=pl.len() / 2) == same, "state is the same under other names"
    assert layout(mean=c("f32").mean(), n=pl.len()) != same
    assert layout(mean=c("f64").filter(c("flag")).mean(), n=pl.len()) != same
    assert layout(mean=c("f64").mean(), top=c("text").max_by("i8")) != same
    assert layout(first=c("f64").clip(float("nan"), 1).first()) != layout(
        first=c("f64").clip(float("inf"), 1).first()
    )
    assert msgpack.unpackb(msgpack.packb(same)) == same


# --- exactness where rounding, overflow and emptiness show ------------------------------------------------------


def over_batches(expr: pl.Expr, values: list, dtype: pl.DataType, at: list[int]):
    rows = pl.DataFrame(
        {"key": pl.Series([1] * len(values), dtype=pl.Int16), "x": pl.Series(values, dtype=dtype)}
    ).with_columns(pl.lit(EPOCH).alias("_time"), _source=0, _partition=0, _offset=pl.int_range(pl.len()))
    plan = split({"out": expr}, rows.schema, ORDER)
    assert not plan.kept
    return evaluated(plan, cut(rows, at), [(0, 1), (2, 1), (0, 0)])["out"].item()


floats = st.floats(-1e6, 1e6) | st.floats(1e9, 1e9 + 1) | st.floats(-1e-6, 1e-6)


@given(values=st.lists(floats, min_size=2, max_size=30), at=st.lists(st.integers(0, 30), max_size=5))
@settings(max_examples=examples(150), deadline=None)
def test_sums_means_and_variances_of_floats_agree_with_exact_arithmetic(values, at):
    scale = math.fsum(abs(value) for value in values)
    assert over_batches(c("x").sum(), values, pl.Float64(), at) == pytest.approx(
        math.fsum(values), abs=1e-12 * scale
    )
    mean = math.fsum(values) / len(values)
    assert over_batches(c("x").mean(), values, pl.Float64(), at) == pytest.approx(mean, abs=1e-12 * scale)
    exact = float(statistics.variance([Fraction(value) for value in values]))
    assert over_batches(c("x").var(), values, pl.Float64(), at) == pytest.approx(
        exact, rel=1e-9, abs=1e-22 * scale**2
    )


@given(noise=st.lists(st.floats(-1, 1), min_size=2, max_size=30), at=st.lists(st.integers(0, 30), max_size=5))
@settings(max_examples=examples(50), deadline=None)
def test_a_small_variance_far_from_zero_survives_merging(noise, at):
    values = [1e8 + value for value in noise]
    exact = float(statistics.variance([Fraction(value) for value in values]))
    # The mean is off by an ulp, 1e-8 here; from a sum of squares the error would be 1.
    tolerance = 1e-7 * math.sqrt(exact) + 1e-14
    assert over_batches(c("x").var(), values, pl.Float64(), at) == pytest.approx(exact, abs=tolerance)


@pytest.mark.parametrize(
    "dtype",
    [pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64()],
)
def test_integer_sums_wrap_around_as_in_polars(dtype):
    high = pl.select(dtype.max()).item()
    values = [high, high, 3, None, high, 1]
    want = pl.DataFrame({"k": [1] * 6, "x": pl.Series(values, dtype=dtype)}).group_by("k").agg(c("x").sum())
    for at in ([], [1], [2, 4], [1, 2, 3, 4, 5]):
        assert over_batches(c("x").sum(), values, dtype, at) == want["x"].item()


@pytest.mark.parametrize(
    ("expr", "want"),
    [
        (c("x").filter(c("x") > 100).sum(), 0),
        (c("x").filter(c("x") > 100).mean(), None),
        (c("x").filter(c("x") > 100).min(), None),
        (c("x").filter(c("x") > 100).first(), None),
        (c("x").filter(c("x") > 100).len(), 0),
        (c("x").filter(c("x") > 100).n_unique(), 0),
        (c("x").filter(c("x") > 100).median(), None),
        (c("x").filter(c("x") > 100).std(), None),
        ((c("x") > 0).filter(c("x") > 100).any(), False),
        ((c("x") > 0).filter(c("x") > 100).all(), True),
        (c("x").first(), None),
        (c("x").first(ignore_nulls=True), 5),
        (c("x").last(), None),
        (c("x").last(ignore_nulls=True), 7),
        (c("x").filter(c("x") > 5).first(), 6),
        ((c("x") > 5).any(ignore_nulls=False), True),
        ((c("x") > 4).all(ignore_nulls=False), None),
        ((c("x") > 5).all(ignore_nulls=False), False),
        ((c("x") > 9).any(ignore_nulls=False), None),
        ((c("x") > 9).any(), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [[], [1], [1, 2, 3, 4], [3]])
def test_empty_filters_and_nulls_give_what_polars_documents(expr, want, at):
    assert over_batches(expr, [None, 5, 6, 7, None], pl.Int64(), at) == want


def test_the_first_is_by_order_not_by_arrival():
    rows = pl.DataFrame(
        {
            "key": pl.Series([1, 1, 1], dtype=pl.Int16),
            "x": ["c", "a", "b"],
            "_time": [EPOCH + dt.timedelta(hours=1), EPOCH, EPOCH],
            "_source": [0, 0, 0],
            "_partition": [0, 0, 0],
            "_offset": [1, 7, 8],
        }
    )
    plan = split({"first": c("x").first(), "last": c("x").last()}, rows.schema, ORDER)
    assert evaluated(plan, cut(rows, [1, 2]), []).row(0) == (1, "a", "c")


def test_a_mean_of_durations_does_not_drift_with_batches():
    values = [dt.timedelta(days=300, microseconds=n) for n in range(7)]
    want = dt.timedelta(days=300, microseconds=3)
    for at in ([], [1], [2, 3], [1, 2, 3, 4, 5, 6]):
        assert over_batches(c("x").mean(), values, pl.Duration("us"), at) == want


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "word"),
    [
        (c("text").sum(), "not supported for dtype"),
        (c("text").any(), "not supported"),
        (c("i8").sum() + c("text").first(), "i64 and str"),
        (pl.col("i8", "i16").sum(), "more than one"),
        (c("i8").map_elements(lambda value: value, return_dtype=pl.Int64).sum(), "map_batches"),
        (c("i8").sample(1).first(), "hash"),
        (c("i8").mode().first(), "maintain_order=True"),
        (c("text").value_counts(), "sort=True"),
        (pl.nth(1).sum(), "name the column"),
        (pl.first().sum(), "name the column"),
    ],
    ids=str,
)
def test_an_aggregation_that_cannot_be_right_is_refused_with_its_name(expr, word):
    with pytest.raises(ExpressionRefused, match=word):
        split({"out": expr}, SCHEMA, ORDER)


def test_a_column_that_is_not_there_is_named_with_a_guess():
    with pytest.raises(ColumnNotFound, match=r"agg\(out=\.\.\.\).*'txt'.*did you mean 'text'"):
        split({"out": c("txt").max()}, SCHEMA, ORDER)


def test_the_order_columns_cannot_be_read():
    with pytest.raises(ColumnNotFound, match="_offset"):
        split({"out": c("_offset").max()}, pl.Schema({**SCHEMA, "_offset": pl.Int64()}), ORDER)
