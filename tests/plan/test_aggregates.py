"""Splitting aggregations gives what Polars gives over all rows, however rows are cut and results are merged."""

from __future__ import annotations

import datetime as dt
import warnings
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from polars.testing import assert_frame_equal, assert_series_equal

from mamba_stream.core.batches import batch_from_frame, frame_from_batch
from mamba_stream.errors import ColumnNotFound, ExpressionRefused
from mamba_stream.plan.aggregates import AggregatePlan, split
from mamba_stream.plan.expressions import columns

ORDER = ("_time", "_source", "_partition", "_offset")
EPOCH = dt.datetime(2024, 3, 1)
INF, NAN = float("inf"), float("nan")


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
    "f32": (pl.Float32(), maybe(st.integers(-4000, 4000).map(lambda n: n / 4) | st.sampled_from([NAN, INF, -INF, -0.0]))),
    "f64": (pl.Float64(), maybe(st.integers(-4000, 4000).map(lambda n: n / 4) | st.sampled_from([NAN, INF, -INF, -0.0]))),
    "plain": (pl.Float64(), st.integers(-4000, 4000).map(lambda n: n / 4)),
    "dec": (pl.Decimal(12, 2), maybe(st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 100))),
    "flag": (pl.Boolean(), maybe(st.booleans())),
    "text": (pl.String(), maybe(st.text("abé\x00", max_size=3))),
    "raw": (pl.Binary(), maybe(st.binary(max_size=2))),
    "day": (pl.Date(), maybe(st.integers(-5, 40000).map(lambda n: dt.date(1970, 1, 1) + dt.timedelta(days=n)))),
    "at": (pl.Datetime("us"), maybe(st.integers(-(10**9), 10**15).map(lambda n: EPOCH + dt.timedelta(microseconds=n // 10**3)))),
    "zoned": (pl.Datetime("ms", "Europe/Berlin"), maybe(st.integers(0, 10**6).map(lambda n: (EPOCH + dt.timedelta(seconds=n)).replace(tzinfo=dt.UTC)))),
    "span": (pl.Duration("us"), maybe(st.integers(-(10**12), 10**12).map(lambda n: dt.timedelta(microseconds=n)))),
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
    st.builds(lambda one, other: one.cast(pl.Float64) + other.cast(pl.Float64), numeric_columns, numeric_columns),
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
    st.builds(lambda name, how: getattr(pl.col(name), how)(), st.sampled_from(["i8", "i32", *WIDE]), st.sampled_from(
        ["sum", "min", "max", "product", "bitwise_and", "bitwise_or", "bitwise_xor"]
    )),
    *(
        filtered(anything).map(lambda one, name=name: getattr(one, name)())
        for name in ("first", "last", "count", "len", "null_count", "n_unique", "min", "max", "has_nulls")
    ),
    filtered(anything).map(lambda one: one.first(ignore_nulls=True)),
    filtered(anything).map(lambda one: one.last(ignore_nulls=True)),
    st.builds(lambda one, ignore: one.any(ignore_nulls=ignore), filtered(conditions), st.booleans()),
    st.builds(lambda one, ignore: one.all(ignore_nulls=ignore), filtered(conditions), st.booleans()),
    st.sampled_from([pl.col("flag"), pl.col("span")]).map(lambda one: one.sum()),
    st.sampled_from([pl.col("flag"), pl.col("span"), pl.col("at"), pl.col("day"), pl.col("clock")]).map(lambda one: one.mean()),
    st.sampled_from([pl.col("span"), pl.col("at"), pl.col("day"), pl.col("zoned")]).map(lambda one: one.median()),
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
    st.builds(lambda one, when, other: pl.when(when.count() > 2).then(one).otherwise(other.cast(pl.Float64)), some_numbers, anything, some_numbers),
    st.builds(lambda one, other: pl.coalesce(one.mean(), other.max().cast(pl.Float64), 0.0), numbers, numbers),
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


def evaluated(plan: AggregatePlan, batches: list[pl.DataFrame], merges: list[tuple[int, int]]) -> pl.DataFrame:
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
    frame["_time"] = pl.Series([EPOCH + dt.timedelta(seconds=n) for n in column(st.integers(0, 3))], dtype=pl.Datetime("us"))
    frame["_source"] = pl.Series(column(st.integers(0, 1)), dtype=pl.Int32)
    frame["_partition"] = pl.Series(column(st.integers(0, 1)), dtype=pl.Int32)
    frame["_offset"] = pl.Series(draw(st.permutations(range(count))), dtype=pl.Int64)
    return pl.DataFrame(frame)


def cut(rows: pl.DataFrame, at: list[int]) -> list[pl.DataFrame]:
    ends = [0, *sorted(min(end, rows.height) for end in at), rows.height]
    return [rows[start:end] for start, end in zip(ends, ends[1:], strict=False)]


merge_orders = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8)
cuts = st.lists(st.integers(0, 24), max_size=6)


@given(data=st.data(), exprs=st.lists(aggregations, min_size=1, max_size=4), at=cuts, merges=merge_orders)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_cut_and_any_merge_gives_what_polars_gives_over_all_rows(data, exprs, at, merges):
    named = {f"out{n}": expr for n, expr in enumerate(exprs)}
    used = set().union(*(columns(expr) for expr in exprs))
    rows = data.draw(rows_of(used))
    schema = pl.Schema({name: dtype for name, dtype in SCHEMA.items() if name in rows.columns})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            want = expected(named, rows)
        except pl.exceptions.PolarsError:
            assume(False)
        plan = split(named, rows.schema, ORDER)
        assert_same(evaluated(plan, cut(rows, at), merges), want)
