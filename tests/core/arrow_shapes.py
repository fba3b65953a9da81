"""Arrow types and arrays of all shapes, for the tests of this room.

Values are plain Python, so that what comes out of the code under test can be compared with what went in by eyes
other than its own.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import types as pat

UNITS = ["s", "ms", "us", "ns"]
ZONES = [None, "UTC", "Europe/Paris", "+02:00"]
PLAIN = [
    pa.bool_(),
    *(t() for t in (pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64)),
    pa.float32(),
    pa.float64(),
    pa.date32(),
    pa.time32("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.time64("ns"),
    *(pa.duration(unit) for unit in UNITS),
    *(pa.timestamp(unit, zone) for unit in UNITS for zone in ZONES),
    pa.decimal32(7, 2),
    pa.decimal64(15, 3),
    pa.decimal128(38, 10),
    pa.decimal128(5, 5),
    pa.decimal256(20, 0),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(3),
]
WORDS = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)


def arrow_types(depth: int = 3) -> st.SearchStrategy[pa.DataType]:
    """Types that have a canonical one, nested too."""
    # Not in structs: under a null struct pyarrow leaves indices into an empty dictionary, which are unsound.
    coded = pa.dictionary(pa.int8(), pa.string())
    return st.sampled_from([coded, pa.list_(coded)]) | st.recursive(
        st.sampled_from([*PLAIN, pa.null(), pa.float16(), pa.date64()]),
        lambda inner: st.one_of(
            inner.map(pa.list_),
            inner.map(pa.large_list),
            st.builds(pa.list_, inner, st.integers(1, 3)),
            inner.map(lambda t: pa.list_(pa.field("element", t, nullable=pat.is_null(t)))),
            st.lists(st.tuples(NAMES, inner), min_size=1, max_size=3, unique_by=lambda f: f[0]).map(
                pa.struct
            ),
            st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32(), pa.large_string()]), inner),
        ),
        max_leaves=depth,
    )


def values_of(dtype: Any) -> st.SearchStrategy[Any]:
    """Python values of a type, None among them: exactly those that an array of it gives back."""
    return st.none() | present_values_of(dtype)


def present_values_of(dtype: Any) -> st.SearchStrategy[Any]:
    if pat.is_boolean(dtype):
        return st.booleans()
    if pat.is_integer(dtype):
        bits = dtype.bit_width
        return (
            st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            if pat.is_signed_integer(dtype)
            else st.integers(0, 2**bits - 1)
        )
    if pat.is_floating(dtype):
        return st.floats(width=dtype.bit_width, allow_nan=False)
    if pat.is_decimal(dtype):
        most = 10**dtype.precision - 1  # scaleb would round to the 28 digits of the context
        return st.integers(-most, most).map(lambda n: Decimal(f"{n}e{-dtype.scale}"))
    if pat.is_string(dtype) or pat.is_large_string(dtype) or pat.is_string_view(dtype):
        return WORDS
    if pat.is_fixed_size_binary(dtype):
        return st.binary(min_size=dtype.byte_width, max_size=dtype.byte_width)
    if pat.is_binary(dtype) or pat.is_large_binary(dtype) or pat.is_binary_view(dtype):
        return st.binary(max_size=30)
    if pat.is_date(dtype):
        return st.dates(dt.date(1700, 1, 1), dt.date(2250, 1, 1))
    if pat.is_timestamp(dtype):
        naive = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1))
        whole = naive.map(lambda moment: _whole(moment, dtype.unit))
        return whole.map(lambda moment: moment.replace(tzinfo=dt.UTC)) if dtype.tz else whole
    if pat.is_duration(dtype):
        return st.timedeltas(dt.timedelta(days=-9000), dt.timedelta(days=9000)).map(
            lambda d: _whole_length(d, dtype.unit)
        )
    if pat.is_time(dtype):
        return st.times().map(lambda moment: _whole(moment, dtype.unit))
    if pat.is_null(dtype):
        return st.none()
    return _nested_values(dtype)


def _nested_values(dtype: Any) -> st.SearchStrategy[Any]:
    if pat.is_dictionary(dtype):
        return present_values_of(dtype.value_type)
    if pat.is_struct(dtype):
        fields = [dtype.field(i) for i in range(dtype.num_fields)]
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in fields})
    if pat.is_map(dtype):
        pairs = st.tuples(present_values_of(dtype.key_type), values_of(dtype.item_type))
        return st.lists(pairs, max_size=3, unique_by=lambda pair: pair[0])
    size = dtype.list_size if pat.is_fixed_size_list(dtype) else None
    inner = values_of(dtype.value_type) if dtype.value_field.nullable else present_values_of(dtype.value_type)
    return st.lists(inner, min_size=size or 0, max_size=3 if size is None else size)


def _whole(moment: Any, unit: str) -> Any:
    return moment.replace(
        microsecond={"s": 0, "ms": moment.microsecond // 1000 * 1000}.get(unit, moment.microsecond)
    )


def _whole_length(length: dt.timedelta, unit: str) -> dt.timedelta:
    tick = dt.timedelta(microseconds={"s": 10**6, "ms": 10**3}.get(unit, 1))
    return length // tick * tick


def plain(value: Any) -> Any:
    """A value without what Arrow adds to it: zones, pandas types."""
    if isinstance(value, dt.datetime):
        value = dt.datetime(*value.timetuple()[:6], value.microsecond, tzinfo=value.tzinfo)
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value
