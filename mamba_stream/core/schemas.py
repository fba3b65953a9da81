"""Schemas as the log stores them: one Arrow type for each thing that a Polars column can be.

A canonical type is one that goes to Polars and back (at the oldest compatibility level) unchanged: strings
and binaries with 64-bit offsets and no views, no dictionaries, times of day in nanoseconds, decimals of 128
bits, every field nullable, no metadata. Whatever arrives in another form is given the canonical one that
holds it; what has none is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import polars as pl
import pyarrow as pa
import xxhash
from pyarrow import types as pat

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.types import canonical_type, fits, type_name, unsupported
from mamba_stream.errors import ColumnNotFound, DataCorrupted, InvalidInput, UnsupportedType

MOST_COLUMNS: Final = 2_000


def canonical_schema(schema: Any) -> pa.Schema:
    """The schema in canonical types, without metadata.

    Args:
        schema: An Arrow or Polars schema, a dict of Polars (or Arrow, or Python) types, or a frame, table or
            batch of Polars, Arrow or pandas, of which only the schema is used.

    Raises:
        UnsupportedType: A column has a type that the log does not store.
        InvalidInput: It is no schema; or has no columns, too many, or names that are empty or occur twice.
    """
    fields: list[tuple[str, pa.DataType]] = []
    seen: set[str] = set()
    for name, dtype in _fields_of(schema):
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"a column name is a str that is not empty, not {name!r:.80}")
        if "\0" in name:  # names travel between libraries as C strings
            raise InvalidInput(f"column name {name!r:.80} contains a NUL")
        if name in seen:
            raise InvalidInput(f"column {name!r} occurs twice: give every column a name of its own")
        seen.add(name)
        fields.append((name, canonical_type(dtype, name)))
    if not fields:
        raise InvalidInput("a schema needs at least one column")
    if len(fields) > MOST_COLUMNS:
        raise InvalidInput(f"a schema has at most {MOST_COLUMNS} columns, not {len(fields)}")
    try:
        return pa.schema(fields)
    except UnicodeEncodeError as error:
        raise InvalidInput(f"a column name is not valid Unicode: {error.object!r:.80}") from None


def _fields_of(schema: Any) -> list[tuple[Any, pa.DataType]]:
    if isinstance(schema, pl.LazyFrame):
        schema = schema.collect_schema()
    elif isinstance(schema, (pl.DataFrame, pa.Table, pa.RecordBatch, pa.RecordBatchReader)):
        schema = schema.schema
    elif is_pandas(schema):
        try:
            schema = pa.Schema.from_pandas(schema, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise UnsupportedType(f"a column of the pandas frame has no Arrow type: {error}") from error
    if isinstance(schema, pa.Schema):
        return [(field.name, field.type) for field in schema]
    if isinstance(schema, pl.Schema):
        return [(name, _arrow_of(dtype, name)) for name, dtype in schema.items()]
    if isinstance(schema, Mapping):
        return [(name, _arrow_type(dtype, name)) for name, dtype in schema.items()]
    raise InvalidInput(
        "a schema is an Arrow or Polars schema, a dict such as {'price': pl.Float64}, or a frame, "
        f"not {type(schema).__name__}: {schema!r:.80}"
    )


def is_pandas(value: object) -> bool:
    """Whether it is a pandas frame, asked without importing pandas."""
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def _arrow_type(dtype: Any, column: Any) -> pa.DataType:
    """The Arrow type of a Polars or Python type, not yet canonical."""
    if isinstance(dtype, pa.DataType):
        return dtype
    try:
        (parsed,) = pl.Schema({"x": _DEFAULTS.get(dtype, dtype)}).dtypes()
    except (TypeError, ValueError):
        raise InvalidInput(
            f"column {column!r} has no type: {dtype!r:.80}; write a Polars type such as pl.Float64"
        ) from None
    return _arrow_of(parsed, column)


def _arrow_of(dtype: pl.DataType, column: Any) -> pa.DataType:
    _check_polars_type(dtype, column)
    return _exported(dtype)


@lru_cache(maxsize=4096)
def _exported(dtype: pl.DataType) -> pa.DataType:
    return pl.Series([], dtype=dtype).to_arrow(compat_level=pl.CompatLevel.oldest()).type


_DEFAULTS: Final[dict[Any, Any]] = {
    pl.Datetime: pl.Datetime("us"),
    pl.Duration: pl.Duration("us"),
    pl.Categorical: pl.String,
}


def _check_polars_type(dtype: Any, column: Any) -> None:
    remedy = _POLARS_REMEDIES.get(dtype.base_type())
    if remedy or issubclass(dtype.base_type(), pl.BaseExtension):
        raise unsupported(column, dtype, remedy or "store its storage type")
    for inner in _polars_children(dtype):
        _check_polars_type(inner, column)


def _polars_children(dtype: Any) -> list[Any]:
    if isinstance(dtype, pl.Struct):
        return [field.dtype for field in dtype.fields]
    children = [getattr(dtype, name, None) for name in ("inner", "key", "value")]
    return [child for child in children if child is not None]


_POLARS_REMEDIES: Final[dict[Any, str]] = {
    pl.Object: "Python objects are not stored; turn them into strings, structs or binaries",
    pl.Int128: "cast it to Int64 or to Decimal(38, 0)",
    pl.UInt128: "cast it to UInt64 or to Decimal(38, 0)",
    pl.Unknown: "say which type it has",
}


def polars_schema(schema: pa.Schema) -> pl.Schema:
    """The Polars schema of a canonical schema."""
    return pl.Schema(schema)


def schema_bytes(schema: pa.Schema) -> bytes:
    """The schema as an Arrow IPC schema message."""
    return bytes(schema.serialize())


def schema_from_bytes(message: bytes) -> pa.Schema:
    """The schema that :func:`schema_bytes` wrote.

    Raises:
        DataCorrupted: The bytes are no such message.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, OSError, EOFError) as error:
        raise DataCorrupted(f"stored bytes are not a schema: {error}") from error


