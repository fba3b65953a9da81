"""H(key) is what docs/key-hash.md says, by an encoder of its own that knows nothing of NumPy."""

from __future__ import annotations

import datetime as dt
import math
import re
import struct
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings, strategies as st
from pyarrow import types as pat

from mamba_stream.core import keys as routing
from mamba_stream.core.keys import hash_keys, key_groups, partitions_of, split_by_partition
from mamba_stream.errors import InvalidInput, UnsupportedType
from tests.core.arrow_shapes import PLAIN, present_values_of
from tests.log.neighbour import importing

PAGE = Path(__file__).parents[2] / "docs" / "key-hash.md"
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
KEY_TYPES = [*PLAIN, pa.float16(), pa.date64(), pa.dictionary(pa.int8(), pa.string())]


def payload(value: Any, dtype: Any) -> bytes:
    """The bytes of one value. Times come as ticks of their type."""
    if pat.is_dictionary(dtype):
        return payload(value, dtype.value_type)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return (
            struct.pack("<d", 0.0 if value == 0 else value)
            if not math.isnan(value)
            else bytes.fromhex("000000000000f87f")
        )
    if isinstance(value, Decimal):
        return int(Fraction(value) * 10**38 % 2**128).to_bytes(16, "little")
    if pat.is_date32(dtype):
        value *= 86400 * 10**9
    elif pat.is_date64(dtype):
        value *= 10**6
    elif pat.is_temporal(dtype):
        value *= NANOSECONDS[dtype.unit]
    return (int(value) % 2**64).to_bytes(8, "little")


def key_bytes(values: list[Any], dtypes: list[Any]) -> bytes:
    if len(values) == 1:
        return b"\x00null" if values[0] is None else payload(values[0], dtypes[0])
    found = b""
    for value, dtype in zip(values, dtypes, strict=True):
        raw = None if value is None else payload(value, dtype)
        found += b"\xff" * 8 if raw is None else len(raw).to_bytes(8, "little") + raw
    return found


def expected(rows: list[list[Any]], dtypes: list[Any]) -> list[int]:
    return [xxhash.xxh64_intdigest(key_bytes(row, dtypes)) for row in rows]


def raw_values_of(dtype: Any) -> st.SearchStrategy[Any]:
    """Values, times among them as ticks, so that all of their range is met."""
    if pat.is_date64(dtype):
        return st.integers(-(10**8), 10**8).map(lambda days: days * 86_400_000)
    if pat.is_temporal(dtype):
        return st.integers(-(2 ** (dtype.bit_width - 1)), 2 ** (dtype.bit_width - 1) - 1)
    if pat.is_floating(dtype):
        return st.floats(width=dtype.bit_width)
    return present_values_of(dtype.value_type if pat.is_dictionary(dtype) else dtype)


def array_of(values: list[Any], dtype: Any) -> pa.Array:
    if pat.is_temporal(dtype):
        return pa.array(values, pa.int32() if dtype.bit_width == 32 else pa.int64()).view(dtype)
    return pa.array(values, dtype)


def keys(most: int) -> st.SearchStrategy[tuple[list[Any], list[list[Any]]]]:
    """The types of a key's columns, and rows of it with nulls."""

    def rows_of(dtypes: list[Any]) -> st.SearchStrategy[tuple[list[Any], list[list[Any]]]]:
        row = st.tuples(*(st.none() | raw_values_of(dtype) for dtype in dtypes)).map(list)
        return st.tuples(st.just(dtypes), st.lists(row, min_size=1, max_size=8))

    return st.lists(st.sampled_from(KEY_TYPES), min_size=1, max_size=most).flatmap(rows_of)


@settings(deadline=None)
@given(keys(3), st.sampled_from([1, 200]), st.integers(0, 7))
def test_every_key_hashes_as_its_bytes_in_slices_short_and_long(case: Any, times: int, start: int) -> None:
    dtypes, rows = case
    rows = rows * times
    columns = [array_of([row[i] for row in rows], dtype)[start:] for i, dtype in enumerate(dtypes)]
    assert hash_keys(columns).tolist() == expected(rows, dtypes)[start:]


@settings(deadline=None)
@given(keys(3))
def test_the_bytes_of_different_keys_differ(case: Any) -> None:
    dtypes, rows = case
    if len(dtypes) == 1 or any(pat.is_floating(dtype) or pat.is_temporal(dtype) for dtype in dtypes):
        return
    texts = {key_bytes(row, dtypes) for row in rows}
    assert len(texts) == len(
        {repr([v.normalize() if isinstance(v, Decimal) and v else v for v in row]) for row in rows}
    )


TEXT = ["", "a", "é", "\0null", None, "long enough to be read in several lanes, and more than one stripe"]


