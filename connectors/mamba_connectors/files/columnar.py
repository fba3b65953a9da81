"""Reading Parquet and Arrow IPC files: only the columns asked for, from [row group or batch, row in it] on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from mamba_connectors.files.formats import check_columns, fitted
from mamba_stream.errors import ConnectorFailed

_ROWS: Final = 65_536
_MAGIC: Final = b"ARROW1"


def parquet_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file as it declares them."""
    return _ParquetParts(path, None).schema


def ipc_schema(path: Path) -> pa.Schema:
    """The columns of an Arrow IPC file as it declares them."""
    return _ipc_parts(path, None).schema


class ColumnarReader:
    """A Parquet or IPC file, from a place on."""

    def __init__(self, path: Path, form: str, whole: pa.Schema, schema: pa.Schema, at: Any) -> None:
        """Opens the file.

        Args:
            path: The file.
            form: ``parquet`` or ``ipc``.
            whole: The columns that the source's files have.
            schema: Those to read.
            at: Where; ``None`` is the beginning.
        """
        self._path = path
        self._schema = schema
        self._parts = (
            _ParquetParts(path, schema.names) if form == "parquet" else _ipc_parts(path, schema.names)
        )
        check_columns(self._parts.schema, whole, path)
        self._part: int
        self._row: int
        self._part, self._row = at or (0, 0)
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None
        self._used = 0
        self._settle()

    @property
    def at(self) -> list[int]:
        return [self._part, self._row]

    @property
    def at_end(self) -> bool:
        return not self._parts.has(self._part)

    def read(self, max_rows: int) -> pa.RecordBatch:
        if self._batch is None:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        taken = self._batch.slice(self._used, max_rows)
        self._used += taken.num_rows
        self._row += taken.num_rows
        self._settle()
        return fitted(taken, self._schema, self._path)

    def close(self) -> None:
        self._batches = self._batch = None
        self._parts.close()

    def _settle(self) -> None:
        """Sees to it that there is a batch with rows left, or that this is the end."""
        while self._batch is None or self._used >= self._batch.num_rows:
            try:
                if not self._parts.has(self._part):
                    self._batch = None
                    return
                if self._batches is None:
                    self._batches = self._from_row(self._row)
                self._batch = next(self._batches, None)
            except (pa.ArrowException, OSError) as error:
                raise ConnectorFailed(
                    f"cannot read file {self._path}, part {self._part} behind row {self._row}: {error}"
                ) from error
            self._used = 0
            if self._batch is None:
                self._batches = None
                self._part, self._row = self._part + 1, 0

    def _from_row(self, row: int) -> Iterator[pa.RecordBatch]:
        for batch in self._parts.part(self._part):
            if row >= batch.num_rows:
                row -= batch.num_rows
            else:
                yield batch.slice(row)
                row = 0


class _ParquetParts:
    """The row groups of a Parquet file."""

    def __init__(self, path: Path, columns: Sequence[str] | None) -> None:
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise ConnectorFailed(f"cannot read file {path} as Parquet: {error}") from error
        self._columns = columns
        self.schema: pa.Schema = self._file.schema_arrow

    def has(self, number: int) -> bool:
        return number < int(self._file.num_row_groups)

    def part(self, number: int) -> Iterator[pa.RecordBatch]:
        yield from self._file.iter_batches(_ROWS, row_groups=[number], columns=self._columns)

    def close(self) -> None:
        self._file.close()


class _IpcFileParts:
    """The batches of an Arrow IPC file."""

    def __init__(self, file: pa.NativeFile, columns: Sequence[str] | None) -> None:
        self._file = file
        self._columns = columns
        self._reader = pa.ipc.open_file(file)
        self.schema: pa.Schema = self._reader.schema

    def has(self, number: int) -> bool:
        return number < int(self._reader.num_record_batches)

    def part(self, number: int) -> Iterator[pa.RecordBatch]:
        yield from _sound(self._reader.get_batch(number), self._columns)

    def close(self) -> None:
        self._file.close()


class _IpcStreamParts:
    """The batches of an Arrow IPC stream, which tells at its end that there are no more."""

    def __init__(self, file: pa.NativeFile, columns: Sequence[str] | None) -> None:
        self._file = file
        self._columns = columns
        self._reader = pa.ipc.open_stream(file)
        self._number = -1
        self._batch: pa.RecordBatch | None = None
        self.schema: pa.Schema = self._reader.schema

    def has(self, number: int) -> bool:
        while self._number < number:
            self._batch = next(self._reader, None)
            self._number += 1
            if self._batch is None:
                return False
        return self._batch is not None

    def part(self, number: int) -> Iterator[pa.RecordBatch]:
        assert self._batch is not None
        assert number == self._number, "a stream is read forwards"
        yield from _sound(self._batch, self._columns)

    def close(self) -> None:
        self._file.close()


def _sound(batch: pa.RecordBatch, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    chosen = batch if columns is None else batch.select(columns)
    chosen.validate(full=True)  # bytes from outside: unsound ones would crash what reads them next
    if chosen.num_rows:
        yield chosen


def _ipc_parts(path: Path, columns: Sequence[str] | None) -> _IpcFileParts | _IpcStreamParts:
    try:
        # Not mapped: who shortens a mapped file kills its readers.
        file = pa.OSFile(str(path))
        kind = _IpcFileParts if file.read(len(_MAGIC)) == _MAGIC else _IpcStreamParts
        file.seek(0)
        return kind(file, columns)
    except (pa.ArrowException, OSError) as error:
        raise ConnectorFailed(f"cannot read file {path} as Arrow IPC: {error}") from error
