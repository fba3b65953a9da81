"""A sink of files: rows are staged at every checkpoint, and come out as whole files when enough have gathered.

Staged rows are Arrow streams, one for each checkpoint, durable before the log's commit. When a limit is reached, they
are rewritten in the format that was asked for, synced, and named in what is prepared; to commit is to rename. A staged
file that is gone was therefore renamed: that is what makes a commit repeatable, even where somebody has taken the file
away since.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from mamba_connectors.files.final import FinalFiles, Finished, ending_of
from mamba_connectors.files.formats import Format
from mamba_connectors.files.hive import check_partition_types
from mamba_connectors.files.text import check_text_types
from mamba_stream.connect import Delivery, Prepared
from mamba_stream.core.clock import Clock
from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import ConnectorFailed, InvalidInput

_VERSION: Final = 1
_PART: Final = ".part.arrows"
_NEW: Final = ".new"
_UNITS: Final = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}
_EPOCH_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Roll:
    """When a file is complete.

    Attributes:
        rows: At so many rows; ``None`` for any number.
        bytes: At so many bytes.
        after_us: When its first row has waited so long, in microseconds.
    """

    rows: int | None
    bytes: int
    after_us: int


@dataclass(frozen=True, eq=False)
class FileSink:
    """What :func:`mamba_connectors.files.sink` makes."""

    name: str
    directory: Path = field(repr=False)
    staging: Path = field(repr=False)
    form: Format
    partition_by: tuple[str, ...]
    roll: Roll
    compression: str | None
    clock: Clock = field(repr=False)
    delivery: Delivery = "exactly-once"
    accepts_changes: bool = False

    def begin(self, schema: pa.Schema, owner: str) -> FileWriter:
        """A writer of such rows; it makes the directories.

        Raises:
            InvalidInput: Rows of this schema cannot go into such files.
            ConnectorFailed: The directories cannot be made.
        """
        for column in self.partition_by:
            if column not in schema.names:
                hint = did_you_mean(column, schema.names)
                raise InvalidInput(
                    f"{self.name}: partition_by names column {column!r}, which is not there{hint}"
                )
        inside = pa.schema([each for each in schema if each.name not in self.partition_by])
        if not inside.names:
            raise InvalidInput(f"{self.name}: partition_by takes all columns: nothing would be in the files")
        check_partition_types(schema, self.partition_by)
        if self.form in {"csv", "ndjson"}:
            check_text_types(inside, self.form)
        ending_of(self.form, self.compression)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", owner) or not owner.strip("."):
            raise InvalidInput(f"{owner!r:.80} is no owner: letters, digits, dots, underscores and hyphens")
        return FileWriter(self, schema, owner)


class FileWriter:
    """Writes files of one owner."""

    def __init__(self, sink: FileSink, schema: pa.Schema, owner: str) -> None:
        self._sink = sink
        self._schema = schema
        self._owner = owner
        self._staging = sink.staging / owner
        _made(sink.directory)
        _made(self._staging)
        if sink.directory.stat().st_dev != self._staging.stat().st_dev:
            raise ConnectorFailed(
                f"{sink.name}: {self._staging} is on another file system than {sink.directory}, and files could not "
                f"appear whole: pass staging={str(sink.directory / '.staging')!r}, or another place on the same one"
            )
        self._staged: list[str] = []
        self._since = 0
        self._rows = self._bytes = 0
        # The name is this process's: one that was taken for dead, and is not, writes into a file of its own.
        self._part_path = self._staging / f"writing-{os.getpid()}{_PART}"
        self._file: Any = None
        self._part: pa.RecordBatchWriter | None = None
        self._part_rows = 0

    @property
    def due(self) -> bool:
        """Whether staged rows have waited as long as they may."""
        return bool(self._staged) and self._sink.clock.now() - self._since >= self._sink.roll.after_us

    def write(self, batch: pa.RecordBatch) -> None:
        """Stages rows; they lie in a file, not in memory."""
        if not batch.num_rows:
            return
        if self._part is None:
            self._file = pa.OSFile(str(self._part_path), "wb")
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._part = pa.ipc.new_stream(self._file, self._schema, options=options)
            if not self._staged:
                self._since = self._sink.clock.now()
        self._part.write_batch(batch)
        self._part_rows += batch.num_rows

    def prepare(self, epoch: int, *, last: bool) -> Prepared:
        """Syncs what is staged, or makes files of it; see the head of this module.

        Returns:
            ``[version, staged files, when the first row came, [[staged file, its place], ...], files to remove]``.
        """
        synced = self._close_part(epoch)
        if not self._staged:
            return None
        if not (last or self._full() or self.due):
            if not synced:
                self._sync(self._staging / self._staged[-1])
                _sync_directory(self._staging)
            return [_VERSION, list(self._staged), self._since, [], []]
        finished = self._finished(epoch)
        publish = [[file.path.name, file.place] for file in finished]
        return [_VERSION, [], 0, publish, list(self._staged)]

    def commit(self, epoch: int, prepared: Prepared) -> None:
        """Renames what is complete, and goes on with what is not."""
        if prepared is None:
            return
        _, staged, since, publish, done = prepared
        self._staged, self._since = list(staged), since
        if publish:
            self._rows = self._bytes = 0
        directories = set()
        for name, place in publish:
            target = self._sink.directory / place
            _made(target.parent)
            try:
                (self._staging / name).rename(target)
            except FileNotFoundError:
                continue  # it was renamed before
            directories.add(target.parent)
        for directory in directories:
            _sync_directory(directory)
        for name in done:
            (self._staging / name).unlink(missing_ok=True)
        if publish:
            _sync_directory(self._staging)

    def abort(self, epoch: int) -> None:
        """Removes what was staged for later epochs."""
        self._drop_part()
        for path in self._staging.iterdir():
            number = _epoch_in(path.name)
            if number is None or number > epoch:
                path.unlink(missing_ok=True)
        self._staged = [name for name in self._staged if (_epoch_in(name) or 0) <= epoch]
        missing = [name for name in self._staged if not (self._staging / name).exists()]
        if missing:
            raise ConnectorFailed(
                f"{self._sink.name}: {self._staging / missing[0]} is gone, with rows that were committed and were "
                "not yet in a complete file: put it back, or run with state='new' to make everything again"
            )
        self._count()

    def empty(self) -> None:
        """Removes the owner's files, complete and staged."""
        self._drop_part()
        for path in self._staging.iterdir():
            path.unlink()
        self._staged = []
        ending = ending_of(self._sink.form, self._sink.compression)
        mine = re.compile(rf"{re.escape(self._owner)}-\d{{{_EPOCH_DIGITS}}}-\d+(-\d+)?{re.escape(ending)}")
        for path in self._sink.directory.rglob(f"*{ending}"):
            if mine.fullmatch(path.name):
                path.unlink()

    def close(self) -> None:
        """Leaves what is prepared where it is."""
        self._drop_part()
        for directory in (self._staging, self._sink.staging):
            try:
                directory.rmdir()
            except OSError:  # there is still something in it, or somebody was faster
                return

    # -- staging ---------------------------------------------------------------------------------------------------

    def _close_part(self, epoch: int) -> bool:
        """Names what was written for the epoch; whether nothing was, and so nothing has to be synced."""
        if self._part is None:
            return True
        self._part.close()
        size = self._file.tell()
        self._file.close()
        self._part = self._file = None
        name = f"{epoch:0{_EPOCH_DIGITS}}{_PART}"
        self._part_path.rename(self._staging / name)
        self._staged.append(name)
        self._rows, self._bytes, self._part_rows = self._rows + self._part_rows, self._bytes + size, 0
        return False

    def _drop_part(self) -> None:
        if self._part is not None:
            self._file.close()
            self._part_path.unlink(missing_ok=True)
            self._part = self._file = None
        self._part_rows = 0

    def _full(self) -> bool:
        roll = self._sink.roll
        return self._bytes >= roll.bytes or (roll.rows is not None and self._rows >= roll.rows)

    def _count(self) -> None:
        """How much is staged, as a writer before this one left it."""
        self._bytes = sum((self._staging / name).stat().st_size for name in self._staged)
        self._rows = 0
        if self._sink.roll.rows is not None:
            self._rows = sum(batch.num_rows for batch in self._staged_batches())

    def _staged_batches(self) -> Iterator[pa.RecordBatch]:
        for name in self._staged:
            with pa.OSFile(str(self._staging / name)) as file, pa.ipc.open_stream(file) as reader:
                yield from reader

    # -- complete files --------------------------------------------------------------------------------------------

    def _finished(self, epoch: int) -> Sequence[Finished]:
        sink = self._sink
        ending = ending_of(sink.form, sink.compression)

        def new_file(number: int, directory: str) -> tuple[Path, str]:
            name = f"{self._owner}-{epoch:0{_EPOCH_DIGITS}}-{number}"
            place, again = Path(directory) / f"{name}{ending}", 0
            while (
                sink.directory / place
            ).exists():  # the log was lost, and epochs begin again: nothing is replaced
                again += 1
                place = Path(directory) / f"{name}-{again}{ending}"
            return self._staging / f"{epoch:0{_EPOCH_DIGITS}}-{number}{_NEW}", place.as_posix()

        files = FinalFiles(
            self._schema,
            sink.form,
            sink.compression,
            sink.partition_by,
            sink.roll.rows,
            sink.roll.bytes,
            new_file,
        )
        try:
            for batch in self._staged_batches():
                files.write(batch)
            finished = files.finish()
            for file in finished:
                self._sync(file.path)
        except OSError as error:
            files.discard()
            raise self._failed(error) from error
        _sync_directory(self._staging)
        return finished

    def _sync(self, path: Path) -> None:
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(number)

    def _failed(self, error: OSError) -> ConnectorFailed:
        why = "no room is left there" if error.errno == errno.ENOSPC else str(error)
        return ConnectorFailed(f"{self._sink.name}: cannot write in {self._staging}: {why}")