@pytest.mark.parametrize(
    "columns",
    [
        [
            pa.array([1, None, -1, 127, -128], dtype)
            for dtype in (pa.int8(), pa.int16(), pa.int32(), pa.int64())
        ],
        [
            pa.array([1, None, 255], dtype)
            for dtype in (pa.uint8(), pa.uint16(), pa.uint64(), pa.int16(), pa.int64())
        ],
        [
            pa.array([1.5, -0.0, math.nan, math.inf, None], dtype)
            for dtype in (pa.float16(), pa.float32(), pa.float64())
        ],
        [
            pa.array([dt.datetime(2013, 1, 1), dt.datetime(1969, 12, 31), None], pa.timestamp(unit, zone))
            for unit in NANOSECONDS
            for zone in (None, "UTC", "Europe/Paris")
        ]
        + [
            pa.array([dt.date(2013, 1, 1), dt.date(1969, 12, 31), None], kind())
            for kind in (pa.date32, pa.date64)
        ],
        [
            pa.array([dt.timedelta(days=3), dt.timedelta(seconds=-1), None], pa.duration(unit))
            for unit in NANOSECONDS
        ],
        [
            pa.array([dt.time(3, 4, 5), dt.time(0), None], kind)
            for kind in (pa.time32("s"), pa.time64("us"), pa.time64("ns"))
        ],
        [
            pa.array([Decimal("1.5"), Decimal("-0.25"), Decimal(0), None], kind)
            for kind in (pa.decimal32(9, 2), pa.decimal64(18, 6), pa.decimal128(38, 30), pa.decimal256(10, 3))
        ],
        [pa.array(TEXT, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())]
        + [pa.array(TEXT).dictionary_encode()]
        + [
            pa.array([t and t.encode() for t in TEXT], kind)
            for kind in (pa.binary(), pa.large_binary(), pa.binary_view())
        ],
        [pa.array([b"abc", None], kind) for kind in (pa.binary(3), pa.binary())],
    ],
    ids=["int", "uint", "float", "time", "duration", "time of day", "decimal", "text", "bytes"],
)
def test_one_value_has_one_hash_in_columns_of_any_width_unit_or_scale(columns: list[pa.Array]) -> None:
    other = pa.array(range(len(columns[0])))
    alone = {tuple(hash_keys([column]).tolist()) for column in columns}
    together = {tuple(hash_keys([other, column]).tolist()) for column in columns}
    assert len(alone) == len(together) == 1


def test_zero_is_zero_and_every_nan_is_one() -> None:
    bits = np.array([0x7FF8000000000000, 0xFFF8000000000001, 0x7FF0000000000001, 0], np.uint64)
    odd = hash_keys([pa.array(bits.view(np.float64))])
    assert len(set(odd[:3].tolist())) == 1
    assert hash_keys([pa.array([-0.0])])[0] == odd[3]


def test_a_null_is_neither_nothing_nor_zero() -> None:
    for array in (pa.array([None, ""]), pa.array([None, 0]), pa.array([None, False]), pa.array([None, 0.0])):
        for columns in ([array], [array, array], [pa.array([1, 1]), array]):
            assert len(set(hash_keys(columns).tolist())) == 2


def test_columns_of_a_key_cannot_run_into_each_other() -> None:
    left, right = pa.array(["ab", "a", "", "abc"]), pa.array(["c", "bc", "abc", ""])
    assert len(set(hash_keys([left, right]).tolist())) == 4


def test_what_lies_under_a_null_does_not_matter() -> None:
    valid = pa.py_buffer(b"\x01")
    texts = pa.Array.from_buffers(
        pa.large_string(), 2, [valid, pa.py_buffer(np.array([0, 1, 3], np.int64)), pa.py_buffer(b"abc")]
    )
    numbers = pa.Array.from_buffers(pa.int64(), 2, [valid, pa.py_buffer(np.array([1, 99], np.int64))])
    assert hash_keys([texts]).tolist() == hash_keys([pa.array(["a", None])]).tolist()
    assert hash_keys([numbers]).tolist() == hash_keys([pa.array([1, None])]).tolist()
    assert (
        hash_keys([numbers, texts]).tolist()
        == hash_keys([pa.array([1, None]), pa.array(["a", None])]).tolist()
    )


