"""A predicate means exactly what the expression meant that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal

from mamba_stream.core.predicates import (
    Column,
    Literal,
    Operator,
    check,
    decode,
    encode,
    from_expr,
    split,
    to_expr,
)
from mamba_stream.core.timebounds import time_bounds
from mamba_stream.core.trees import nodes
from mamba_stream.errors import InvalidInput
from tests.core.predicates.expressions import INF, NAN, TYPES, filters, foreign, frame, frames
from tests.sizes import examples

SCHEMA = pl.Schema(TYPES)
REFUSED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
NOON = datetime(2024, 3, 1, 12)
number, real, text, truth = pl.col("int64"), pl.col("float64"), pl.col("string"), pl.col("boolean")
moment = pl.col("datetime_us_None")


def _is_of_a_value(error: Exception) -> bool:
    """Whether a value is at fault, which only an expression that is evaluated meets."""
    return "conversion" in str(error) or "division by zero" in str(error)


def travelled(expr: pl.Expr) -> pl.Expr:
    predicate = from_expr(expr)
    assert predicate is not None
    return check(decode(encode(predicate)), SCHEMA).expr


@settings(max_examples=examples(100))
@given(frames, filters)
def test_what_travelled_keeps_the_rows_that_the_expression_keeps(rows: pl.DataFrame, expr: pl.Expr) -> None:
    predicate = from_expr(expr)
    assert predicate is not None
    try:
        question = check(decode(encode(predicate)), SCHEMA)
    except InvalidInput:
        with pytest.raises(REFUSED):
            rows.select(expr)
        return
    try:
        kept = question.kept(rows)
    except InvalidInput as error:
        # A value that is not as it must be; whether Polars gets to see it depends on what it evaluates first.
        assert _is_of_a_value(error)
        return
    try:
        wanted = rows.filter(expr)
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError) as error:
        assert _is_of_a_value(error)
        return
    assert_frame_equal(kept, wanted)


@settings(max_examples=examples(100))
@given(frames, st.lists(filters | foreign, min_size=2, max_size=4), st.booleans())
def test_a_filter_in_two_parts_keeps_the_rows_that_it_keeps_whole(
    rows: pl.DataFrame, parts: list[pl.Expr], chained: bool
) -> None:
    whole = pl.all_horizontal(parts)
    if chained:
        whole = parts[0]
        for part in parts[1:]:
            whole &= part
    try:
        wanted = rows.filter(whole)
    except REFUSED:
        return  # a part alone may well be asked of rows of which another cannot be
    predicate, rest = split(whole, SCHEMA)
    try:
        kept = rows if predicate is None else check(decode(encode(predicate)), SCHEMA).kept(rows)
    except InvalidInput as error:
        assert _is_of_a_value(error)
        return
    try:
        left = kept if rest is None else kept.filter(rest)
    except pl.exceptions.InvalidOperationError:
        # Over no rows Polars may leave out a part that no row could be asked.
        assert rows.is_empty()
        return
    assert_frame_equal(left, wanted)


def _scanned(rows: pl.DataFrame, rests: list[pl.Expr | None]) -> pl.LazyFrame:
    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        asked, rest = (None, None) if predicate is None else split(predicate, SCHEMA)
        rests.append(rest)
        kept = rows if asked is None else check(decode(encode(asked)), SCHEMA).kept(rows)
        kept = kept if rest is None else kept.filter(rest)
        yield kept if with_columns is None else kept.select(with_columns)

    return register_io_source(source, schema=SCHEMA)


@settings(max_examples=examples(100))
@given(frames, filters)
def test_what_polars_hands_to_a_scan_travels(rows: pl.DataFrame, expr: pl.Expr) -> None:
    rests: list[pl.Expr | None] = []
    try:
        wanted = rows.lazy().filter(expr).collect()
        found = _scanned(rows, rests).filter(expr).collect()
    except (*REFUSED, InvalidInput):
        return
    assert_frame_equal(found, wanted)
    # Of constants the optimiser may make what no predicate has: when, then, otherwise; untyped sums; large integers.
    trees = [repr(nodes(rest)) for rest in rests if rest is not None]
    assert all("Ternary" in one or "Unknown" in one or "Int128" in one for one in trees)


@pytest.mark.parametrize(
    "expr",
    [
        (number > 3) & (number <= 7),
        real == NAN,
        real == INF,
        (real < -INF) | (real >= NAN) | (real == -0.0),
        pl.col("float32") == pl.lit(INF, dtype=pl.Float32),
        pl.col("float16").is_in(pl.lit([NAN, 1.5], dtype=pl.List(pl.Float16))),
        number.is_in([1, None, 2]),
        number.is_in([]),
        number.is_in([1, None], nulls_equal=True),
        text.is_in(["a", "é"]),
        pl.col("binary").is_in([b"\x00\xff", b""]),
        moment.is_in([NOON, None]),
        pl.col("decimal_10").is_in([Decimal("1.50"), Decimal("-0.05")]),
        pl.col("decimal_10") > Decimal("-0.05"),
        pl.col("decimal_38") == Decimal("1.5"),
        moment.is_between(NOON, NOON + timedelta(days=1), closed="left"),
        pl.col("datetime_us_UTC") >= NOON.replace(tzinfo=UTC),
        pl.col("datetime_ns_Europe/Paris") < pl.lit(20_000, pl.Datetime("ns", "Europe/Paris")),
        pl.col("date") == date(1970, 1, 2),
        moment > date(1970, 1, 2),
        pl.col("time") >= time(12),
        pl.col("duration_us") <= timedelta(hours=1),
        moment + timedelta(hours=1) > NOON,
        moment - pl.col("datetime_ms_None") > timedelta(0),
        number.eq_missing(None),
        number.ne_missing(pl.lit(None, dtype=pl.Int64)),
        pl.col("uint64") == 2**64 - 1,
        (number + 1) * 2 - number // 3 % 2 > -number / 2,
        text.str.contains("A|é"),
        text.str.contains("a.c", literal=True),
        text.str.contains("(", strict=False),
        text.str.starts_with("a") ^ text.str.ends_with(pl.col("string")),
        text.str.to_lowercase() == text.str.to_uppercase(),
        text.str.len_chars() < text.str.len_bytes(),
        text.cast(pl.Float64, strict=False) > 1,
        real.cast(pl.Decimal(38, 2), strict=False) == 1,
        moment.cast(pl.Date) == date(1970, 1, 1),
        number.cast(pl.Int8, wrap_numerical=True) == 1,
        ~truth | truth.is_null() & real.is_not_nan() & real.is_finite() | real.is_infinite(),
        pl.all_horizontal(truth, number > 1, pl.any_horizontal(truth, number < 1)),
        pl.col("list").is_not_null(),
        pl.lit(True),
        (number == 1).alias("named"),
    ],
    ids=str,
)
def test_everything_that_a_predicate_may_have_travels(expr: pl.Expr) -> None:
    rows = frame(5, 60)
    assert_frame_equal(rows.filter(travelled(expr)), rows.filter(expr))


@pytest.mark.parametrize("name", ["int8", "int64", "uint64", "float32", "float64", "decimal_10"])
@pytest.mark.parametrize("among", ["1, 2", "1.5, 7", "1.5, 1e0", "-1", "255, 300, 0", "9223372036854775807"])
def test_a_list_in_sql_means_what_it_means_there(name: str, among: str) -> None:
    rows = frame(5, 60)
    for expr in (pl.sql_expr(f"{name} IN ({among})"), pl.sql_expr(f"{name} NOT IN ({among})")):
        assert_frame_equal(_scanned(rows, []).filter(expr).collect(), rows.filter(expr))


@pytest.mark.parametrize(
    "sql",
    [
        "string LIKE 'a%' OR string LIKE '%b' OR string LIKE 'a_c'",
        "string ILIKE '%A%'",
        "NOT (int64 IS NULL) AND int64 BETWEEN 0 AND 7",
        "boolean IS NOT TRUE",
        "CAST(int64 AS DOUBLE) > 1 AND int64 <> 2",
        "LOWER(string) = 'a' OR LENGTH(string) > 2",
    ],
)
def test_sql_travels(sql: str) -> None:
    rows = frame(5, 60)
    assert_frame_equal(rows.filter(travelled(pl.sql_expr(sql))), rows.filter(pl.sql_expr(sql)))


@pytest.mark.parametrize(
    "sql", ["int64 NOT IN (1, NULL)", "int64 IN (1, 2, NULL)", "int64 / 2 > 1", "int64 IN (2)"]
)
def test_sql_that_is_scanned_travels(sql: str) -> None:
    rows, rests = frame(5, 60), []
    found = _scanned(rows, rests).filter(pl.sql_expr(sql)).collect()
    assert_frame_equal(found, rows.filter(pl.sql_expr(sql)))
    assert [str(rest) for rest in rests if rest is not None] == []


@pytest.mark.parametrize(
    "expr",
    [
        number > number.mean(),
        number.shift(1) == 1,
        number.is_in(pl.col("list")),
        number.is_in(pl.Series([1, 2])),
        text.str.reverse() == "a",
        pl.when(truth).then(number).otherwise(1) > 0,
        pl.col("int8", "int16") > 0,
        pl.col("^int.*$") > 0,
        pl.all().is_null(),
        text.cast(pl.Categorical) == "a",
        pl.lit(pl.Series([True, False])),
        number == 2**70,
        pl.col("list") == [1, 2],
        pl.len() > 3,
    ],
    ids=str,
)
def test_nothing_else_travels(expr: pl.Expr) -> None:
    assert from_expr(expr) is None
    assert split(expr, SCHEMA)[0] is None


def test_what_would_be_too_large_does_not_travel_or_not_all_of_it() -> None:
    deep = number
    for _ in range(40):
        deep = -deep
    assert from_expr(deep > 0) is None
    assert split(text == "a" * 300_000, SCHEMA)[0] is None
    words = [text != "a" * 100_000 for _ in range(4)]
    predicate, rest = split(pl.all_horizontal(words), SCHEMA)
    assert predicate is not None
    assert rest is not None
    assert len(encode(predicate)) > 200_000


def test_what_cannot_be_asked_of_the_columns_stays_where_polars_says_so() -> None:
    predicate, rest = split((number == text) & (number > 1), SCHEMA)
    assert str(rest) == str(number == text)
    assert str(to_expr(predicate)) == str(number > 1)


@pytest.mark.parametrize("name", ["*", "^a.*$", "^$", "a b"])
def test_a_column_is_never_a_pattern_of_names(name: str) -> None:
    rows = pl.DataFrame({name: [1, 2, 3], "ab": [3, 1, 1]})
    wanted = Operator("gt", (Column(name), Literal(("Int",), 1)))
    question = check(decode(encode(wanted)), rows.schema)
    assert question.columns == (name,)
    assert question.kept(rows)[name].to_list() == [2, 3]
    assert from_expr(question.expr) == wanted


def test_a_single_row_is_judged_as_one_of_many() -> None:
    # 49 * (1 / 49) is less than 1, and Polars divides a single row exactly.
    expr = (pl.col("x") / 49).cast(pl.Int64) == 0
    many = pl.DataFrame({"x": [49.0, 49.0]})
    question = check(from_expr(expr), many.schema)
    assert question.kept(many).height == 2
    assert question.kept(many.head(1)).height == 1


@settings(max_examples=examples(100))
@given(filters)
def test_bounds_on_time_are_found_in_what_arrived(expr: pl.Expr) -> None:
    predicate = from_expr(expr)
    assert predicate is not None
    arrived = to_expr(decode(encode(predicate)))
    assert time_bounds(arrived, "datetime_us_None") == time_bounds(expr, "datetime_us_None")


@pytest.mark.parametrize(
    "expr",
    [
        moment >= NOON,
        moment.is_between(NOON, NOON),
        (moment >= NOON) & (moment < NOON + timedelta(days=1)) & (number > 1) & truth,
        pl.all_horizontal(moment >= NOON, number > 1, truth),
        (moment < NOON) | (moment == NOON) | (moment == date(2024, 3, 1)),
    ],
    ids=str,
)
def test_bounds_on_time_survive_the_way(expr: pl.Expr) -> None:
    assert (
        time_bounds(travelled(expr), "datetime_us_None")
        == time_bounds(expr, "datetime_us_None")
        != (None, None)
    )
