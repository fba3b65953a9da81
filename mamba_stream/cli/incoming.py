"""Rows from NDJSON, CSV or Parquet, as the topic's schema wants them, or with a schema guessed from them.

NDJSON and CSV are checked value by value against the schema, so that an error names line and column. A key
that a line does not have is null; one that the topic does not have is refused. Text is a time where the topic
has one: ISO 8601, UTC unless it says otherwise.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import select
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mamba_stream.core.durations import to_time
from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import InvalidInput, SchemaMismatch

FORMATS = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}

_ROWS = 65_536
_SAMPLE = 10_000
_BLOCK = 1 << 22
_QUIET = 0.05
_NESTED = (bytes, date, datetime, time, timedelta, Decimal)
_MOMENT, _DATE = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d", r"^\d{4}-\d\d-\d\d$"


class Incoming(Protocol):
    """Rows on their way into a topic."""

    def guess(self) -> pl.Schema | pa.Schema:
        """The schema that these rows seem to have, from the first of them."""
        ...

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows, as a schema wants them.

        Raises:
            SchemaMismatch: A row is not of the schema; the message says which and why.
        """
        ...


def incoming(source: BinaryIO, form: str) -> Incoming:
    """Rows of a file or a pipe; ``form`` is one of ``FORMATS``' values."""
    match form:
        case "ndjson":
            return _Lines(source)
        case "csv":
            return _Cells(source)
        case _:
            return _Columns(source)


class _Lines:
    """NDJSON: a pipe's rows go on as soon as it falls quiet, so that live input is not held back."""

    def __init__(self, source: BinaryIO) -> None:
        self._blocks = _line_blocks(source)

    def guess(self) -> pl.Schema:
        first = next(self._blocks, [])
        self._blocks = itertools.chain([first], self._blocks)
        rows = [_located(msgspec.json.decode, line, f"line {number}") for number, line in _numbered(first)]
        for number, row in enumerate(rows[:_SAMPLE], 1):
            if not isinstance(row, dict):
                raise SchemaMismatch(f"line {number}: not a JSON object")
        return _guessed(lambda: pl.DataFrame(rows[:_SAMPLE], infer_schema_length=None))

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        row_type = _row_type(schema)
        decode = msgspec.json.Decoder(row_type).decode
        before = 0
        for lines in self._blocks:
            numbered = list(_numbered(lines, before))
            before += len(lines)
            for part in _chunks(numbered):
                rows = [(n, _located(decode, line, f"line {n}", schema)) for n, line in part]
                yield _record_batch(rows, schema)


class _Cells:
    """CSV with a header; an empty cell is null."""

    def __init__(self, source: BinaryIO) -> None:
        # Lines end at \n only: text may hold what Python's own line splitting takes for an end.
        self._reader = csv.reader((line.decode() for line in source), strict=True)
        rows = self._cells()
        self._header = [name.removeprefix("\ufeff") for name in next(rows, (0, []))[1]]
        self._rows: Iterator[tuple[int, list[str]]] = rows

    def guess(self) -> pl.Schema:
        sample = list(itertools.islice(self._rows, _SAMPLE))
        self._rows = itertools.chain(sample, self._rows)
        text = io.StringIO()
        csv.writer(text).writerows([self._header, *(row for _, row in sample)])
        return _guessed(lambda: pl.read_csv(text.getvalue().encode(), infer_schema_length=None))

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        row_type = _row_type(schema)
        if unknown := [name for name in self._header if name not in schema.names]:
            raise SchemaMismatch(f"header: unexpected {unknown[0]!r}{did_you_mean(unknown[0], schema.names)}")

        def convert(cells: list[str]) -> msgspec.Struct:
            if len(cells) != len(self._header):
                raise msgspec.ValidationError(f"{len(cells)} cells, and the header has {len(self._header)}")
            named = {name: cell for name, cell in zip(self._header, cells, strict=True) if cell}
            row: msgspec.Struct = msgspec.convert(named, row_type, strict=False)
            return row

        for part in _chunks(self._rows):
            rows = [(n, _located(convert, cells, f"line {n}", schema)) for n, cells in part]
            yield _record_batch(rows, schema)

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        try:
            for row in self._reader:
                if row:
                    yield self._reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise SchemaMismatch(f"line {self._reader.line_num + 1}: {error}") from error


class _Columns:
    """Parquet; the log itself casts what fits."""

    def __init__(self, source: BinaryIO) -> None:
        try:
            # A pipe cannot be read from its end, where Parquet keeps its table of contents.
            self._file = pq.ParquetFile(source if source.seekable() else io.BytesIO(source.read()))
        except pa.ArrowInvalid as error:
            raise InvalidInput(f"not a Parquet file: {error}") from error

    def guess(self) -> pa.Schema:
        return self._file.schema_arrow.remove_metadata()

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(_ROWS)


