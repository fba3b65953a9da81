"""The files that rows lie in: commit files that a writer appends to, and maps for readers.

A commit file belongs to one writer, who holds its ``flock`` as long as it lives; the index knows how far
the file is published, and what lies behind that is nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from mamba_stream.errors import DiskFull, LogFailed, NotCommitted
from mamba_stream.log import directory, rows
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.rows import FileRow

if TYPE_CHECKING:
    from mamba_stream.log.index import Index
    from mamba_stream.log.views import Draft

FULL = 256 << 20
"""A commit file this large is closed, and its writer goes on in the next."""
INTERNAL_FULL = 32 << 20
"""The same for internal topics, whose rows are trimmed soon: a file goes when all its rows are gone."""

_NUMBERED = re.compile(r"([0-9a-f]{8,})\.(?:commit|arrows|toc)")
CONTENTS = ".toc"
_VECTORS = 1024
_SMALL = 64 << 10
_MOST_AHEAD = 1 << 20
_PAGE = 4096
_OPEN_MAPS = 128
_NO_MAP: tuple[str, pa.Buffer | None] = ("", None)
_COPIED_BYTES = 1 << 20
_GROWN_BYTES = 8 << 20


@lru_cache(1024)
def path_of(files: Path, number: int, kind: str) -> Path:
    """Where a file of this number lies. Names of files never come from names of topics."""
    return files / f"{number:08x}.{'commit' if kind == 'commit' else 'arrows'}"


def number_of(name: str) -> int | None:
    """The number of a file of this name; ``None`` where it is not a name that a log gives."""
    match = _NUMBERED.fullmatch(name)
    return None if match is None else int(match[1], 16)


def contents_path(segment: Path) -> Path:
    """The table of contents beside a segment."""
    return segment.with_suffix(CONTENTS)


class CommitFile:
    """The commit file that this process appends to."""

    def __init__(self, number: int, path: Path, fd: int, end: int, internal: bool) -> None:
        self.number = number
        self.path = path
        self.end = end
        self._filled = end
        self._fd = fd
        self._room = _room(internal)

    @property
    def descriptor(self) -> int:
        """Of the open file, whose lock goes with it."""
        return self._fd

    @property
    def full(self) -> bool:
        return self.end >= self._room

    def write(self, parts: Sequence[bytes | memoryview], length: int, *, synced: bool = True) -> None:
        """Appends the parts and syncs them. Nothing of them exists before the index says so.

        Those that are written without are synced with the next, or by :meth:`sync`.
        """
        position = self.end
        zeros = self._ahead(position + length) if synced and length <= _SMALL else 0
        try:
            if not zeros or not self._fits([*parts, bytes(zeros)], position):
                zeros = 0
                write_all(self._fd, parts, position)
            if synced:
                os.fdatasync(self._fd)
        except OSError as error:
            self._take_back(position)
            raise failure(error, self.path.parent) from error
        self.end = position + length
        self._filled = max(self._filled, self.end + zeros)

    def sync(self) -> None:
        """Makes durable what was written."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise failure(error, self.path.parent) from error

    def rewind(self, position: int) -> None:
        """Forgets what was written behind ``position``: its commit did not happen."""
        self._take_back(position)
        self.end = position

    def reuse(self, position: int) -> None:
        """The same, where there is room enough: the next batches are written over it."""
        self._filled = max(self._filled, self.end)
        self.end = position

    def close(self) -> None:
        if self._filled > self.end:
            self._take_back(self.end)
        self.let_go()

    def let_go(self) -> None:
        """Closes the descriptor and leaves the file as it is, in a process that it does not belong to."""
        os.close(self._fd)

    def _ahead(self, end: int) -> int:
        """How many zeros to write behind ``end``, together with small batches: none while there are some.

        A sync of bytes that lie in a file already is faster than one that makes it longer, for which the file
        system has to write its journal too. As much again as there is, so that small files stay small.
        """
        if end <= self._filled:
            return 0
        filled = end + min(end, _MOST_AHEAD)
        return filled + -filled % _PAGE - end

    def _fits(self, parts: Sequence[bytes | memoryview], position: int) -> bool:
        """Whether there was room to write these; where not, it is as if nothing was written."""
        try:
            write_all(self._fd, parts, position)
        except OSError as error:
            if error.errno not in directory.NO_ROOM:
                raise
            self._take_back(position)
            return False
        return True

    def _take_back(self, position: int) -> None:
        self._filled = min(self._filled, position)
        # Only for the room it gives back: what lies behind the published end is nothing anyway.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, position)


def open_commit_file(index: Index, files: Path, now: int, internal: bool) -> CommitFile:
    """A commit file for this process alone: one that was left behind, or a new one."""
    held: list[int] = []

    def register(draft: Draft) -> tuple[int, int, int]:
        # The index may run this again, when it had to grow. A file of the first time is nobody's then, and its
        # name may be another's: recovery removes it.
        while held:
            os.close(held.pop())
        ledger = Ledger(draft, now)
        left = _adopt(ledger, files, internal)
        if left is not None:
            held.append(left[1])
            return left
        fd, fresh = create_locked(files)
        held.append(fd)
        number = free_number(ledger, files)
        # Renamed under the index's write lock and with the file locked: whoever recovers meanwhile
        # sees either no file of this number, or one that has a living writer.
        os.rename(fresh, path_of(files, number, "commit"))
        directory.sync(files)
        ledger.set_file(number, FileRow("commit", "open", 0, 0, internal, now, now))
        ledger.flush()
        return number, fd, 0

    try:
        number, fd, end = index.update(register)
    except BaseException as error:
        while held:
            os.close(held.pop())
        if isinstance(error, OSError):
            raise failure(error, files) from error
        raise
    return CommitFile(number, path_of(files, number, "commit"), fd, end, internal)


