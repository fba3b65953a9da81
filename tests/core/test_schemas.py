"""A schema may come from anywhere; what is stored is always the same."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from mamba_stream.core.schemas import (
    MOST_COLUMNS,
    canonical_schema,
    describe_difference,
    fingerprint,
    polars_schema,
    schema_bytes,
    schema_from_bytes,
    time_type_of,
)
from mamba_stream.errors import ColumnNotFound, DataCorrupted, InvalidInput, UnsupportedType
from tests.core.arrow_shapes import NAMES, arrow_types

TRADES = pa.schema([("ts", pa.timestamp("us")), ("symbol", pa.large_string()), ("price", pa.float64())])
SCHEMAS = st.dictionaries(NAMES, arrow_types(2), min_size=1, max_size=5).map(
    lambda d: pa.schema(list(d.items()))
)


@pytest.mark.parametrize(
    "source",
    [
        TRADES,
        TRADES.with_metadata({"made": "elsewhere"}),
        pa.schema(
            [pa.field("ts", pa.timestamp("us"), nullable=False, metadata={"a": "b"}), *list(TRADES)[1:]]
        ),
        pa.schema([("ts", pa.timestamp("us")), ("symbol", pa.string_view()), ("price", pa.float64())]),
        TRADES.empty_table(),
        pa.RecordBatch.from_pylist([], schema=TRADES),
        pa.RecordBatchReader.from_batches(TRADES, []),
        {"ts": pl.Datetime, "symbol": pl.String, "price": pl.Float64},
        {"ts": pl.Datetime("us"), "symbol": pl.Categorical, "price": pl.Float64()},
        {"ts": pa.timestamp("us"), "symbol": str, "price": float},
        pl.Schema({"ts": pl.Datetime("us"), "symbol": pl.Enum(["A", "B"]), "price": pl.Float64}),
        pl.DataFrame(schema={"ts": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float64}),
        pl.LazyFrame(schema={"ts": pl.Datetime("us"), "symbol": pl.String, "price": pl.Float64}),
        pd.DataFrame({"ts": pd.to_datetime(["2020"]).as_unit("us"), "symbol": ["a"], "price": [1.0]}),
    ],
)
def test_a_schema_comes_from_anything_that_has_one(source: Any) -> None:
    schema = canonical_schema(source)
    assert schema.equals(TRADES, check_metadata=True)
    assert schema.metadata is None


@given(SCHEMAS)
def test_a_schema_survives_its_bytes(schema: pa.Schema) -> None:
    canonical = canonical_schema(schema)
    assert schema_from_bytes(schema_bytes(canonical)).equals(canonical, check_metadata=True)


@given(SCHEMAS)
def test_a_schema_survives_polars(schema: pa.Schema) -> None:
    canonical = canonical_schema(schema)
    assert canonical_schema(polars_schema(canonical)).equals(canonical, check_metadata=True)
    assert canonical_schema(canonical).equals(canonical, check_metadata=True)


@given(SCHEMAS, SCHEMAS)
def test_fingerprints_tell_schemas_apart(one: pa.Schema, other: pa.Schema) -> None:
    one, other = canonical_schema(one), canonical_schema(other)
    assert (fingerprint(one) == fingerprint(other)) == one.equals(other)


def test_fingerprints_are_stored_and_so_never_change() -> None:
    every = {
        "null": pl.Null, "bool": pl.Boolean, "i": pl.Int8, "u": pl.UInt64, "h": pl.Float16, "f": pl.Float32,
        "d": pl.Decimal(10, 2), "date": pl.Date, "time": pl.Time, "ts": pl.Datetime("ns", "Europe/Paris"),
        "naive": pl.Datetime("ms"), "span": pl.Duration("us"), "text": pl.String, "bytes": pl.Binary,
        "list": pl.List(pl.Int64), "array": pl.Array(pl.Int16, 3), "é\n": pl.Struct({"a b": pl.String}),
        "map": pl.Map(pl.String, pl.Float64),
    }  # fmt: skip
    assert fingerprint(canonical_schema(every)) == PINNED_EVERY
    assert fingerprint(TRADES) == PINNED_TRADES


PINNED_EVERY = 0x7ED42D85F23F1DA9
PINNED_TRADES = 0xB079447E48C8921A


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({}, "at least one column"),
        (pa.schema([]), "at least one column"),
        (pa.schema([("a", pa.int8()), ("a", pa.int8())]), "'a' occurs twice"),
        ({"": pl.Int8}, "not empty"),
        (pa.schema([("a\0b", pa.int8())]), "NUL"),
        ({3: pl.Int8}, "not 3"),
        ({f"c{i}": pl.Int8 for i in range(MOST_COLUMNS + 1)}, "at most 2000 columns, not 2001"),
        ({"a": None}, "column 'a' has no type"),
        ({"a": "Int64"}, "column 'a' has no type"),
        ({"a": pl.List}, "column 'a' has no type"),
        ({"a": pl.Decimal}, "column 'a' has no type"),
        ({"a": {}}, "column 'a' has no type"),
        ({"\ud800": pl.Int8}, "not valid Unicode"),
        ("trades", "not str"),
        (None, "not NoneType"),
        ([("a", pl.Int8)], "not list"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        canonical_schema(schema)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (pl.Object, "Python objects"),
        (pl.Int128, "cast it to Int64"),
        (pl.UInt128(), "cast it to UInt64"),
        (pl.List(pl.Int128), "cast it to Int64"),
        (pl.Struct({"a": pl.Array(pl.UInt128, 2)}), "cast it to UInt64"),
        (pl.Map(pl.String, pl.Int128), "cast it to Int64"),
        (pl.Unknown, "say which type"),
    ],
)
def test_polars_types_without_a_place_in_arrow_are_refused_by_column(dtype: Any, words: str) -> None:
    with pytest.raises(UnsupportedType, match="column 'x'") as caught:
        canonical_schema({"x": dtype})
    assert words in str(caught.value)


def test_a_frame_of_objects_is_refused() -> None:
    with pytest.raises(UnsupportedType, match="column 'x' has type Object"):
        canonical_schema(pl.DataFrame({"x": [object()]}))


@pytest.mark.parametrize("message", [b"", b"\0" * 8, b"not a schema at all", b"\xff\xff\xff\xff\x10\0\0\0"])
def test_bytes_that_are_no_schema_are_corruption(message: bytes) -> None:
    with pytest.raises(DataCorrupted, match="not a schema"):
        schema_from_bytes(message)


@pytest.mark.parametrize("dtype", [pa.timestamp("ms"), pa.timestamp("ns", "UTC"), pa.date32()])
def test_time_is_a_timestamp_or_a_date(dtype: pa.DataType) -> None:
    assert time_type_of(pa.schema([("ts", dtype)]), "ts") == dtype


@pytest.mark.parametrize("dtype", [pa.int64(), pa.large_string(), pa.time64("ns"), pa.duration("us")])
def test_other_types_are_no_time(dtype: pa.DataType) -> None:
    with pytest.raises(InvalidInput, match=r"time column 'ts' is .* a Datetime or a Date"):
        time_type_of(pa.schema([("ts", dtype)]), "ts")


def test_a_misspelt_time_column_is_guessed() -> None:
    with pytest.raises(ColumnNotFound, match="did you mean 'ts'"):
        time_type_of(TRADES, "tss")


def test_a_difference_names_everything_at_once() -> None:
    have = pa.schema([("prise", pa.float64()), ("symbol", pa.int32()), ("ts", pa.date32())])
    assert describe_difference(have, TRADES) == (
        "missing column 'price' (Float64); unexpected column 'prise', did you mean 'price'?; "
        "'symbol' is Int32, topic has String"
    )


def test_what_fits_has_no_difference_in_any_order() -> None:
    have = pa.schema(
        [("price", pa.int16()), ("ts", pa.date32()), ("symbol", pa.dictionary(pa.int8(), pa.string()))]
    )
    assert describe_difference(have, TRADES) == ""


def test_a_long_difference_is_cut_and_counted() -> None:
    want = pa.schema([(f"column{i}", pa.int64()) for i in range(100)])
    assert describe_difference(pa.schema([]), want).endswith("missing column 'column11' (Int64); and 88 more")


def test_a_column_on_offer_twice_is_a_difference() -> None:
    have = pa.schema([*TRADES, pa.field("price", pa.float64())])
    assert describe_difference(have, TRADES) == "column 'price' occurs twice"