def _epoch_in(name: str) -> int | None:
    digits = name[:_EPOCH_DIGITS]
    return int(digits) if len(digits) == _EPOCH_DIGITS and digits.isdigit() else None


def _made(directory: Path) -> None:
    """Makes a directory durably: whoever syncs a file in it relies on its name being on disk, and on its parents'."""
    if directory.is_dir():
        return
    _made(directory.parent)
    try:
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)
    except OSError as error:
        raise ConnectorFailed(f"cannot make directory {directory}: {error.strerror}") from error


def _sync_directory(directory: Path) -> None:
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def check_place(directory: Any) -> Path:
    """Where files go, as an absolute path.

    Raises:
        InvalidInput: It is no directory.
    """
    if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
        raise InvalidInput(f"files.sink takes a directory, not {directory!r:.80}")
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - links are kept
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"files.sink takes a directory, and {path} is a file")
    if path == path.parent:
        raise InvalidInput("files.sink does not write into the root directory")
    return path


def byte_count(given: int | str) -> int:
    """A size such as ``128MB`` in bytes.

    Raises:
        InvalidInput: It is none.
    """
    match = re.fullmatch(r"\s*([0-9]+)\s*([A-Za-z]*)\s*", given if isinstance(given, str) else str(given))
    if isinstance(given, bool) or match is None or match[2].upper() not in _UNITS or not int(match[1]):
        raise InvalidInput(f"roll_bytes={given!r:.80}: a size such as '128MB', or a number of bytes")
    return int(match[1]) * _UNITS[match[2].upper()]