def free_number(ledger: Ledger, files: Path) -> int:
    """The next number that no file with anything in it has.

    An index that was damaged or put back from an older copy may have forgotten some.
    """
    while True:
        number = ledger.tick(file=1).file
        if not any(_holds(path_of(files, number, kind)) for kind in ("commit", "segment")):
            return number


def lock(path: Path) -> int | None:
    """A descriptor of the file with its lock held, or ``None`` where a living process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


class Maps:
    """The bytes of files, for readers: mapped, and kept mapped for the files last used."""

    def __init__(self, files: Path) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, tuple[str, pa.Buffer]] = OrderedDict()

    def read(self, number: int, kind: str, position: int, length: int) -> pa.Buffer | None:
        """The bytes there, or ``None`` where the file is shorter. No copy unless they are few.

        Raises:
            FileNotFoundError: The file was replaced or removed; the index knows by what.
        """
        with self._lock:
            _, mapped = self._maps.get(number, _NO_MAP)
            if mapped is not None and mapped.size >= position + length:
                self._maps.move_to_end(number)
                return mapped.slice(position, length)
        path = path_of(self._files, number, kind)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            if size < position + length:
                return None
            if mapped is not None and length <= _COPIED_BYTES and size - mapped.size < _GROWN_BYTES:
                # The file is growing: mapping it anew for every batch at its end would cost more.
                return pa.py_buffer(os.pread(fd, length, position))
            try:
                mapped = pa.py_buffer(mmap.mmap(fd, size, prot=mmap.PROT_READ))
            except ValueError:
                # Its writer closed it at this moment, and the room behind the last row went. What is asked for stays.
                mapped = pa.py_buffer(mmap.mmap(fd, position + length, prot=mmap.PROT_READ))
        finally:
            os.close(fd)
        self.drop_removed()
        with self._lock:
            self._maps[number] = kind, mapped
            self._maps.move_to_end(number)
            while len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        return mapped.slice(position, length)

    def forget(self, number: int) -> None:
        """Lets go of a file that was removed."""
        with self._lock:
            self._maps.pop(number, None)

    def drop_removed(self) -> None:
        """Lets go of all files that were removed, by whichever process: mapped, they would still take room."""
        with self._lock:
            for number, (kind, _) in list(self._maps.items()):
                if not path_of(self._files, number, kind).exists():
                    del self._maps[number]

    def clear(self) -> None:
        with self._lock:
            self._maps.clear()


def _holds(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def failure(error: OSError, files: Path) -> NotCommitted | LogFailed:
    """What an error of the system means for a commit that has not happened."""
    where = f"{files.parent}: {error.strerror}; nothing was committed."
    if error.errno in directory.NO_ROOM:
        return DiskFull(f"{where} Free some space and append again")
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return NotCommitted(f"{where} Close some files and append again")
    # What the disk could not take once may be lost although it takes it the next time.
    return LogFailed(f"{where} Reopen the log")


def _room(internal: bool) -> int:
    return INTERNAL_FULL if internal else FULL


def create_locked(files: Path) -> tuple[int, Path]:
    """A new file of no number yet, with its lock held: (descriptor, path)."""
    attempt = 0
    while True:
        path = files / f"new-{os.getpid()}-{threading.get_ident():x}-{attempt}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            attempt += 1
            continue
        except OSError as error:
            if error.errno in directory.NO_ROOM:
                raise DiskFull(f"{files.parent}: {error.strerror}; nothing was committed") from error
            raise
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd, path


def _adopt(ledger: Ledger, files: Path, internal: bool) -> tuple[int, int, int] | None:
    for key in ledger.keys(rows.FILE):
        number = int.from_bytes(key[1:], "big")
        row = ledger.file(number)
        if row is None or row.state != "open" or row.internal != internal or row.end >= _room(internal) // 2:
            continue
        try:
            fd = lock(path_of(files, number, row.kind))
        except FileNotFoundError:
            continue
        if fd is None:
            continue
        size = os.fstat(fd).st_size
        if size < row.end:
            # Published bytes are missing: doctor's business. Never truncate to fit.
            os.close(fd)
            continue
        if size > row.end:
            os.ftruncate(fd, row.end)
        return number, fd, row.end
    return None


def write_all(fd: int, parts: Sequence[bytes | memoryview], position: int) -> None:
    """Writes the parts one behind the other; a write that comes short on a full disk is not mistaken for one."""
    pending = list(parts)
    while pending:
        vector = pending[:_VECTORS]
        written = os.pwritev(fd, vector, position)
        if len(vector) == len(pending) and written == sum(map(len, vector)):
            return
        position += written
        done = 0
        while done < len(vector) and written >= len(vector[done]):
            written -= len(vector[done])
            done += 1
        pending = pending[done:]
        if written:
            pending[0] = memoryview(pending[0])[written:]
