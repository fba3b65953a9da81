"""Keys as 64-bit codes: equal keys have equal codes, and where possible different keys have different ones.

Whole numbers, dates, times and booleans that fit into 64 bits together, each with a bit for null, are packed: the
code is the key. So are several columns of which each is too wide where a key's own numbers are small, as ids that count
up are. Anything else is hashed by Polars, whose equality of keys this is: null equals null, NaN equals NaN,
-0.0 equals 0.0. Codes live in memory only; what is stored are the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

Codes = NDArray[np.uint64]

_SEED: Final = 0x6D61_6D62
_BITS: Final[dict[type[pl.DataType], int]] = {
    pl.Boolean: 1,
    pl.Int8: 8,
    pl.Int16: 16,
    pl.Int32: 32,
    pl.Int64: 64,
    pl.UInt8: 8,
    pl.UInt16: 16,
    pl.UInt32: 32,
    pl.UInt64: 64,
    pl.Date: 32,
    pl.Datetime: 64,
    pl.Duration: 64,
    pl.Time: 64,
}
_NULL: Final = np.uint64(0x8E5A_F1D3_40C6_29B7)
"""The code of null in a column that needs all 64 bits for its values; one of these has this code, too."""

_HASHED: Final = np.uint64(1 << 63)


class Coding(msgspec.Struct, frozen=True):
    """How keys of one schema get their codes.

    Attributes:
        codes: Gives the code of each row of a frame of key columns.
        shared: Gives the rows, by their codes, whose code may belong to several keys; ``None`` means none ever.
    """

    codes: Callable[[pl.DataFrame], Codes]
    shared: Callable[[Codes], NDArray[np.bool_]] | None


def coding_of(schema: Mapping[str, pl.DataType]) -> Coding:
    """The coding for keys of these columns."""
    bits = [_BITS.get(type(dtype), 64) for dtype in schema.values()]
    whole = all(type(dtype) in _BITS for dtype in schema.values())
    if whole and sum(bits) + len(bits) <= 64:
        return Coding(lambda keys: _packed(keys.get_columns(), bits), None)
    if whole and len(bits) == 1:
        return Coding(_of_one, lambda codes: codes == _NULL)
    if whole:
        return Coding(_small_or_hashed, lambda codes: codes >= _HASHED)
    return Coding(_hashed, lambda codes: np.ones(len(codes), np.bool_))


def _hashed(keys: pl.DataFrame) -> Codes:
    return keys.hash_rows(_SEED).to_numpy()


def _small_or_hashed(keys: pl.DataFrame) -> Codes:
    """Non-negative numbers that fit into 63 bits together are packed; the codes of other keys have the highest bit."""
    width = np.uint64(63 // keys.width)
    code = np.zeros(keys.height, np.uint64)
    large: NDArray[np.bool_] | None = None
    for column in keys.get_columns():
        values = column.cast(pl.UInt64, wrap_numerical=True)
        if column.null_count():
            values = values.fill_null((1 << 64) - 1)
        numbers = values.to_numpy()
        code = (code << width) | numbers
        if len(numbers) and numbers.max() >> width:
            beyond = numbers >> width > 0
            large = beyond if large is None else large | beyond
    if large is not None:
        code[large] = _hashed(keys.filter(large)) | _HASHED
    return code


def _packed(columns: Sequence[pl.Series], bits: Sequence[int]) -> Codes:
    code = np.zeros(len(columns[0]), np.uint64)
    for column, width in zip(columns, bits, strict=True):
        values = column.cast(pl.Int64)
        code <<= np.uint64(width + 1)
        if column.null_count():
            code |= column.is_null().to_numpy()
            values = values.fill_null(0)
        code |= (values.to_numpy().view(np.uint64) & np.uint64((1 << width) - 1)) << np.uint64(1)
    return code


def _of_one(keys: pl.DataFrame) -> Codes:
    column = keys.to_series()
    nulls = column.is_null().to_numpy() if column.null_count() else None
    if column.dtype != pl.UInt64:
        column = column.cast(pl.Int64)
    if nulls is None:
        return column.to_numpy().view(np.uint64)
    codes = column.fill_null(0).to_numpy().view(np.uint64)
    return np.where(nulls, _NULL, codes)
