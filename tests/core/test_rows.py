"""Python values either fit their column exactly or are refused by row."""

from __future__ import annotations

import datetime as dt
import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream.core.rows import batch_from_rows, column_from_values
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.core.types import canonical_type
from mamba_stream.errors import SchemaMismatch
from tests.core.arrow_shapes import NAMES, arrow_types, plain, values_of

PARIS = dt.timezone(dt.timedelta(hours=2))
NOON = dt.datetime(2020, 7, 1, 12)


def column(values: list[Any], dtype: Any) -> list[Any]:
    (arrow_type,) = canonical_schema({"x": dtype}).types
    array = column_from_values(values, arrow_type, column="x", to="the topic")
    array.validate(full=True)
    assert array.type.equals(arrow_type, check_metadata=True)
    return [plain(value) for value in array.to_pylist()]


def typed_values() -> st.SearchStrategy[tuple[pa.DataType, list[Any]]]:
    canonical = arrow_types().map(lambda dtype: canonical_type(dtype, "x"))
    return canonical.flatmap(lambda dtype: st.tuples(st.just(dtype), st.lists(values_of(dtype), max_size=6)))


@settings(deadline=None)
@given(typed_values())
def test_values_of_the_type_come_back_as_they_were(case: tuple[pa.DataType, list[Any]]) -> None:
    dtype, values = case
    array = column_from_values(values, dtype, column="x", to="the topic")
    array.validate(full=True)
    assert array.type.equals(dtype, check_metadata=True)
    assert plain(array.to_pylist()) == plain(values)


@settings(deadline=None)
@given(st.dictionaries(NAMES, arrow_types(1), min_size=1, max_size=4), st.data())
def test_a_key_that_a_row_lacks_is_null_there(kinds: dict[str, pa.DataType], data: st.DataObject) -> None:
    schema = canonical_schema(pa.schema(list(kinds.items())))
    row = st.fixed_dictionaries({}, optional={field.name: values_of(field.type) for field in schema})
    rows = data.draw(st.lists(row, min_size=1, max_size=5))
    batch = batch_from_rows(rows, schema, to="the topic")
    full = [[row.get(name) for name in schema.names] for row in rows]
    assert [plain(list(found.values())) for found in batch.to_pylist()] == plain(full)


