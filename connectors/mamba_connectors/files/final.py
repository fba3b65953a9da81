"""Complete files: rows in the format that was asked for, by directory, each file no larger than it may be."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import polars as pl
import pyarrow as pa

from mamba_connectors.files.formats import Format
from mamba_connectors.files.hive import directory_of
from mamba_stream.core.batches import batch_from_frame, frame_from_batch
from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import InvalidInput

_GATHERED_ROWS: Final = 65_536
"""Small batches are joined to this size: a row group of ten rows is mostly header."""
_OPEN: Final = 64
"""Directories with a file open at once; beyond it the one that was written to least recently is closed."""
_ENDINGS: Final = {"parquet": ".parquet", "ipc": ".arrow", "csv": ".csv", "ndjson": ".ndjson"}
_PACKED: Final = {"gzip": ".gz", "zstd": ".zst"}
_CHOICES: Final = {
    "parquet": ("zstd", "snappy", "gzip", "lz4", "brotli", "none"),
    "ipc": ("zstd", "lz4", "none"),
    "csv": ("gzip", "zstd", "none"),
    "ndjson": ("gzip", "zstd", "none"),
}


def ending_of(form: Format, compression: str | None) -> str:
    """What the names of such files end in.

    Raises:
        InvalidInput: The format does not have this compression.
    """
    if compression is not None and compression not in _CHOICES[form]:
        choices = ", ".join(map(repr, _CHOICES[form]))
        hint = did_you_mean(str(compression), _CHOICES[form])
        raise InvalidInput(f"compression={compression!r:.80}: {form} has {choices}{hint}")
    packed = _PACKED.get(compression or "", "") if form in {"csv", "ndjson"} else ""
    return f"{_ENDINGS[form]}{packed}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete file.

    Attributes:
        path: Where it lies now.
        place: Where it is to be, from the sink's directory on.
    """

    path: Path
    place: str


class FinalFiles:
    """The files that one checkpoint makes."""

    def __init__(
        self,
        schema: pa.Schema,
        form: Format,
        compression: str | None,
        partition_by: Sequence[str],
        most_rows: int | None,
        most_bytes: int,
        new_file: Callable[[int, str], tuple[Path, str]],
    ) -> None:
        """Says how; ``new_file`` gives number and directory a path to write to and the place it is for."""
        self._schema = pa.schema([field for field in schema if field.name not in partition_by])
        self._form: Format = form
        self._compression = compression
        self._partition_by = list(partition_by)
        self._most_rows = most_rows
        self._most_bytes = most_bytes
        self._new_file = new_file
        self._open: dict[str, _Growing] = {}
        self._begun = 0
        self._finished: list[Finished] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows."""
        if not self._partition_by:
            self._grow("", batch)
            return
        frame = frame_from_batch(batch)
        parts = frame.partition_by(self._partition_by, as_dict=True, include_key=False, maintain_order=True)
        for values, part in parts.items():
            self._grow(directory_of(self._partition_by, values), batch_from_frame(part))

    def finish(self) -> Sequence[Finished]:
        """Completes what is open; all files, in the order in which they were begun in."""
        for directory in list(self._open):
            self._close(directory)
        return self._finished

    def discard(self) -> None:
        """Lets go of what is open."""
        for growing in self._open.values():
            growing.abandon()
        self._open = {}

    def _grow(self, directory: str, batch: pa.RecordBatch) -> None:
        while batch.num_rows:
            growing = self._open.pop(directory, None) or self._begin(directory)
            self._open[directory] = growing  # last in the dict: written to most recently
            room = batch.num_rows if self._most_rows is None else self._most_rows - growing.rows
            growing.write(batch.slice(0, room))
            batch = batch.slice(min(room, batch.num_rows))
            if (
                self._most_rows is not None and growing.rows >= self._most_rows
            ) or growing.size >= self._most_bytes:
                self._close(directory)

    def _begin(self, directory: str) -> _Growing:
        if len(self._open) >= _OPEN:
            self._close(next(iter(self._open)))
        path, place = self._new_file(self._begun, directory)
        self._begun += 1
        return _Growing(path, place, self._form, self._schema, self._compression)

    def _close(self, directory: str) -> None:
        growing = self._open.pop(directory)
        growing.close()
        self._finished.append(Finished(growing.path, growing.place))


class _Growing:
    """One file."""

    def __init__(
        self, path: Path, place: str, form: Format, schema: pa.Schema, compression: str | None
    ) -> None:
        self.path = path
        self.place = place
        self.rows = 0
        self._file = path.open("wb")
        self._encoder = _ENCODERS[form](self._file, schema, compression)
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_rows = 0

    @property
    def size(self) -> int:
        """Bytes so far, about: what waits in memory counts as it is there."""
        return self._file.tell() + sum(int(batch.nbytes) for batch in self._gathered)

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        self._gathered.append(batch)
        self._gathered_rows += batch.num_rows
        if self._gathered_rows >= _GATHERED_ROWS:
            self._encode()

    def close(self) -> None:
        self._encode()
        self._encoder.close()
        self._file.close()

    def abandon(self) -> None:
        self._file.close()

    def _encode(self) -> None:
        if self._gathered:
            self._encoder.write(pa.concat_batches(self._gathered))
            self._gathered, self._gathered_rows = [], 0


class _Parquet:
    def __init__(self, file: IO[bytes], schema: pa.Schema, compression: str | None) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(file, schema, compression=compression or "zstd")

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _Ipc:
    def __init__(self, file: IO[bytes], schema: pa.Schema, compression: str | None) -> None:
        codec = None if compression in {None, "none"} else compression
        self._writer = pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression=codec))

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _Text:
    """What CSV and NDJSON share: they may be packed."""

    def __init__(self, file: IO[bytes], schema: pa.Schema, compression: str | None) -> None:
        self._packed: Any = None
        if compression == "gzip":
            self._packed = gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0)
        elif compression == "zstd":
            self._packed = pa.CompressedOutputStream(pa.PythonFile(file), "zstd")
        self._out: Any = file if self._packed is None else self._packed
        self._begin(schema)

    def _begin(self, schema: pa.Schema) -> None: ...

    def write(self, batch: pa.RecordBatch) -> None:
        self._out.write(self._text(batch))

    def _text(self, batch: pa.RecordBatch) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        if self._packed is not None:
            self._packed.close()


class _Csv(_Text):
    def _begin(self, schema: pa.Schema) -> None:
        self._out.write(csv_text(schema.empty_table().to_batches() or [_nothing(schema)], header=True))

    def _text(self, batch: pa.RecordBatch) -> bytes:
        return csv_text([batch], header=False)


class _Ndjson(_Text):
    def _text(self, batch: pa.RecordBatch) -> bytes:
        return json_text(batch)


def csv_text(batches: Sequence[pa.RecordBatch], *, header: bool) -> bytes:
    """Rows as CSV: text in quotes, null as nothing."""
    from pyarrow import csv

    buffer = io.BytesIO()
    csv.write_csv(pa.Table.from_batches(batches), buffer, csv.WriteOptions(include_header=header))
    return buffer.getvalue()


def json_text(batch: pa.RecordBatch) -> bytes:
    """Rows as NDJSON: one object a line, times as ISO 8601."""
    return pl.DataFrame(batch).write_ndjson().encode()


def _nothing(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


_ENCODERS: Final[dict[Format, type[_Parquet | _Ipc | _Csv | _Ndjson]]] = {
    "parquet": _Parquet,
    "ipc": _Ipc,
    "csv": _Csv,
    "ndjson": _Ndjson,
}