def fingerprint(schema: pa.Schema) -> int:
    """64 bits that tell canonical schemas apart: XXH3 of their names and types in words.

    It is stored, so :func:`type_name` may learn new types but never describe an old one differently.
    """
    words = [f"{json.dumps(field.name)}: {type_name(field.type)}" for field in schema]
    return int(xxhash.xxh3_64_intdigest("\n".join(words).encode()))


def time_type_of(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a time column.

    Raises:
        ColumnNotFound: There is no such column.
        InvalidInput: It is neither a timestamp nor a date.
    """
    at = schema.get_field_index(column)
    if at < 0:
        raise ColumnNotFound(f"there is no column {column!r}{did_you_mean(column, schema.names)}")
    dtype = schema.field(at).type
    if not (pat.is_timestamp(dtype) or pat.is_date32(dtype)):
        raise InvalidInput(
            f"time column {column!r} is {type_name(dtype)}: time is a Datetime or a Date; "
            f"convert it first, as in pl.from_epoch({column!r}) or pl.col({column!r}).str.to_datetime()"
        )
    return dtype


def describe_difference(have: pa.Schema, want: pa.Schema, *, whose: str = "topic has") -> str:
    """What keeps columns from fitting a topic, in words; empty where they fit.

    Args:
        have: The columns on offer, in any order and of any Arrow types.
        want: The topic's canonical schema.
        whose: Who wants them, with a verb.
    """
    offered: dict[str, pa.DataType] = {}
    words = []
    for field in have:
        if field.name in offered:
            words.append(f"column {field.name!r} occurs twice")
        offered[field.name] = field.type
    missing = [field for field in want if field.name not in offered]
    words += [f"missing column {field.name!r} ({type_name(field.type)})" for field in missing]
    names = [field.name for field in missing]
    words += [
        f"unexpected column {name!r}{did_you_mean(name, names)}"
        for name in offered
        if want.get_field_index(name) < 0
    ]
    words += [
        f"{field.name!r} is {type_name(offered[field.name])}, {whose} {type_name(field.type)}"
        for field in want
        if field.name in offered and not fits(offered[field.name], field.type)
    ]
    shown = words[:12]
    return "; ".join(shown) + (f"; and {len(words) - len(shown)} more" if words[12:] else "")
