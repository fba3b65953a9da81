"""Reading CSV and NDJSON files. A position is the number of the byte at which the next record begins."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pat

from mamba_connectors.files.formats import check_columns, fitted
from mamba_connectors.files.records import Records, first_that, open_bytes
from mamba_stream.core.types import type_name, unsupported
from mamba_stream.errors import ConnectorFailed, InvalidInput, SchemaMismatch

_SAMPLE: Final = 20_000
"""Records of the first file that types are inferred from."""
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a CSV file is written.

    Attributes:
        separator: Between fields.
        header: Whether the first record names the columns.
    """

    separator: str = ","
    header: bool = True


class TextReader:
    """A CSV or NDJSON file, from a byte on."""

    def __init__(
        self, path: Path, whole: pa.Schema, schema: pa.Schema, dialect: Dialect | None, at: Any
    ) -> None:
        """Opens the file.

        Args:
            path: The file.
            whole: The columns that the source's files have.
            schema: Those to give.
            dialect: How CSV is written; ``None`` for NDJSON.
            at: Where; ``None`` is the beginning.
        """
        self._path = path
        self._schema = schema
        self._quoted = dialect is not None
        self._parse: Callable[[bytes], pa.Table]
        begin = 0
        if dialect is None:
            self._parse = _json_parser(whole, schema)
        else:
            names, begin = _header(path, dialect, whole.names)
            check_columns(pa.schema([(name, _type_in(whole, name)) for name in names]), whole, path)
            self._parse = _csv_parser(names, schema, dialect)
        self._records = Records(path, at or begin, quoted=self._quoted)

    @property
    def at(self) -> int:
        return self._records.offset

    @property
    def at_end(self) -> bool:
        return self._records.at_end

    def read(self, max_rows: int) -> pa.RecordBatch:
        first = self._records.offset
        records = self._records.take(max_rows)
        if not records:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        try:
            table = self._parse(records)
        except pa.ArrowException as error:
            raise self._refusal(records, first, error) from None
        return _one_batch(table, self._schema, self._path)

    def close(self) -> None:
        self._records.close()

    def _refusal(self, records: bytes, first: int, error: Exception) -> SchemaMismatch:
        def fails(some: bytes) -> bool:
            try:
                self._parse(some)
            except pa.ArrowException:
                return True
            return False

        at = first_that(records, quoted=self._quoted, fails=fails)
        record = records[at:].partition(b"\n")[0][:120].decode("utf-8", "replace")
        wanted = ", ".join(f"{field.name}: {type_name(field.type)}" for field in self._schema)
        return SchemaMismatch(
            f"file {self._path}: the record at byte {first + at} does not fit the source's columns ({wanted:.300}): "
            f"{record!r}: {error}. Types are inferred from the first file unless schema= gives them"
        )


def csv_rows(data: bytes, schema: pa.Schema, dialect: Dialect) -> pa.RecordBatch:
    """Records of CSV, without a header.

    Raises:
        pyarrow.ArrowException: They do not fit.
    """
    return _one_batch(_csv_parser(schema.names, schema, dialect)(data), schema, Path("-"))