@pytest.mark.parametrize("rows", [0, 3])
def test_columns_without_values_have_hashes_too(rows: int) -> None:
    null = xxhash.xxh64_intdigest(b"\x00null")
    assert hash_keys([pa.nulls(rows)]).tolist() == [null] * rows
    for dtype in KEY_TYPES:
        assert hash_keys([pa.nulls(rows, dtype)]).tolist() == [null] * rows
        assert len(hash_keys([pa.nulls(rows, dtype), pa.nulls(rows)])) == rows


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array([1], pa.decimal256(50, 2)),
        pa.array([[1]], pa.list_(pa.int8(), 1)),
    ],
)
def test_nested_columns_are_no_keys(array: pa.Array) -> None:
    for columns in ([array], [array, array]):
        with pytest.raises(UnsupportedType, match="a key column cannot be"):
            hash_keys(columns)


def test_a_key_has_a_column() -> None:
    with pytest.raises(InvalidInput, match="at least one column"):
        hash_keys([])


def test_the_key_group_is_the_lowest_byte_and_partitions_are_runs_of_groups() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 5_000, dtype=np.uint64)
    assert key_groups(hashes).tolist() == [h % 256 for h in hashes.tolist()]
    for partitions in (1, 2, 3, 7, 255, 256):
        assert partitions_of(hashes, partitions).tolist() == [
            h % 256 * partitions // 256 for h in hashes.tolist()
        ]


