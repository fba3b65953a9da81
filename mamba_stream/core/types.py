"""Single types: which one the log stores for each, what it is called, and which fits into which."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Final

import polars as pl
import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.errors import UnsupportedType

DEEPEST: Final = 8
"""Lists in structs in maps ... to this depth."""
_UNITS: Final = ("s", "ms", "us", "ns")
_FIXED_NAMES: Final[dict[pa.DataType, str]] = {
    pa.null(): "Null",
    pa.bool_(): "Boolean",
    pa.int8(): "Int8",
    pa.int16(): "Int16",
    pa.int32(): "Int32",
    pa.int64(): "Int64",
    pa.uint8(): "UInt8",
    pa.uint16(): "UInt16",
    pa.uint32(): "UInt32",
    pa.uint64(): "UInt64",
    pa.float16(): "Float16",
    pa.float32(): "Float32",
    pa.float64(): "Float64",
    pa.date32(): "Date",
    pa.time64("ns"): "Time",
    pa.large_string(): "String",
    pa.large_binary(): "Binary",
}
_DIGITS: Final = {1: 3, 2: 5, 4: 10, 8: 20}
"""Decimal digits that the largest integer of so many bytes has (an int64 has one fewer)."""


def unsupported(column: object, dtype: object, remedy: str) -> UnsupportedType:
    return UnsupportedType(
        f"column {column!r} has type {dtype!s:.200}, which the log does not store: {remedy}"
    )


@lru_cache(maxsize=4096)
def canonical_type(dtype: pa.DataType, column: str, _depth: int = 1) -> pa.DataType:
    """The canonical type that holds every value of an Arrow type.

    Args:
        dtype: The Arrow type.
        column: The column that has it, for the message.

    Raises:
        UnsupportedType: There is none.
    """
    if dtype in _FIXED_NAMES:
        return dtype
    if pat.is_string(dtype) or pat.is_string_view(dtype):
        return pa.large_string()
    if pat.is_binary(dtype) or pat.is_binary_view(dtype) or pat.is_fixed_size_binary(dtype):
        return pa.large_binary()
    if pat.is_timestamp(dtype):
        return _canonical_timestamp(dtype, column)
    if pat.is_duration(dtype):
        return pa.duration("ms") if dtype.unit == "s" else dtype
    if pat.is_time(dtype):
        return pa.time64("ns")
    if pat.is_date(dtype):
        return pa.date32()
    if pat.is_decimal(dtype):
        return _canonical_decimal(dtype, column)
    if pat.is_dictionary(dtype):
        return canonical_type(dtype.value_type, column, _depth)
    if pat.is_struct(dtype) or pat.is_map(dtype) or pat.is_fixed_size_list(dtype) or _is_list(dtype):
        return _canonical_nested(dtype, column, _depth)
    raise unsupported(column, dtype, _ARROW_REMEDIES.get(_family(dtype), "cast it to a type that Polars has"))


def _family(dtype: pa.DataType) -> str:
    if isinstance(dtype, pa.BaseExtensionType):
        return "extension"
    if pat.is_union(dtype):
        return "union"
    return "run end" if pat.is_run_end_encoded(dtype) else ""


_ARROW_REMEDIES: Final = {
    "extension": "store its storage type",
    "union": "use a struct with one field for each alternative",
    "run end": "decode it with pyarrow.compute.run_end_decode",
}


def _canonical_timestamp(dtype: pa.TimestampType, column: str) -> pa.DataType:
    unit = "ms" if dtype.unit == "s" else dtype.unit
    if not dtype.tz or dtype.tz == "UTC":
        return pa.timestamp(unit, dtype.tz or None)
    zone = "UTC" if dtype.tz == "Z" else dtype.tz
    try:
        parsed = pl.Series(pa.array([], pa.timestamp(unit, zone))).dtype
    except pl.exceptions.PolarsError:
        raise unsupported(
            column, dtype, "its time zone is not in the time zone database; 'UTC' or 'Europe/Paris' are"
        ) from None
    return pa.timestamp(unit, parsed.time_zone)  # type: ignore[attr-defined]  # it is a Datetime


def _canonical_decimal(dtype: Any, column: str) -> pa.DataType:
    if not (1 <= dtype.precision <= 38 and 0 <= dtype.scale <= dtype.precision):
        raise unsupported(column, dtype, "a decimal has at most 38 digits, and a scale between 0 and those")
    return pa.decimal128(dtype.precision, dtype.scale)


def _canonical_nested(dtype: Any, column: str, depth: int) -> pa.DataType:
    if depth > DEEPEST:
        raise unsupported(column, dtype, f"it is nested more than {DEEPEST} levels deep")
    if pat.is_struct(dtype):
        fields = [dtype.field(i) for i in range(dtype.num_fields)]
        if len({field.name for field in fields}) < len(fields):
            raise unsupported(column, dtype, "two of its fields have the same name")
        if any("\0" in field.name for field in fields):  # names travel between libraries as C strings
            raise unsupported(column, dtype, "the name of a field contains a NUL")
        return pa.struct([(f.name, canonical_type(f.type, column, depth + 1)) for f in fields])
    if pat.is_map(dtype):
        key = canonical_type(dtype.key_type, column, depth + 1)
        return pa.map_(key, canonical_type(dtype.item_type, column, depth + 1))
    inner = canonical_type(dtype.value_type, column, depth + 1)
    if not pat.is_fixed_size_list(dtype):
        return pa.large_list(inner)
    if dtype.list_size < 1:
        raise unsupported(column, dtype, "its lists are always empty")
    return pa.list_(inner, dtype.list_size)


def type_name(dtype: pa.DataType) -> str:
    """A type in the words of Polars, or in Arrow's where Polars has none."""
    if name := _FIXED_NAMES.get(dtype):
        return name
    if pat.is_timestamp(dtype):
        return f"Datetime('{dtype.unit}', '{dtype.tz}')" if dtype.tz else f"Datetime('{dtype.unit}')"
    if pat.is_duration(dtype):
        return f"Duration('{dtype.unit}')"
    if pat.is_decimal(dtype):
        return f"Decimal({dtype.precision}, {dtype.scale})"
    if pat.is_string(dtype) or pat.is_string_view(dtype):
        return "String"
    if pat.is_binary(dtype) or pat.is_binary_view(dtype):
        return "Binary"
    if pat.is_dictionary(dtype):
        return f"Categorical({type_name(dtype.value_type)})"
    if pat.is_fixed_size_list(dtype):
        return f"Array({type_name(dtype.value_type)}, {dtype.list_size})"
    if pat.is_map(dtype):
        return f"Map({type_name(dtype.key_type)}, {type_name(dtype.item_type)})"
    if _is_list(dtype):
        return f"List({type_name(dtype.value_type)})"
    if pat.is_struct(dtype):
        fields = (f"{json.dumps(f.name)}: {type_name(f.type)}" for f in _struct_fields(dtype))
        return f"Struct({{{', '.join(fields)}}})"
    return str(dtype)


