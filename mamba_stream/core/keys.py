"""Where a row belongs: H(key), its key group, its partition; the same in every process, version and machine.

``H(key)`` is XXH64 with seed 0 of these bytes (``docs/key-hash.md`` has test vectors). All integers are
little-endian.

A key of one column is the bytes of its value:

========================  ==========================================================================
null                      the five bytes ``00 6e 75 6c 6c``
Boolean                   1 or 0 as 8 bytes
integers                  8 bytes, two's complement; a UInt64 is the 8 bytes that it is
Float16, 32, 64           the 8 bytes of the IEEE 754 double; -0.0 is 0.0, any NaN is 0x7ff8000000000000
Date, Datetime            nanoseconds since 1970-01-01T00:00:00 UTC, modulo 2**64, as 8 bytes
Duration, Time            nanoseconds, modulo 2**64, as 8 bytes
Decimal                   the value times 10**38, modulo 2**128, as 16 bytes
String                    its UTF-8 bytes
Binary                    its bytes
========================  ==========================================================================

A key of several columns is, for each in order, the length of the value's bytes as 8 bytes, then those bytes;
a null is the length 2**64 - 1 and nothing else.

So within a line of the table equal values hash alike, whatever the width, unit or scale of their columns.
Values that differ may share their bytes only far out (a UInt64 from 2**63 on and a negative integer, times
73,000 years apart, decimals beyond 10**27), where it does no harm: hashes may collide, they only must not
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pyarrow import types as pat

from mamba_stream.core.types import type_name
from mamba_stream.core.xxh64 import U64, hash_lanes, hash_slices
from mamba_stream.errors import InvalidInput, UnsupportedType

KEY_GROUPS: Final = 256
"""State and partitions are cut along key groups; there are never more partitions than these."""

_NULL_BYTES: Final = b"\x00null"
_NULL: Final = np.uint64(xxhash.xxh64_intdigest(_NULL_BYTES))
_NULL_LENGTH: Final = (1 << 64) - 1
_NO_LENGTH: Final = b"\xff" * 8
_FEW_ROWS: Final = 64
_NARROW_ROWS: Final = 1 << 16
"""Up to here the places of rows fit 16 bits, by which Arrow gathers in half the time."""
_LARGE_PART: Final = 1 << 12
"""From so many rows on, parts are gathered each by itself, which costs a call, and can be written as they lie."""
_NAN: Final = np.uint64(0x7FF8_0000_0000_0000)
_NANOSECONDS: Final = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Given NumPy's arrays or Python's objects, or asked for them, Arrow imports pandas first, if there is one, which takes
# longer than all else here: what is made or looked at here are buffers.
_NO_BYTES: Final = pa.Array.from_buffers(
    pa.large_binary(), 1, [None, pa.py_buffer(bytes(16)), pa.py_buffer(b"")]
)[0]
_DAY_NS: Final = 86_400_000_000_000
_LOW_HALF: Final = np.uint64(0xFFFF_FFFF)
_32: Final = np.uint64(32)

Hashes = NDArray[np.uint64]
Small = NDArray[np.uint8]


def hash_keys(columns: Sequence[pa.Array]) -> Hashes:
    """``H(key)`` of every row.

    Args:
        columns: The key's columns, of equal length.

    Returns:
        One hash for each row, uint64.

    Raises:
        UnsupportedType: A column is nested, or of a type that the log does not store.
        InvalidInput: There is no column.
    """
    if not columns:
        raise InvalidInput("a key has at least one column")
    if len(columns) == 1:
        return _hash_one(columns[0])
    plain = [_decoded(column) for column in columns]
    if not len(plain[0]):
        return np.empty(0, np.uint64)
    if any(column.null_count or _is_bytes(column.type) for column in plain):
        return _hash_few(plain) if len(plain[0]) < _FEW_ROWS else _hash_rows(_joined(plain))
    lanes: list[U64] = []
    for column in plain:
        values = _lanes(column)
        lanes += [np.full(len(column), 8 * len(values), np.uint64), *values]
    return hash_lanes(lanes)


def key_groups(hashes: Hashes) -> Small:
    """The key group of every hash: ``H mod 256``, uint8."""
    return hashes.astype(np.uint8)


def partitions_of(hashes: Hashes, partitions: int) -> Small:
    """The partition of every hash: ``(H mod 256) * partitions // 256``, uint8.

    Args:
        hashes: What :func:`hash_keys` gives.
        partitions: How many there are, 1 to 256.

    Raises:
        InvalidInput: There cannot be so many partitions.
    """
    if not 1 <= partitions <= KEY_GROUPS:
        raise InvalidInput(f"a keyed topic has 1 to {KEY_GROUPS} partitions, not {partitions}")
    return np.asarray(_partition_of_groups(partitions)[key_groups(hashes)], np.uint8)


@lru_cache(maxsize=KEY_GROUPS)
def _partition_of_groups(partitions: int) -> Small:
    return (np.arange(KEY_GROUPS) * partitions // KEY_GROUPS).astype(np.uint8)


def split_by_partition(
    batch: pa.RecordBatch, key: Sequence[str], partitions: int
) -> list[tuple[int, pa.RecordBatch]]:
    """The batch's rows by the partition of their key, in order of partition, each in the order they had.

    The parts have buffers of their own where they are large, else they are slices of one batch; a batch whose rows all
    belong to one partition is itself the part.

    Args:
        batch: Rows.
        key: The names of the key columns.
        partitions: How many partitions there are, 1 to 256.
    """
    if not batch.num_rows:
        return []
    if partitions == 1:
        return [(0, batch)]
    found = partitions_of(hash_keys([batch.column(name) for name in key]), partitions)
    counts = np.bincount(found, minlength=partitions)
    used = np.flatnonzero(counts).tolist()
    if len(used) == 1:
        return [(used[0], batch)]
    order = _as_arrow(np.argsort(found, kind="stable"))
    if batch.num_rows <= _NARROW_ROWS:
        order = order.cast(pa.uint16())
    ends = np.cumsum(counts[used]).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    if batch.num_rows >= _LARGE_PART * len(used):
        taken = [batch.take(order[start:end]) for start, end in spans]
    else:
        ordered = batch.take(order)
        taken = [ordered[start:end] for start, end in spans]
    return list(zip(used, taken, strict=True))


def _as_arrow(numbers: NDArray[np.intp]) -> pa.Array:
    data = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(data), [None, pa.py_buffer(data)])


def _hash_one(column: pa.Array) -> Hashes:
    if isinstance(column, pa.DictionaryArray):
        return _hash_dictionary(column)
    column = _decoded(column)
    if pat.is_null(column.type):
        return np.full(len(column), _NULL, np.uint64)
    hashes = _hash_rows(column) if _is_bytes(column.type) else hash_lanes(_lanes(column))
    if column.null_count:
        hashes[_nulls(column)] = _NULL
    return hashes


def _hash_dictionary(column: pa.DictionaryArray) -> Hashes:
    """Each distinct value is hashed once."""
    distinct = np.append(_hash_one(column.dictionary), _NULL)
    at = column.indices.cast(pa.int64()).fill_null(len(distinct) - 1)
    return np.asarray(distinct[at.to_numpy()], np.uint64)


def _decoded(column: pa.Array) -> pa.Array:
    """The column in a type whose buffers are read below."""
    dtype = column.type
    if pat.is_dictionary(dtype):
        return _decoded(column.dictionary_decode())
    if pat.is_string_view(dtype):
        return column.cast(pa.large_string())
    if pat.is_binary_view(dtype):
        return column.cast(pa.large_binary())
    if pat.is_decimal(dtype) and dtype.precision <= 38:
        return column.cast(pa.decimal128(dtype.precision, dtype.scale))
    if _is_bytes(dtype) or pat.is_primitive(dtype) or pat.is_null(dtype):
        return column
    raise UnsupportedType(
        f"a key column cannot be {type_name(dtype)}: use a number, a time, a string or bytes"
    )


def _is_bytes(dtype: pa.DataType) -> bool:
    return bool(
        pat.is_large_string(dtype)
        or pat.is_large_binary(dtype)
        or pat.is_string(dtype)
        or pat.is_binary(dtype)
        or pat.is_fixed_size_binary(dtype)
    ) and not pat.is_decimal(dtype)


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    found = column.is_null()
    bits = np.frombuffer(found.buffers()[1], np.uint8)
    flags = np.unpackbits(bits, count=found.offset + len(found), bitorder="little")
    return flags[found.offset :].astype(np.bool_)


def _buffer(column: pa.Array, at: int, dtype: Any, width: int = 1) -> NDArray[Any]:
    """A buffer of the column from its offset on."""
    buffer = column.buffers()[at]
    if buffer is None:
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype)[width * column.offset :]


def _slices(column: pa.Array) -> tuple[Small, NDArray[np.int64], NDArray[np.int64]]:
    """Where the bytes of each row of a string or binary column lie; nulls have none."""
    rows, dtype = len(column), column.type
    if not rows:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    if pat.is_fixed_size_binary(dtype):
        data = column.buffers()[1]
        starts = (np.arange(rows, dtype=np.int64) + column.offset) * dtype.byte_width
        lengths = np.full(rows, dtype.byte_width, np.int64)
    else:
        wide = pat.is_large_string(dtype) or pat.is_large_binary(dtype)
        offsets = _buffer(column, 1, np.int64 if wide else np.int32)[: rows + 1].astype(np.int64, copy=False)
        data, starts, lengths = column.buffers()[2], offsets[:-1], np.diff(offsets)
    if column.null_count:
        lengths[_nulls(column)] = 0
    return np.frombuffer(data or b"", np.uint8), starts, lengths


def _hash_rows(column: pa.Array) -> Hashes:
    return hash_slices(*_slices(column))


def _lanes(column: pa.Array) -> list[U64]:
    """A column of fixed width as 64-bit lanes: one, or two for decimals. At nulls stands anything."""
    dtype, rows = column.type, len(column)
    if pat.is_boolean(dtype):
        return _lanes(column.cast(pa.uint8()))
    if pat.is_decimal(dtype):
        pairs = _buffer(column, 1, np.uint64, 2)[: 2 * rows]
        return list(_times_128(pairs[0::2], pairs[1::2], 10 ** (38 - dtype.scale)))
    if pat.is_floating(dtype):
        floats = _buffer(column, 1, dtype.to_pandas_dtype())[:rows]
        with np.errstate(invalid="ignore"):  # signalling NaNs
            doubles = floats.astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        bits = doubles.view(np.uint64)
        bits[np.isnan(doubles)] = _NAN
        return [bits]
    if pat.is_temporal(dtype):
        scale = (
            _NANOSECONDS[dtype.unit] if hasattr(dtype, "unit") else _DAY_NS if dtype == pa.date32() else 10**6
        )
        ticks = _buffer(column, 1, np.int32 if dtype.bit_width == 32 else np.int64)[:rows]
        return [ticks.astype(np.int64).view(np.uint64) * np.uint64(scale)]
    integers = _buffer(column, 1, dtype.to_pandas_dtype())[:rows]
    if pat.is_signed_integer(dtype):
        integers = integers.astype(np.int64, copy=False)
    return [integers.astype(np.uint64, copy=False)]


def _times_128(low: U64, high: U64, factor: int) -> tuple[U64, U64]:
    """The low 128 bits of a product, from two halves of one factor and the whole of the other."""
    factor_low, factor_high = np.uint64(factor & _NULL_LENGTH), np.uint64(factor >> 64)
    a, b = low & _LOW_HALF, low >> _32
    c, d = factor_low & _LOW_HALF, factor_low >> _32
    middle = b * c + (a * c >> _32)
    cross = a * d + (middle & _LOW_HALF)
    carried = b * d + (middle >> _32) + (cross >> _32)
    return low * factor_low, carried + low * factor_high + high * factor_low


def _hash_few(columns: Sequence[pa.Array]) -> Hashes:
    """The hashes of keys of several columns, row by row: what :func:`_joined` does costs as much as 64 rows."""
    parts = [_texts(column) for column in columns]
    return np.array([xxhash.xxh64_intdigest(b"".join(row)) for row in zip(*parts, strict=True)], np.uint64)


def _texts(column: pa.Array) -> list[bytes]:
    if _is_bytes(column.type):
        values = column.cast(pa.large_binary()).to_pylist()
    else:
        lanes = [] if pat.is_null(column.type) else _lanes(column)
        rows = zip(*(lane.tolist() for lane in lanes), strict=True)
        values = [b"".join(lane.to_bytes(8, "little") for lane in row) for row in rows] or [b""] * len(column)
        if column.null_count:
            values = [None if null else value for null, value in zip(_nulls(column), values, strict=True)]
    return [_NO_LENGTH if v is None else len(v).to_bytes(8, "little") + v for v in values]


def _joined(columns: Sequence[pa.Array]) -> pa.Array:
    """The bytes of a key of several columns, where strings or nulls make them differ in length."""
    # See core/casting.py.
    import pyarrow.compute as pc

    parts = [part for column in columns for part in _parts(column)]
    return pc.binary_join_element_wise(*parts, _NO_BYTES, null_handling="replace", null_replacement=b"")


def _parts(column: pa.Array) -> list[pa.Array]:
    """What one column adds to them."""
    if not _is_bytes(column.type):
        values = [] if pat.is_null(column.type) else _lanes(column)
        return [_packed([_lengths(column, 8 * len(values)), *values], column)]
    prefix = _packed([_lengths(column, _slices(column)[2])], column)
    return [prefix, column.cast(pa.large_binary())]


def _lengths(column: pa.Array, lengths: Any) -> U64:
    found = np.full(len(column), lengths, np.int64).view(np.uint64)
    if column.null_count:
        found[_nulls(column)] = _NULL_LENGTH
    return found


def _packed(lanes: list[U64], column: pa.Array) -> pa.Array:
    """The lanes of each row as its bytes; of a null only the first."""
    rows, width = len(column), len(lanes)
    matrix = np.stack(lanes, axis=1)
    lengths = np.full(rows, 8 * width, np.int64)
    if column.null_count and width > 1:
        gone = _nulls(column)
        lengths[gone] = 8
        keep = np.ones((rows, width), np.bool_)
        keep[gone, 1:] = False
        matrix = matrix[keep]
    offsets = np.zeros(rows + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix))]
    return pa.Array.from_buffers(pa.large_binary(), rows, buffers)