class Side(enum.IntEnum):
    BUY = 1


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "dtype", "stored"),
    [
        (1, pl.Float64, 1.0),
        (0.1, pl.Float32, float(np.float32(0.1))),
        (float("inf"), pl.Float32, float("inf")),
        (np.float32(0.5), pl.Float64, 0.5),
        (np.int8(3), pl.Int64, 3),
        (Side.BUY, pl.Int8, 1),
        (np.bool_(True), pl.Boolean, True),
        (2**64 - 1, pl.UInt64, 2**64 - 1),
        (5, pl.Decimal(5, 2), Decimal("5.00")),
        (Decimal("1.5"), pl.Decimal(5, 2), Decimal("1.50")),
        (Word("a"), pl.String, "a"),
        (bytearray(b"a"), pl.Binary, b"a"),
        (memoryview(b"a"), pl.Binary, b"a"),
        (dt.date(2020, 7, 1), pl.Datetime("us"), dt.datetime(2020, 7, 1)),
        (NOON.replace(tzinfo=PARIS), pl.Datetime("us"), NOON - dt.timedelta(hours=2)),
        (NOON.replace(tzinfo=PARIS), pl.Datetime("ms", "UTC"), NOON - dt.timedelta(hours=2)),
        (NOON, pl.Datetime("ns", "Europe/Paris"), NOON),
        (pd.Timestamp(NOON), pl.Datetime("us"), NOON),
        (pd.NaT, pl.Datetime("us"), None),
        (pd.NaT, pl.Duration("us"), None),
        (pd.NA, pl.String, None),
        (pd.Timedelta(3, "ms"), pl.Duration("ms"), dt.timedelta(milliseconds=3)),
        ((1, None), pl.List(pl.Int8), [1, None]),
        (np.array([1, 2]), pl.List(pl.Int8), [1, 2]),
        (np.array([1, 2]), pl.Array(pl.Int8, 2), [1, 2]),
        ({}, pl.Struct({"a": pl.Int8}), {"a": None}),
        ({"k": 1}, pl.Map(pl.String, pl.Int8), [["k", 1]]),
        ([("k", None)], pl.Map(pl.String, pl.Int8), [["k", None]]),
    ],
)
def test_what_holds_the_same_value_is_taken(value: Any, dtype: Any, stored: Any) -> None:
    assert column([None, value], dtype) == [None, stored]


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (1.0, pl.Int64, "1.0 is a float, not an int"),
        (True, pl.Int64, "True is a bool, not an int"),
        (True, pl.Float64, "True is a bool, not a float or int"),
        (1, pl.Boolean, "1 is an int, not a bool"),
        ("1", pl.Int64, "'1' is a str, not an int"),
        (300, pl.Int8, "300 does not fit"),
        (-1, pl.UInt8, "-1 does not fit"),
        (2**70, pl.Int64, "does not fit"),
        (2**53 + 1, pl.Float64, "9007199254740993 does not fit"),
        (1e300, pl.Float32, "1e+300 does not fit: it is too large"),
        (Fraction(1, 3), pl.Float64, "does not fit"),
        (1.5, pl.Decimal(5, 2), "1.5 is a float, not a Decimal or int"),
        (Decimal("1.234"), pl.Decimal(5, 2), "does not fit"),
        (Decimal("NaN"), pl.Decimal(5, 2), "does not fit"),
        (Decimal(1), pl.Float64, "is a Decimal, not a float or int"),
        (b"a", pl.String, "b'a' is a bytes, not a str"),
        ("\ud800", pl.String, "does not fit"),
        ("a", pl.Binary, "'a' is a str, not bytes"),
        (1, pl.Datetime("us"), "1 is an int, not a datetime"),
        ("2020-01-01", pl.Datetime("us"), "'2020-01-01' is a str, not a datetime"),
        (NOON.replace(microsecond=1), pl.Datetime("ms"), "does not fit"),
        (pd.Timestamp(1), pl.Datetime("us"), "it has nanoseconds"),
        (pd.Timedelta(1), pl.Duration("us"), "it has nanoseconds"),
        (dt.datetime(1, 1, 1), pl.Datetime("ns"), "does not fit"),
        (NOON, pl.Date, "is a datetime, not a date"),
        (5, pl.Duration("us"), "5 is an int, not a timedelta"),
        (dt.timedelta(microseconds=1), pl.Duration("ms"), "does not fit"),
        (dt.time(1, tzinfo=dt.UTC), pl.Time, "a time of day has no zone"),
        (5, pl.Null, "5 is an int, not None"),
        ("ab", pl.List(pl.String), "'ab' is a str, not a list"),
        ({1, 2}, pl.List(pl.Int8), "is a set, not a list"),
        ([1, "x"], pl.List(pl.Int8), "element 1: 'x' is a str, not an int"),
        ([1, 2, 3], pl.Array(pl.Int8, 2), "a list of 3 is not a list of 2"),
        ([1, 2.5], pl.Array(pl.Float64, 2), None),
        ([[1], [2, "x"]], pl.List(pl.List(pl.Int8)), "element 1: element 1: 'x'"),
        ({"b": 1}, pl.Struct({"a": pl.Int8}), "unexpected key 'b'"),
        ({"prise": 1}, pl.Struct({"price": pl.Int8}), "did you mean 'price'?"),
        ({"a": "x"}, pl.Struct({"a": pl.Int8}), "field 'a': 'x' is a str, not an int"),
        ([1], pl.Struct({"a": pl.Int8}), "[1] is a list, not a dict"),
        ({"k": "x"}, pl.Map(pl.String, pl.Int8), "element 0: 'x' is a str"),
        ([("k",)], pl.Map(pl.String, pl.Int8), "is not a pair"),
        ([(None, 1)], pl.Map(pl.String, pl.Int8), "is not a pair"),
    ],
)
def test_what_would_be_changed_is_refused_by_row_and_column(
    value: Any, dtype: Any, words: str | None
) -> None:
    if words is None:
        assert column([value], dtype) == [value]
        return
    with pytest.raises(SchemaMismatch, match=r"cannot append to the topic: row 3, column 'x' \(") as caught:
        column([None, None, None, value, None], dtype)
    assert words in str(caught.value)


@pytest.mark.parametrize("bad", [0, 1, 500, 999])
def test_the_row_is_found_among_many(bad: int) -> None:
    values = [1] * 1000
    values[bad:] = [1000] * (1000 - bad)
    with pytest.raises(SchemaMismatch, match=f"row {bad}, column 'x'"):
        column(values, pl.Int8)


def test_an_unknown_key_is_refused_where_it_first_stands() -> None:
    schema = canonical_schema({"price": pl.Float64})
    with pytest.raises(SchemaMismatch, match=r"row 1 has an unexpected key 'prise', did you mean 'price'\?"):
        batch_from_rows([{"price": 1.0}, {"prise": 2.0}, {"other": 1}], schema, to="the topic")


def test_rows_without_any_key_are_rows_of_nulls() -> None:
    schema = canonical_schema({"price": pl.Float64, "tags": pl.List(pl.String)})
    assert (
        batch_from_rows([{}, {}], schema, to="the topic").to_pylist() == [{"price": None, "tags": None}] * 2
    )
