"""Columns from Python values, strictly.

Arrow's own conversion is generous: it cuts ``1.5`` to ``1`` for an integer column, a datetime to its date,
microseconds to milliseconds, and drops the keys of a dict that a struct does not have. Here every value
either fits its column exactly or is refused by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.types import type_name
from mamba_stream.errors import SchemaMismatch


class _Misfit(Exception):
    """The value at an index does not fit; the levels around it translate the index outwards."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


def batch_from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, *, to: str) -> pa.RecordBatch:
    """One batch from a list of dicts. A key that a row lacks is null there.

    Args:
        rows: The rows.
        schema: The canonical schema.
        to: Where the rows go, for the message.

    Raises:
        SchemaMismatch: A row has an unknown key, or a value that its column does not hold.
    """
    known = set(schema.names)
    if not set().union(*rows) <= known:
        index, unknown = next((i, key) for i, row in enumerate(rows) for key in row if key not in known)
        hint = did_you_mean(str(unknown), schema.names)
        raise SchemaMismatch(f"cannot append to {to}: row {index} has an unexpected key {unknown!r}{hint}")
    columns = [
        column_from_values([row.get(field.name) for row in rows], field.type, column=field.name, to=to)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def column_from_values(values: Sequence[Any], dtype: pa.DataType, *, column: str, to: str) -> pa.Array:
    """An array of a canonical type from Python values, of which None is null.

    Raises:
        SchemaMismatch: A value does not fit; the message names its row and the column.
    """
    try:
        return _array(values, dtype)
    except _Misfit as misfit:
        where = f"row {misfit.index}, column {column!r} ({type_name(dtype)})"
        raise SchemaMismatch(f"cannot append to {to}: {where}: {misfit.reason}") from None


def _array(values: Sequence[Any], dtype: Any) -> pa.Array:
    accepted, forms = _accepted(dtype)
    kinds = set(map(type, values))
    if any(kind.__name__ in _MISSING for kind in kinds):
        values = [None if type(value).__name__ in _MISSING else value for value in values]
        kinds = set(map(type, values))
    for kind in kinds:
        if kind is not type(None) and not accepted(kind):
            index = next(i for i, value in enumerate(values) if type(value) is kind)
            raise _Misfit(index, f"{values[index]!r:.80} is {_article(kind)}, not {forms}")
    if pat.is_struct(dtype):
        return _structs(values, dtype)
    if pat.is_map(dtype):
        return _maps(values, dtype)
    if pat.is_nested(dtype):
        return _lists(values, dtype)
    return _plain(values, dtype)


_MISSING: Final = ("NaTType", "NAType")
"""What pandas has in the place of a missing value, in rows that came from its frames."""


def _article(kind: type) -> str:
    return f"an {kind.__name__}" if kind.__name__[0] in "aeiou" else f"a {kind.__name__}"


def _accepted(dtype: Any) -> tuple[Callable[[type], bool], str]:
    """Which Python types a column takes, and their names."""
    for is_kind, accepted, forms in _ACCEPTED:
        if is_kind(dtype):
            return accepted, forms
    raise AssertionError(f"{dtype} is not canonical")


def _any_of(*kinds: type, but: tuple[type, ...] = ()) -> Callable[[type], bool]:
    return lambda kind: issubclass(kind, kinds) and not (but and issubclass(kind, but))


_BOOLS = (bool, np.bool_)
_ACCEPTED: Final[tuple[tuple[Callable[[Any], bool], Callable[[type], bool], str], ...]] = (
    (pat.is_null, lambda _: False, "None"),
    (pat.is_boolean, _any_of(*_BOOLS), "a bool"),
    (pat.is_integer, _any_of(Integral, but=_BOOLS), "an int"),
    (pat.is_floating, _any_of(Real, but=_BOOLS), "a float or int"),
    (pat.is_decimal, _any_of(Decimal, int, but=_BOOLS), "a Decimal or int"),
    (pat.is_large_string, _any_of(str), "a str"),
    (pat.is_large_binary, _any_of(bytes, bytearray, memoryview), "bytes"),
    (pat.is_timestamp, _any_of(date), "a datetime"),
    (pat.is_date, _any_of(date, but=(datetime,)), "a date"),
    (pat.is_duration, _any_of(timedelta), "a timedelta"),
    (pat.is_time, _any_of(time), "a time"),
    (pat.is_struct, _any_of(Mapping), "a dict"),
    (pat.is_map, _any_of(Mapping, list, tuple), "a dict or a list of pairs"),
    (pat.is_nested, _any_of(list, tuple, np.ndarray), "a list"),
)


def _plain(values: Sequence[Any], dtype: Any) -> pa.Array:
    try:
        array = _convert(values, dtype)
    except _REFUSALS as error:
        index = _first_misfit(values, dtype)
        raise _Misfit(index, f"{values[index]!r:.80} does not fit: {error}") from None
    if pat.is_floating(dtype) and dtype.bit_width < 64:
        for index, value in enumerate(values):
            if value is not None and math.isfinite(value) and not math.isfinite(array[index].as_py()):
                raise _Misfit(index, f"{value!r} does not fit: it is too large")
    return array


def _moment(value: Any, unit: str) -> Any:
    kind = type(value)
    if kind is datetime or kind is timedelta or value is None:
        return value
    if kind is date:
        return datetime.combine(value, time())
    if unit != "ns" and (any(getattr(value, name, 0) for name in ("nanosecond", "nanoseconds"))):
        raise ValueError("it has nanoseconds")
    return value


_REFUSALS: Final = (pa.ArrowException, TypeError, ValueError, OverflowError)


def _convert(values: Sequence[Any], dtype: Any) -> pa.Array:
    if pat.is_timestamp(dtype) or pat.is_duration(dtype):
        values = [_moment(v, dtype.unit) for v in values]
    if pat.is_time(dtype) and any(v is not None and v.tzinfo for v in values):
        raise ValueError("a time of day has no zone")
    if (pat.is_timestamp(dtype) or pat.is_duration(dtype)) and dtype.unit == "ms":
        # Built as microseconds first, since Arrow checks for lost fractions only when it casts.
        finer = pa.timestamp("us", dtype.tz) if pat.is_timestamp(dtype) else pa.duration("us")
        return pa.array(values, finer).cast(dtype)
    if pat.is_integer(dtype):
        values = [None if v is None else int(v) for v in values]
    return pa.array(values, dtype)


def _first_misfit(values: Sequence[Any], dtype: Any) -> int:
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _convert(values[low:middle], dtype)
            low = middle
        except _REFUSALS:
            high = middle
    return low


def _structs(values: Sequence[Any], dtype: Any) -> pa.Array:
    fields = [dtype.field(i) for i in range(dtype.num_fields)]
    names = {field.name for field in fields}
    for index, value in enumerate(values):
        if value is not None and not value.keys() <= names:
            unknown = next(key for key in value if key not in names)
            raise _Misfit(index, f"unexpected key {unknown!r}{did_you_mean(str(unknown), names)}")
    nulls = pa.array([value is None for value in values], pa.bool_())
    if not fields:
        return pa.array(values, dtype)
    children = []
    for field in fields:
        try:
            children.append(_array([None if v is None else v.get(field.name) for v in values], field.type))
        except _Misfit as misfit:
            raise _Misfit(misfit.index, f"field {field.name!r}: {misfit.reason}") from None
    return pa.StructArray.from_arrays(children, fields=fields, mask=nulls)


def _maps(values: Sequence[Any], dtype: Any) -> pa.Array:
    pairs = [None if v is None else list(v.items() if isinstance(v, Mapping) else v) for v in values]
    for index, entries in enumerate(pairs):
        for pair in entries or ():
            if not (isinstance(pair, tuple) and len(pair) == 2 and pair[0] is not None):
                raise _Misfit(index, f"{pair!r:.80} is not a pair of a key and a value")
    flat, offsets = _flatten(pairs)
    keys = _inner([key for key, _ in flat], dtype.key_type, offsets)
    items = _inner([item for _, item in flat], dtype.item_type, offsets)
    starts = [None if v is None else start for v, start in zip(pairs, offsets, strict=False)]
    bounds = pa.array([*starts, offsets[-1]], pa.int32())
    return pa.MapArray.from_arrays(bounds, keys, items).cast(dtype)


def _lists(values: Sequence[Any], dtype: Any) -> pa.Array:
    if pat.is_fixed_size_list(dtype):
        size = dtype.list_size
        for index, value in enumerate(values):
            if value is not None and len(value) != size:
                raise _Misfit(index, f"a list of {len(value)} is not a list of {size}")
        flat, offsets = _flatten([[None] * size if value is None else value for value in values])
        nulls = pa.array([value is None for value in values], pa.bool_())
        inner = _inner(flat, dtype.value_type, offsets)
        return pa.FixedSizeListArray.from_arrays(inner, type=dtype, mask=nulls)
    flat, offsets = _flatten(values)
    starts = [None if v is None else start for v, start in zip(values, offsets, strict=False)]
    bounds = pa.array([*starts, offsets[-1]], pa.int64())
    return pa.LargeListArray.from_arrays(bounds, _inner(flat, dtype.value_type, offsets), type=dtype)


def _flatten(lists: Iterable[Sequence[Any] | None]) -> tuple[list[Any], list[int]]:
    """All elements in order, and where each list starts, with the end."""
    whole = [() if one is None else one for one in lists]
    return [element for one in whole for element in one], [0, *accumulate(len(one) for one in whole)]


def _inner(values: Sequence[Any], dtype: pa.DataType, offsets: list[int]) -> pa.Array:
    try:
        return _array(values, dtype)
    except _Misfit as misfit:
        outer = int(np.searchsorted(offsets, misfit.index, side="right")) - 1
        raise _Misfit(outer, f"element {misfit.index - offsets[outer]}: {misfit.reason}") from None
