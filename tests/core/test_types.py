"""Every type has one canonical form or none, and fits means that nothing is lost."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from mamba_stream.core.types import DEEPEST, canonical_type, fits, type_name
from mamba_stream.errors import UnsupportedType
from tests.core.arrow_shapes import PLAIN, arrow_types, plain, values_of

CANONICAL = sorted({canonical_type(dtype, "x") for dtype in PLAIN}, key=str)
FITTING = [(have, want) for have in PLAIN for want in CANONICAL if fits(have, want)]


def through_polars(dtype: pa.DataType) -> pa.DataType:
    frame = pl.DataFrame(pa.schema([("x", dtype)]).empty_table())
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).schema.field("x").type


@given(arrow_types())
def test_a_canonical_type_is_its_own_canonical_type(dtype: pa.DataType) -> None:
    canonical = canonical_type(dtype, "x")
    assert canonical_type(canonical, "x").equals(canonical, check_metadata=True)


@given(arrow_types())
def test_a_canonical_type_goes_to_polars_and_back_unchanged(dtype: pa.DataType) -> None:
    canonical = canonical_type(dtype, "x")
    assert through_polars(canonical).equals(canonical, check_metadata=True)


@given(arrow_types())
def test_every_type_fits_its_canonical_one(dtype: pa.DataType) -> None:
    assert fits(dtype, canonical_type(dtype, "x"))


@given(st.data(), st.sampled_from(FITTING))
def test_what_fits_keeps_its_values_or_fails_loudly(data: st.DataObject, pair: tuple[Any, Any]) -> None:
    have, want = pair
    values = data.draw(st.lists(values_of(have), max_size=8))
    array = pa.array(values, have)
    try:
        cast = array.cast(want)
    except pa.ArrowInvalid:
        coarse_to_fine = pa.types.is_temporal(have)
        assert coarse_to_fine or (pa.types.is_integer(have) and pa.types.is_floating(want))
        return
    assert cast.type == want
    if pa.types.is_date(have) and pa.types.is_timestamp(want):
        assert [v and plain(v).date() for v in cast.to_pylist()] == values
    else:
        assert plain(cast.to_pylist()) == plain(array.to_pylist())


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (pa.int64(), pa.int32()),
        (pa.uint64(), pa.int64()),
        (pa.int8(), pa.uint64()),
        (pa.float64(), pa.float32()),
        (pa.float64(), pa.int64()),
        (pa.int64(), pa.float16()),
        (pa.bool_(), pa.int64()),
        (pa.int64(), pa.bool_()),
        (pa.int64(), pa.decimal128(20, 2)),
        (pa.decimal128(10, 3), pa.decimal128(10, 2)),
        (pa.decimal128(10, 0), pa.decimal128(10, 2)),
        (pa.float64(), pa.decimal128(38, 10)),
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.date32()),
        (pa.int64(), pa.timestamp("us")),
        (pa.duration("ns"), pa.duration("ms")),
        (pa.time64("us"), pa.duration("us")),
        (pa.string(), pa.large_binary()),
        (pa.binary(), pa.large_string()),
        (pa.string(), pa.timestamp("us")),
        (pa.int64(), pa.large_string()),
        (pa.dictionary(pa.int8(), pa.int64()), pa.int32()),
        (pa.list_(pa.int64()), pa.large_list(pa.int32())),
        (pa.list_(pa.int64()), pa.list_(pa.int64(), 2)),
        (pa.list_(pa.int64(), 3), pa.list_(pa.int64(), 2)),
        (pa.int64(), pa.large_list(pa.int64())),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        (pa.struct([("a", pa.int64()), ("b", pa.int64())]), pa.struct([("a", pa.int64())])),
        (pa.struct([("a", pa.int64()), ("a", pa.int64())]), pa.struct([("a", pa.int64())])),
        (pa.map_(pa.string(), pa.int64()), pa.map_(pa.large_string(), pa.int32())),
        (pa.dense_union([pa.field("a", pa.int64())]), pa.int64()),
    ],
)
def test_what_could_lose_something_does_not_fit(have: pa.DataType, want: pa.DataType) -> None:
    assert not fits(have, want)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (pa.null(), pa.large_list(pa.struct([("a", pa.int64())]))),
        (pa.int64(), pa.decimal128(21, 2)),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.uint32(), pa.int64()),
        (pa.date64(), pa.date32()),
        (pa.date32(), pa.timestamp("us", "UTC")),
        (pa.timestamp("s", "Europe/Paris"), pa.timestamp("ns")),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.list_(pa.int32(), 2), pa.large_list(pa.int64())),
        (pa.list_view(pa.int32()), pa.large_list(pa.int64())),
        (
            pa.struct([("a", pa.int8()), ("b", pa.string())]),
            pa.struct([("b", pa.large_string()), ("a", pa.int64())]),
        ),
    ],
)
def test_what_holds_more_fits(have: pa.DataType, want: pa.DataType) -> None:
    assert fits(have, want)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (pa.dense_union([pa.field("a", pa.int64())]), "use a struct"),
        (pa.sparse_union([pa.field("a", pa.int64())]), "use a struct"),
        (pa.run_end_encoded(pa.int32(), pa.int64()), "run_end_decode"),
        (pa.uuid(), "storage type"),
        (pa.json_(), "storage type"),
        (pa.month_day_nano_interval(), "type that Polars has"),
        (pa.decimal256(39, 0), "at most 38 digits"),
        (pa.decimal128(5, -2), "scale"),
        (pa.decimal128(2, 5), "scale"),
        (pa.list_(pa.int8(), 0), "always empty"),
        (pa.timestamp("us", "Mars/Olympus"), "time zone"),
        (pa.timestamp("us", "+05:30"), "time zone"),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), "same name"),
        (pa.struct([("a\0b", pa.int8())]), "NUL"),
        (pa.list_(pa.uuid()), "storage type"),
        (pa.map_(pa.string(), pa.dense_union([])), "use a struct"),
    ],
)
def test_a_type_that_polars_lacks_is_refused_with_a_way_out(dtype: pa.DataType, words: str) -> None:
    with pytest.raises(UnsupportedType, match="column 'x'") as caught:
        canonical_type(dtype, "x")
    assert words in str(caught.value)


def test_nesting_has_an_end() -> None:
    dtype: pa.DataType = pa.string()
    for _ in range(DEEPEST):
        dtype = pa.list_(dtype)
    canonical_type(dtype, "x")
    with pytest.raises(UnsupportedType, match=f"more than {DEEPEST} levels"):
        canonical_type(pa.list_(dtype), "x")


@given(arrow_types(), arrow_types())
def test_two_canonical_types_have_one_name_only_if_they_are_one(one: pa.DataType, other: pa.DataType) -> None:
    one, other = canonical_type(one, "x"), canonical_type(other, "x")
    assert (type_name(one) == type_name(other)) == (one == other)


@pytest.mark.parametrize("dtype", CANONICAL)
def test_names_are_those_that_polars_uses(dtype: pa.DataType) -> None:
    polars_type = pl.DataFrame(pa.schema([("x", dtype)]).empty_table()).schema["x"]
    assert eval(f"pl.{type_name(dtype)}", {"pl": pl}) == polars_type