def _line_blocks(source: BinaryIO) -> Iterator[list[bytes]]:
    """Whole lines, some megabytes at a time; from a pipe, those that are there once it falls quiet."""
    descriptor = source.fileno()
    rest = b""
    ended = False
    while not ended:
        block = bytearray()
        while len(block) < _BLOCK:
            read = os.read(descriptor, _BLOCK - len(block))
            if not read:
                ended = True
                break
            block += read
            if not select.select([descriptor], [], [], _QUIET)[0]:
                break
        lines = (rest + bytes(block)).split(b"\n")
        rest = lines.pop() if not ended else b""
        if lines:
            yield lines


def _numbered(lines: Iterable[bytes], before: int = 0) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(lines, before + 1) if line.strip())


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _ROWS)):
        yield chunk


def _located(convert: Callable[[Any], Any], value: Any, where: str, schema: pa.Schema | None = None) -> Any:
    try:
        return convert(value)
    except msgspec.MsgspecError as error:
        message = str(error).replace(" - at `$.", " in `").replace(" | null", "")
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
        if unknown is not None and schema is not None:
            message = f"unexpected {unknown[1]!r}{did_you_mean(unknown[1], schema.names)}"
        raise SchemaMismatch(f"{where}: {message}") from error


def _guessed(read: Callable[[], pl.DataFrame]) -> pl.Schema:
    """Columns of text that is all dates or moments become times; a column of nulls only becomes text."""
    try:
        frame = read()
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise SchemaMismatch(f"no schema fits these rows ({reason}): create the topic first") from error
    schema = frame.schema
    for name, dtype in frame.schema.items():
        values = frame[name].drop_nulls()
        if dtype == pl.Null:
            schema[name] = pl.String()
        elif dtype == pl.String and len(values):
            if values.str.contains(_MOMENT).all():
                schema[name] = pl.Datetime("us", "UTC")
            elif values.str.contains(_DATE).all():
                schema[name] = pl.Date()
    return schema


def _row_type(schema: pa.Schema) -> type[msgspec.Struct]:
    return _struct([(field.name, _column_type(field.type)) for field in schema])


def _struct(fields: list[tuple[str, Any]]) -> type[msgspec.Struct]:
    # Columns may have names that are no identifiers: the attributes are numbered.
    return msgspec.defstruct(
        "Row",
        [
            (f"c{i}", kind | None, msgspec.field(name=name, default=None))
            for i, (name, kind) in enumerate(fields)
        ],
        forbid_unknown_fields=True,
    )


def _column_type(dtype: pa.DataType) -> Any:
    # Moments are read as text: Python's own drop what is finer than a microsecond.
    return str if pa.types.is_timestamp(dtype) else _value_type(dtype)


def _value_type(dtype: pa.DataType) -> Any:
    """What Python type a JSON or CSV value of this column has."""
    kind = pa.types
    if kind.is_integer(dtype):
        bits = dtype.bit_width
        if bits == 64:
            return int
        low, high = (
            (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.is_signed_integer(dtype) else (0, (1 << bits) - 1)
        )
        return Annotated[int, msgspec.Meta(ge=low, le=high)]
    if kind.is_struct(dtype):
        return _struct([(field.name, _value_type(field.type)) for field in dtype])
    if kind.is_list(dtype) or kind.is_large_list(dtype) or kind.is_fixed_size_list(dtype):
        return list[_value_type(dtype.value_type) | None]  # type: ignore[misc] # built while it runs
    for holds, value in (
        (kind.is_floating, float),
        (kind.is_boolean, bool),
        (kind.is_large_string, str),
        (kind.is_large_binary, bytes),
        (kind.is_timestamp, datetime),
        (kind.is_date, date),
        (kind.is_time, time),
        (kind.is_duration, timedelta),
        (kind.is_decimal, Decimal),
    ):
        if holds(dtype):
            return value
    raise InvalidInput(f"a column of type {dtype} cannot be read from text; use Parquet")


def _record_batch(rows: list[tuple[int, msgspec.Struct]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for index, field in enumerate(schema):
        values = [getattr(row, f"c{index}") for _, row in rows]
        try:
            if pa.types.is_timestamp(field.type):
                ticks = [
                    v if v is None else to_time(v, field.type, rounding="exact", what=field.name)
                    for v in values
                ]
                arrays.append(pa.array(ticks, pa.int64()).cast(field.type))
            else:
                if pa.types.is_nested(field.type):
                    values = msgspec.to_builtins(values, builtin_types=_NESTED)
                arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError, InvalidInput) as error:
            raise SchemaMismatch(
                f"lines {rows[0][0]} to {rows[-1][0]}, column {field.name!r}: {error}"
            ) from error
    return pa.record_batch(arrays, schema=schema)


def form_of(path: Path, form: str | None) -> str:
    """The format that was named, or else the one that the file's name says."""
    if form is not None:
        return form
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise InvalidInput(
            f"{path.name}: name the format with --format {'|'.join(sorted(set(FORMATS.values())))}"
        ) from None
