"""A source of files, and its readers: one that reads all files in turn, and one for each file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa

from mamba_connectors.files.columnar import ColumnarReader, ipc_schema, parquet_schema
from mamba_connectors.files.formats import FileReader, Format
from mamba_connectors.files.hive import HiveColumns
from mamba_connectors.files.listing import Found, Listing, found_at
from mamba_connectors.files.text import Dialect, TextReader, csv_schema, json_schema
from mamba_connectors.waking import Sleeper
from mamba_stream.connect import Delivery, Position, Reader, Rows
from mamba_stream.core.clock import Clock
from mamba_stream.errors import ConnectorFailed

_VERSION: Final = 1
_REMEMBERED: Final = 10_000
"""Files that were read and are gone are forgotten once there are more than so many, the oldest first."""
TOGETHER: Final = "all"
"""The partition that all files are in, unless each is one."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How files are read.

    Attributes:
        form: Their format.
        dialect: How CSV is written.
        whole: The columns in the files.
        hive: Columns whose values are in the names of directories.
        changed: Whether a file that changed after it was read is an error.
        columns: The columns to give, in order.
    """

    form: Format
    dialect: Dialect
    whole: pa.Schema
    hive: HiveColumns
    changed: Literal["fail", "ignore"]
    columns: tuple[str, ...]

    @property
    def schema(self) -> pa.Schema:
        """The columns that come out."""
        fields = {field.name: field for field in [*self.whole, *self.hive.schema]}
        return pa.schema([fields[name] for name in self.columns])

    def open(self, path: Path, at: Any) -> FileReader:
        """A reader of one file, without the columns that are in its name."""
        inside = [name for name in self.columns if name in self.whole.names]
        # Where nothing inside is wanted, something has to tell how many rows there are.
        schema = pa.schema([self.whole.field(name) for name in inside or self.whole.names[:1]])
        if self.form in {"parquet", "ipc"}:
            return ColumnarReader(path, self.form, self.whole, schema, at)
        return TextReader(path, self.whole, schema, self.dialect if self.form == "csv" else None, at)


def schema_in(path: Path, form: Format, dialect: Dialect) -> pa.Schema:
    """The columns of a file: those it declares, or those its first records suggest."""
    match form:
        case "parquet":
            return parquet_schema(path)
        case "ipc":
            return ipc_schema(path)
        case "csv":
            return csv_schema(path, dialect)
        case _:
            return json_schema(path)


class OpenFile:
    """A file that is being read, and is watched for changes meanwhile."""

    def __init__(self, file: Found, manner: Manner, at: Any = None) -> None:
        self.file = file
        self._manner = manner
        self._schema = manner.schema
        self._reader = manner.open(file.path, at)
        self._in_name = manner.hive.values_in(file.name, file.path)

    @property
    def at(self) -> Any:
        return self._reader.at

    @property
    def at_end(self) -> bool:
        return self._reader.at_end

    def read(self, max_rows: int) -> pa.RecordBatch | None:
        """The rows that come next; ``None`` at the end, once it was seen that the file is as it was found."""
        while not self._reader.at_end:
            batch = self._reader.read(max_rows)
            if self._reader.at_end:
                self._check_unchanged()
            if batch.num_rows:
                return self._completed(batch)
        return None

    def close(self) -> None:
        self._reader.close()

    def _completed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        arrays = [
            pa.repeat(self._in_name[field.name], batch.num_rows)
            if field.name in self._in_name
            else batch.column(batch.schema.get_field_index(field.name))
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _check_unchanged(self) -> None:
        now = found_at(self.file.name, self.file.path)
        # One that is gone was open, and read as it was.
        if self._manner.changed == "fail" and now is not None and now.state != self.file.state:
            raise ConnectorFailed(
                f"file {self.file.path} was written to while it was read: write under a name that ends in .tmp and "
                "rename it when it is complete, or pass a longer settle="
            )


class TurnReader(Sleeper):
    """All files in the order of their names, and those that come later as they come."""

    def __init__(
        self, listing: Listing, manner: Manner, position: Position, *, watch: bool, every: float, clock: Clock
    ) -> None:
        """Goes on behind a position.

        Args:
            listing: Where to look for files.
            manner: How to read them.
            position: ``[version, name, size, modified, place in it, files that were read]``.
            watch: Whether more files may come.
            every: How often to look for them, in seconds.
            clock: Tells when to.
        """
        self._listing = listing
        self._manner = manner
        self._watch = watch
        self._every = every
        self._clock = clock
        self._looked: float | None = None
        self._waiting: list[Found] = []
        self._open: OpenFile | None = None
        self._done: dict[bytes, bytes] = {}
        self._remembered = b""
        self._over = False
        if position is not None:
            self._go_on(position)

    @property
    def ended(self) -> bool:
        return self._over

    def read(self, max_rows: int) -> Rows | None:
        while (file := self._current()) is not None:
            batch = file.read(max_rows)
            if file.at_end:
                self._finish(file)
            if batch is not None:
                return Rows(batch, self._position())
        self._over = not self._watch
        if self._looked is not None:
            self._woken(self._looked + self._every - self._clock.monotonic())
        return None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _current(self) -> OpenFile | None:
        if self._open is None:
            if not self._waiting:
                self._look()
            if self._waiting:
                self._open = OpenFile(self._waiting.pop(0), self._manner)
        return self._open

    def _finish(self, file: OpenFile) -> None:
        file.close()
        self._open = None
        self._done[file.file.key] = file.file.state
        self._remembered = b"".join(key + state for key, state in self._done.items())

    def _position(self) -> Position:
        if self._open is None:
            return [_VERSION, None, 0, 0, None, self._remembered]
        file = self._open.file
        return [_VERSION, file.name, file.size, file.modified, self._open.at, self._remembered]

    def _look(self) -> None:
        now = self._clock.monotonic()
        if self._looked is not None and (not self._watch or now - self._looked < self._every):
            return
        self._looked = now
        there = {file.key: file for file in self._listing.files()}
        for key, state in self._done.items():
            file = there.get(key)
            if file is not None and file.state != state and self._manner.changed == "fail":
                raise _changed(file)
        gone = [key for key in self._done if key not in there]
        for key in gone[: max(0, len(self._done) - _REMEMBERED)]:
            del self._done[key]
        self._waiting = [file for key, file in there.items() if key not in self._done]

    def _go_on(self, position: Position) -> None:
        _, name, size, modified, at, self._remembered = position
        step = len(b"keykeyke" + b"stat")
        for begin in range(0, len(self._remembered), step):
            entry = self._remembered[begin : begin + step]
            self._done[entry[:8]] = entry[8:]
        if name is not None:
            self._open = reopened(self._listing.root, name, size, modified, self._manner, at)


class OneReader:
    """One file."""

    def __init__(self, root: Path, name: str, manner: Manner, position: Position) -> None:
        """Goes on behind a position.

        Args:
            root: Where names begin.
            name: The file's.
            manner: How to read it.
            position: ``[version, size, modified, place in it]``; a place of ``None`` is the end.
        """
        self._open: OpenFile | None = None
        if position is None:
            file = found_at(name, root / name)
            if file is None:
                raise ConnectorFailed(f"file {root / name} is gone before it was read")
            self._open = OpenFile(file, manner)
            return
        _, size, modified, at = position
        if at is not None:
            self._open = reopened(root, name, size, modified, manner, at)
        else:
            now, then = found_at(name, root / name), Found(name, root / name, size, modified)
            if now is not None and now.state != then.state and manner.changed == "fail":
                raise _changed(now)

    @property
    def ended(self) -> bool:
        return self._open is None

    @property
    def finished(self) -> bool:
        return self.ended

    def read(self, max_rows: int) -> Rows | None:
        if self._open is None:
            return None
        file, batch = self._open.file, self._open.read(max_rows)
        over = self._open.at_end
        position = [_VERSION, file.size, file.modified, None if over else self._open.at]
        if over:
            self.close()
        return None if batch is None else Rows(batch, position)

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


def reopened(root: Path, name: str, size: int, modified: int, manner: Manner, at: Any) -> OpenFile:
    """A file of which a part was read, from there on.

    Raises:
        ConnectorFailed: It is gone, or another one.
    """
    then, now = Found(name, root / name, size, modified), found_at(name, root / name)
    if now is None:
        raise ConnectorFailed(
            f"file {root / name} is gone, of which a part was read: put it back, "
            "or run with state='new' to read what there is from the beginning"
        )
    if now.state != then.state and manner.changed == "fail":
        raise _changed(now)
    return OpenFile(now, manner, at)


def _changed(file: Found) -> ConnectorFailed:
    return ConnectorFailed(
        f"file {file.path} changed after it was read (it has {file.size} bytes now): the rows that it gave are not "
        "taken back. Put new rows into a new file; where only its date changed, pass changed='ignore'; "
        "or run with state='new' to read everything again"
    )


@dataclass(frozen=True, eq=False)
class FileSource:
    """What :func:`mamba_connectors.files.source` makes."""

    name: str
    bounded: bool
    listing: Listing = field(repr=False)
    manner: Manner = field(repr=False)
    each: bool
    every: float
    clock: Clock = field(repr=False)
    delivery: Delivery = "exactly-once"

    @property
    def schema(self) -> pa.Schema:
        """The columns, in canonical types."""
        return self.manner.schema

    def partitions(self) -> Sequence[str]:
        """One, or the files that are there."""
        return [file.name for file in self.listing.files()] if self.each else [TOGETHER]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader of the files, or of one."""
        if self.each:
            return OneReader(self.listing.root, partition, self.manner, position)
        watch = not self.bounded
        return TurnReader(
            self.listing, self.manner, position, watch=watch, every=self.every, clock=self.clock
        )

    def select(self, columns: Sequence[str]) -> FileSource:
        """The same with only these columns: others are not decoded."""
        return replace(self, manner=replace(self.manner, columns=tuple(columns)))

    def as_of_now(self) -> FileSource:
        """The same without the files that will come."""
        return replace(self, bounded=True)