def json_rows(data: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """Records of NDJSON.

    Raises:
        pyarrow.ArrowException: They do not fit.
    """
    return _one_batch(_json_parser(schema, schema)(data), schema, Path("-"))


def _one_batch(table: pa.Table, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    return fitted(batches[0], schema, path)


def csv_schema(path: Path, dialect: Dialect) -> pa.Schema:
    """The columns of a CSV file, inferred from its first records."""
    names, begin = _header(path, dialect, None)
    sample = _sample(path, begin, quoted=True)
    if not sample.strip():
        return pa.schema([(name, pa.large_string()) for name in names])
    try:
        table = _read_csv(sample, names, dialect, {})
    except pa.ArrowException as error:
        raise SchemaMismatch(f"file {path} is no CSV with columns {names}: {error}") from error
    return _settled(table.schema)


def json_schema(path: Path) -> pa.Schema:
    """The columns of an NDJSON file, inferred from its first records."""
    sample = _sample(path, 0, quoted=False)
    if not sample.strip():
        raise InvalidInput(f"file {path} is empty, and so says nothing about its columns: pass schema=")
    from pyarrow import json

    try:
        table = json.read_json(io.BytesIO(sample), json.ReadOptions(block_size=_block(sample)))
    except pa.ArrowException as error:
        raise SchemaMismatch(f"file {path} is no NDJSON: {error}") from error
    fields = []
    for field, column in zip(table.schema, table.columns, strict=True):
        dtype = field.type
        if pat.is_string(dtype) and column.null_count < len(column) and _all_moments(column):
            dtype = pa.timestamp("us", "UTC")
        fields.append((field.name, dtype))
    return _settled(pa.schema(fields))


def _settled(schema: pa.Schema) -> pa.Schema:
    """What was inferred from some rows, so that it holds most others: times to the microsecond, nulls as text."""
    return pa.schema([(field.name, _settled_type(field.type)) for field in schema])


def _settled_type(dtype: Any) -> pa.DataType:
    if pat.is_null(dtype):
        return pa.large_string()
    return pa.timestamp("us", dtype.tz) if pat.is_timestamp(dtype) else dtype


def _all_moments(column: pa.ChunkedArray) -> bool:
    try:
        pc.cast(column, pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return False
    return True


def _sample(path: Path, begin: int, *, quoted: bool) -> bytes:
    records = Records(path, begin, quoted=quoted)
    try:
        return records.take(_SAMPLE)
    finally:
        records.close()


def _header(path: Path, dialect: Dialect, names: list[str] | None) -> tuple[list[str], int]:
    """The columns of a CSV file in their order, and where the rows begin."""
    with open_bytes(path, 0) as stream:
        skipped = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
    if not dialect.header:
        if names is None:
            raise InvalidInput(
                f"file {path}: CSV without a header says nothing about its columns: pass schema="
            )
        return names, skipped
    records = Records(path, skipped, quoted=True)
    try:
        line = records.take(1)
    finally:
        records.close()
    if not line and names is not None:
        return names, skipped  # nothing at all, and so no row
    if not line.strip():
        raise ConnectorFailed(f"file {path} is empty: CSV begins with a line that names the columns")
    try:
        table = _read_csv(line, None, dialect, {})
    except pa.ArrowException as error:
        raise SchemaMismatch(f"file {path}: its first line names no columns: {error}") from error
    return table.schema.names, skipped + len(line)


def _type_in(schema: pa.Schema, name: str) -> pa.DataType:
    at = schema.get_field_index(name)
    return schema.field(at).type if at >= 0 else pa.large_string()


def _csv_parser(names: list[str], schema: pa.Schema, dialect: Dialect) -> Callable[[bytes], pa.Table]:
    types = {field.name: field.type for field in schema}
    return lambda data: _read_csv(data, names, dialect, types)


def _read_csv(
    data: bytes, names: list[str] | None, dialect: Dialect, types: dict[str, pa.DataType]
) -> pa.Table:
    from pyarrow import csv

    return csv.read_csv(
        io.BytesIO(data),
        csv.ReadOptions(column_names=names, block_size=_block(data), use_threads=False),
        # Where there is one column, an empty line is a null.
        csv.ParseOptions(
            delimiter=dialect.separator,
            newlines_in_values=True,
            ignore_empty_lines=names is None or len(names) > 1,
        ),
        # Nothing between separators is null; two quotes are an empty text.
        csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _json_parser(whole: pa.Schema, schema: pa.Schema) -> Callable[[bytes], pa.Table]:
    from pyarrow import json

    # Columns that are not wanted are still checked to be expected ones.
    expected = pa.schema([(field.name, _json_type(field.type)) for field in whole])
    options = json.ParseOptions(explicit_schema=expected, unexpected_field_behavior="error")

    def parse(data: bytes) -> pa.Table:
        read = json.ReadOptions(block_size=_block(data), use_threads=False)
        table = json.read_json(io.BytesIO(data), read, options)
        return table.select(schema.names)

    return parse


def _json_type(dtype: Any) -> pa.DataType:
    """What Arrow's reader of JSON takes for a column, which is cast afterwards."""
    if pat.is_temporal(dtype) or pat.is_decimal(dtype) or pat.is_large_string(dtype):
        return pa.string()
    if pat.is_struct(dtype):
        return pa.struct(
            [(dtype.field(at).name, _json_type(dtype.field(at).type)) for at in range(dtype.num_fields)]
        )
    if pat.is_large_list(dtype) or pat.is_fixed_size_list(dtype):
        return pa.list_(_json_type(dtype.value_type))
    return dtype


def check_text_types(schema: pa.Schema, form: str) -> None:
    """Refuses columns that have no form as text.

    Raises:
        UnsupportedType: It names the column.
    """
    for field in schema:
        if reason := _not_text(field.type, form):
            raise unsupported(field.name, type_name(field.type), reason)


def _not_text(dtype: Any, form: str) -> str:
    if pat.is_large_binary(dtype) or pat.is_duration(dtype) or (form == "ndjson" and pat.is_time(dtype)):
        return f"not as {form}: cast it to a text or a number first, or use Parquet"
    if pat.is_nested(dtype):
        if form == "csv":
            return "not as CSV: take it apart into columns first, or use NDJSON or Parquet"
        if pat.is_map(dtype):
            return "not as NDJSON: use Parquet"
        inner = [dtype.field(at).type for at in range(dtype.num_fields)]
        return next((reason for kind in inner if (reason := _not_text(kind, form))), "")
    return ""


def _block(data: bytes) -> int:
    """A block that holds all, so that Arrow cuts nothing itself."""
    return max(len(data) + 1, 1 << 16)