@pytest.mark.parametrize("partitions", [0, -1, 257])
def test_there_cannot_be_more_partitions_than_groups(partitions: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 256 partitions"):
        partitions_of(np.zeros(1, np.uint64), partitions)


def test_consecutive_numbers_spread_evenly() -> None:
    found = partitions_of(hash_keys([pa.array(range(100_000))]), 16)
    counts = np.bincount(found, minlength=16)
    assert counts.min() > 5_500 and counts.max() < 7_000


def numbered(symbols: list[str | None]) -> pa.RecordBatch:
    columns = [
        pa.array(symbols, pa.large_string()),
        pa.array(range(len(symbols))),
        pa.array([[s] for s in symbols]),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["symbol", "n", "nested"])


@settings(deadline=None)
@given(
    st.lists(st.none() | st.text(max_size=3), max_size=40),
    st.integers(1, 256),
    st.sampled_from([1, 100]),
    st.sampled_from([1, 1 << 12]),
)
def test_a_split_keeps_every_row_in_order_and_equal_keys_together(
    symbols: Any, partitions: int, times: int, large: int
) -> None:
    batch = numbered(symbols * times)
    with mock.patch.object(routing, "_LARGE_PART", large):
        parts = split_by_partition(batch, ("symbol",), partitions)
    places = partitions_of(hash_keys([batch["symbol"]]), partitions).tolist()
    assert [partition for partition, _ in parts] == sorted(set(places))
    for partition, part in parts:
        part.validate(full=True)
        assert part.schema.equals(batch.schema, check_metadata=True)
        assert part["n"].to_pylist() == [n for n, place in enumerate(places) if place == partition]
        assert part["nested"].to_pylist() == [[symbol] for symbol in part["symbol"].to_pylist()]


def test_rows_of_one_partition_are_not_copied() -> None:
    batch = numbered(["a", "a", "b"])
    assert split_by_partition(batch, ("symbol",), 1)[0][1] is batch
    assert (
        split_by_partition(batch[:2], ("symbol",), 64)[0][1]["n"].buffers()[1].address
        == batch["n"].buffers()[1].address
    )
    assert split_by_partition(batch[:0], ("symbol",), 64) == []


def test_large_parts_begin_where_their_buffers_do() -> None:
    parts = split_by_partition(numbered(["a", "b", "c", "d"] * 5_000), ("symbol",), 2)
    assert len(parts) == 2
    assert [column.offset for _, part in parts for column in part.columns] == [0] * 6


def test_a_key_of_several_columns_decides_together() -> None:
    batch = numbered(["a", "b"] * 500)
    places = partitions_of(hash_keys([batch["n"], batch["symbol"]]), 8)
    parts = split_by_partition(batch, ("n", "symbol"), 8)
    assert [(p, part["n"].to_pylist()) for p, part in parts] == [
        (p, np.flatnonzero(places == p).tolist()) for p in range(8)
    ]


VECTORS: dict[str, list[pa.Array]] = {
    "null": [pa.nulls(1)],
    "Int64 null": [pa.array([None], pa.int64())],
    "String null": [pa.array([None], pa.large_string())],
    "Boolean false": [pa.array([False])],
    "Boolean true": [pa.array([True])],
    "Int8 1": [pa.array([1], pa.int8())],
    "Int64 1": [pa.array([1], pa.int64())],
    "Int32 -1": [pa.array([-1], pa.int32())],
    "Int64 -9223372036854775808": [pa.array([-(2**63)], pa.int64())],
    "UInt64 18446744073709551615": [pa.array([2**64 - 1], pa.uint64())],
    "Float64 0.0": [pa.array([0.0])],
    "Float64 -0.0": [pa.array([-0.0])],
    "Float32 1.5": [pa.array([1.5], pa.float32())],
    "Float64 1.5": [pa.array([1.5])],
    "Float64 NaN": [pa.array([math.nan])],
    "Float64 -inf": [pa.array([-math.inf])],
    "Date 2013-01-01": [pa.array([dt.date(2013, 1, 1)])],
    "Datetime('ms') 2013-01-01T00:00:00": [pa.array([dt.datetime(2013, 1, 1)], pa.timestamp("ms"))],
    "Datetime('us', 'UTC') 2013-01-01T00:00:00Z": [
        pa.array([dt.datetime(2013, 1, 1)], pa.timestamp("us", "UTC"))
    ],
    "Datetime('us') 2013-01-01T12:34:56.789012": [pa.array([dt.datetime(2013, 1, 1, 12, 34, 56, 789012)])],
    "Datetime('us') 1969-12-31T23:59:59.999999": [pa.array([dt.datetime(1969, 12, 31, 23, 59, 59, 999999)])],
    "Datetime('ns') 1970-01-01T00:00:00.000000001": [pa.array([1], pa.int64()).view(pa.timestamp("ns"))],
    "Datetime('us') 9999-12-31T23:59:59.999999": [pa.array([dt.datetime.max])],
    "Duration('ms') 1s": [pa.array([dt.timedelta(seconds=1)], pa.duration("ms"))],
    "Time 05:15:00": [pa.array([dt.time(5, 15)], pa.time64("ns"))],
    "Decimal(5, 2) 1.50": [pa.array([Decimal("1.50")], pa.decimal128(5, 2))],
    "Decimal(38, 1) 1.5": [pa.array([Decimal("1.5")], pa.decimal128(38, 1))],
    "Decimal(5, 2) -0.01": [pa.array([Decimal("-0.01")], pa.decimal128(5, 2))],
    'String ""': [pa.array([""])],
    'String "AAPL"': [pa.array(["AAPL"])],
    'String "Zürich"': [pa.array(["Zürich"])],
    'String "a key that is longer than one stripe of 32 bytes"': [
        pa.array(["a key that is longer than one stripe of 32 bytes"])
    ],
    "Binary 00 ff": [pa.array([b"\x00\xff"])],
    'Int64 1, String "AAPL"': [pa.array([1]), pa.array(["AAPL"])],
    'String "AAPL", Int64 1': [pa.array(["AAPL"]), pa.array([1])],
    "Int64 1, Int64 2": [pa.array([1]), pa.array([2])],
    "Int64 null, Int64 2": [pa.array([None], pa.int64()), pa.array([2])],
    'String "a", String "bc"': [pa.array(["a"]), pa.array(["bc"])],
    'String "ab", String "c"': [pa.array(["ab"]), pa.array(["c"])],
    "String null, String null": [pa.array([None], pa.string())] * 2,
    "Decimal(5, 2) 1.50, Date 2013-01-01, Boolean true": [
        pa.array([Decimal("1.50")], pa.decimal128(5, 2)),
        pa.array([dt.date(2013, 1, 1)]),
        pa.array([True]),
    ],
}


def page_vectors() -> dict[str, tuple[bytes, int]]:
    rows = re.findall(
        r"^\| `(.+?)` \| `([0-9a-f ]*)` \| `([0-9a-f]{16})` \|$", PAGE.read_text(), re.MULTILINE
    )
    return {key: (bytes.fromhex(raw), int(digest, 16)) for key, raw, digest in rows}


def test_the_page_has_every_vector_and_no_other() -> None:
    assert list(page_vectors()) == list(VECTORS)


@pytest.mark.parametrize("key", VECTORS)
@pytest.mark.parametrize("rows", [1, 2_000])
def test_the_vectors_of_the_page_hold(key: str, rows: int) -> None:
    raw, digest = page_vectors()[key]
    assert xxhash.xxh64_intdigest(raw) == digest
    columns = [pa.concat_arrays([column] * rows) for column in VECTORS[key]]
    assert set(hash_keys(columns).tolist()) == {digest}


def test_rows_are_split_by_key_without_pandas() -> None:
    code = (
        "import sys, polars as pl\n"
        "from mamba_stream.core.keys import split_by_partition\n"
        "rows = pl.DataFrame({'k': ['a', 'b', 'c', None], 'n': [1, 2, 3, 4]}).to_arrow().to_batches()[0]\n"
        "assert len(split_by_partition(rows, ['k'], 8)) > 1\n"
        "assert len(split_by_partition(rows, ['n'], 8)) > 1\n"
        "assert len(split_by_partition(rows, ['k', 'n'], 8)) > 1\n"
        "assert 'pandas' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, env=importing(*sys.path))