def _is_list(dtype: pa.DataType) -> bool:
    return bool(
        pat.is_list(dtype)
        or pat.is_large_list(dtype)
        or pat.is_list_view(dtype)
        or pat.is_large_list_view(dtype)
    )


def _struct_fields(dtype: Any) -> list[pa.Field]:
    return [dtype.field(i) for i in range(dtype.num_fields)]


def fits(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether a column of one type may be appended to a column of another, canonical type.

    It may where the wanted type holds every value of the other. That is a property of the types, so that an
    append that worked yesterday does not fail for today's values; with two exceptions that are checked value
    by value: an integer goes into a float that holds it exactly, a time into a finer unit that reaches it.
    """
    if have == want or pat.is_null(have):
        return True
    if pat.is_dictionary(have):
        return fits(have.value_type, want)
    if pat.is_large_string(want):
        return bool(pat.is_string(have) or pat.is_string_view(have))
    if pat.is_large_binary(want):
        return bool(pat.is_binary(have) or pat.is_binary_view(have) or pat.is_fixed_size_binary(have))
    if pat.is_nested(want):
        return _nested_fits(have, want)
    if pat.is_temporal(want):
        return _temporal_fits(have, want)
    return _number_fits(have, want)


def _number_fits(have: Any, want: Any) -> bool:
    if pat.is_floating(want):
        smaller = pat.is_floating(have) and have.bit_width < want.bit_width
        return bool(smaller or (pat.is_integer(have) and want.bit_width > 16))
    if pat.is_decimal(want):
        if pat.is_decimal(have):
            digits = have.precision - have.scale
            return bool(have.scale <= want.scale and digits <= want.precision - want.scale)
        if not pat.is_integer(have):
            return False
        digits = 19 if have == pa.int64() else _DIGITS[have.bit_width // 8]
        return bool(digits <= want.precision - want.scale)
    if not (pat.is_integer(have) and pat.is_integer(want)):
        return False
    if pat.is_signed_integer(have):
        return bool(pat.is_signed_integer(want) and have.bit_width <= want.bit_width)
    return bool(have.bit_width < want.bit_width)


def _temporal_fits(have: Any, want: Any) -> bool:
    if pat.is_timestamp(want):
        return bool(pat.is_date(have) or (pat.is_timestamp(have) and _no_finer(have, want)))
    if pat.is_duration(want):
        return bool(pat.is_duration(have) and _no_finer(have, want))
    return bool(pat.is_date(have) if pat.is_date(want) else pat.is_time(have) and pat.is_time(want))


def _no_finer(have: Any, want: Any) -> bool:
    return _UNITS.index(have.unit) <= _UNITS.index(want.unit)


def _nested_fits(have: Any, want: Any) -> bool:
    if pat.is_struct(want):
        if not pat.is_struct(have):
            return False
        offered = {field.name: field.type for field in _struct_fields(have)}
        wanted = {field.name: field.type for field in _struct_fields(want)}
        return len(offered) == have.num_fields and (
            offered.keys() == wanted.keys() and all(fits(offered[name], wanted[name]) for name in wanted)
        )
    if pat.is_map(want):
        keys_fit = pat.is_map(have) and fits(have.key_type, want.key_type)
        return keys_fit and fits(have.item_type, want.item_type)
    if pat.is_fixed_size_list(want):
        same = pat.is_fixed_size_list(have) and have.list_size == want.list_size
        return bool(same) and fits(have.value_type, want.value_type)
    return (_is_list(have) or pat.is_fixed_size_list(have)) and fits(have.value_type, want.value_type)
