"""The index: one LMDB environment that says which rows exist. It is the truth.

Read transactions are one lookup each, never held over user code, I/O or a ``yield``: a long reader keeps
every page freed after it from being reused. The map grows by itself.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from mamba_stream.errors import (
    CommitUnknown,
    DataCorrupted,
    DiskFull,
    ForkedProcess,
    LogClosed,
    LogFailed,
    LogUnavailable,
    ReadOnlyLog,
)
from mamba_stream.log import directory
from mamba_stream.log.format import Damaged
from mamba_stream.log.views import Draft, View

T = TypeVar("T")

MAP_SIZE = 64 << 30
CLOSED = "the log was closed: open it again with mamba.open(...)"
FORKED = (
    "this process was forked from one that had this log open, and cannot use it: the index would be damaged. "
    "Start processes with multiprocessing's 'spawn' method, or open the log after the fork only"
)
_MAX_READERS = 1024
_LOCKS_BYTES = 64 * _MAX_READERS + 128
"""The table of locks and readers: a cache line for each reader, and what comes before them."""
_STILLBORN_PAGES = 3
_MAGIC = (0xBEEFC0DE).to_bytes(4, sys.byteorder)
_MAGIC_END = 20
"""Where LMDB's mark ends in each of the first two pages."""
_opened: weakref.WeakSet[Index] = weakref.WeakSet()


class Index:
    """The environment of one process; many processes may have theirs on the same directory."""

    def __init__(self, path: Path, map_size: int = MAP_SIZE, *, writable: bool = True) -> None:
        self._path = path
        # While the map is resized no other thread may be in a transaction. Entered by the lock: a signal's handler that
        # raises while a condition is entered leaves it locked for ever.
        self._lock = threading.Lock()
        self._gate = threading.Condition(self._lock)
        self._active: set[int] = set()
        """Threads that are in a transaction, each in one; one that was interrupted may be left here until its next."""
        self._resizing = False
        self._unusable: Exception | None = None
        try:
            self._env = _environment(path, map_size, writable)
        except lmdb.ReadonlyError as error:
            raise ReadOnlyLog(f"{path} cannot be written to") from error
        except lmdb.Error as error:
            if "ermission denied" in str(error) or "Read-only" in str(error):
                raise ReadOnlyLog(f"{path} cannot be written to: {error}") from error
            raise _translated(error, path, reading=True) from error
        self._env.reader_check()
        _opened.add(self)

    @contextmanager
    def view(self) -> Iterator[View]:
        """A consistent view of one moment, for a lookup."""
        try:
            self._enter()
            with self._begin() as transaction:
                yield View(transaction)
        except (lmdb.Error, Damaged) as error:
            raise _translated(error, self._path, reading=True) from error
        finally:
            self._leave()

    def update(self, change: Callable[[Draft], T]) -> T:
        """Runs ``change`` in the write transaction and commits it, durably.

        ``change`` may run more than once (the map may have to grow); what it raises aborts.
        """
        try:
            self._enter()
            while True:
                try:
                    return self._attempt(change)
                except lmdb.MapFullError:
                    self._resize(self._env.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    self._resize(0)
        except Damaged as error:
            raise _translated(error, self._path) from error
        except lmdb.Error as error:
            if self._found_no_room(error):
                raise _no_room(self._path) from error
            self.fail(LogFailed(f"{self._path}: an earlier commit failed ({error}); reopen the log"))
            raise _translated(error, self._path) from error
        finally:
            self._leave()

    def settle(self) -> None:
        """Makes visible what a process had committed when it was killed before it could say so.

        LMDB tells readers of a commit in memory they share, after the commit is durable. Of one that was
        killed in between they learn only when the write lock, which it still holds, is next taken.
        """
        try:
            self._enter()
            self._env.begin(write=True).abort()
        except lmdb.MapResizedError:
            self._resize(0)
        except lmdb.Error as error:
            raise _translated(error, self._path) from error
        finally:
            self._leave()

    def fail(self, reason: Exception) -> None:
        """From now on every use raises this."""
        self._unusable = reason

    def check(self) -> None:
        """Raises where this handle can no longer be used."""
        if self._unusable is not None:
            raise self._unusable

    def reclaim(self) -> int:
        """Frees the places of readers that died; says how many."""
        return int(self._env.reader_check())

    def size(self) -> int:
        """What the index takes on disk, in bytes."""
        self.check()
        return int((self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"])

    def readers(self) -> int:
        """Places taken in the table of readers, over all processes."""
        self.check()
        return int(self._env.info()["num_readers"])

    def close(self) -> None:
        if isinstance(self._unusable, LogClosed):
            return
        forked = isinstance(self._unusable, ForkedProcess)
        with self._lock:
            self._unusable = LogClosed(CLOSED)
            self._gate.wait_for(lambda: forked or self._alone())
        if not forked:
            self._env.close()

    def _begin(self) -> lmdb.Transaction:
        while True:
            try:
                return self._env.begin()
            except lmdb.MapResizedError:
                self._resize(0)

    def _attempt(self, change: Callable[[Draft], T]) -> T:
        transaction = self._env.begin(write=True)
        try:
            result = change(Draft(transaction))
        except BaseException:
            transaction.abort()
            raise
        transaction.commit()
        return result

    def _found_no_room(self, error: lmdb.Error) -> bool:
        """Whether a commit failed for want of room only, so that it certainly did not happen."""
        text = str(error)
        if not any(os.strerror(code) in text for code in directory.NO_ROOM):
            # A write that the disk took a part of, LMDB calls an I/O error.
            short = os.strerror(errno.EIO) in text and directory.full(self._path)
            if not short:
                return False
        try:
            self._env.begin(write=True).abort()
        except lmdb.PanicError:
            # It failed in the very page that publishes a commit.
            return False
        except lmdb.MapResizedError:
            pass
        return True

    def _enter(self) -> None:
        with self._lock:
            while self._resizing:
                self._gate.wait()
            if self._unusable is not None:
                raise self._unusable
            self._active.add(threading.get_ident())

    def _leave(self) -> None:
        """Also where it did not enter, or left before."""
        with self._lock:
            self._active.discard(threading.get_ident())
            if self._resizing or self._unusable is not None:
                self._gate.notify_all()

    def _alone(self) -> bool:
        """Whether no other thread is in a transaction."""
        return self._active <= {threading.get_ident()}

    def _resize(self, size: int) -> None:
        """Sets the map's size (0: adopts what another process set) once this is the only transaction."""
        with self._lock:
            if self._resizing:
                # Another thread is at it: step aside until it is done.
                self._active.discard(threading.get_ident())
                self._gate.notify_all()
                while self._resizing:
                    self._gate.wait()
                self._active.add(threading.get_ident())
                return
            try:
                self._resizing = True
                self._gate.wait_for(self._alone)
                self._env.set_mapsize(size)
            finally:
                self._resizing = False
                self._gate.notify_all()


def _environment(path: Path, map_size: int, writable: bool) -> lmdb.Environment:
    def opened() -> lmdb.Environment:
        return lmdb.open(
            str(path),
            map_size=map_size,
            subdir=True,
            readonly=not writable,
            sync=True,
            metasync=True,
            writemap=False,
            max_readers=_MAX_READERS,
            max_spare_txns=16,
        )

    _reserve_locks(path)
    try:
        return opened()
    except lmdb.InvalidError:
        if not writable or not _clear_stillborn(path):
            raise
        return opened()


def _reserve_locks(path: Path) -> None:
    """Takes the room of the table of locks and readers before it is mapped.

    LMDB makes it as a hole and writes to it through a map: on a full disk that is not an error but SIGBUS.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    # Nothing of it is open in this process: closing it would let go of LMDB's locks.
    fd = os.open(path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        status = os.fstat(fd)
        # What another process has mapped keeps its size.
        wanted = status.st_size or _LOCKS_BYTES
        if status.st_blocks * 512 < wanted:
            os.posix_fallocate(fd, 0, wanted)
    except OSError as error:
        if error.errno in directory.NO_ROOM:
            raise
    finally:
        os.close(fd)


def _clear_stillborn(path: Path) -> bool:
    """Empties an index whose creation was cut short, by a loss of power or of room; whether to try again.

    LMDB writes the first two pages of a new file without syncing them. A file that holds no more than those
    and the first commit, which only says that this is a log, has never known of a topic.
    """
    fd = os.open(path / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_size > _STILLBORN_PAGES * mmap.PAGESIZE:
            return False
        first = [os.pread(fd, _MAGIC_END, page * mmap.PAGESIZE)[-len(_MAGIC) :] for page in range(2)]
        if first != [_MAGIC, _MAGIC]:
            os.ftruncate(fd, 0)
        # Otherwise another process has just made it anew.
        return True
    finally:
        os.close(fd)


def _no_room(path: Path) -> DiskFull:
    return DiskFull(f"{path}: no space left on the disk; nothing was committed. Free some and append again")


def _translated(error: lmdb.Error | Damaged, path: Path, *, reading: bool = False) -> Exception:
    text = str(error)
    if reading and os.strerror(errno.ENOSPC) in text:
        return _no_room(path)
    if isinstance(error, Damaged | lmdb.CorruptedError | lmdb.PageNotFoundError | lmdb.InvalidError):
        return DataCorrupted(f"{path}: the index is damaged ({text}); run: mamba-stream doctor {path.parent}")
    if isinstance(error, lmdb.PanicError):
        return LogFailed(f"{path}: an earlier commit failed; reopen the log")
    if reading:
        return LogUnavailable(f"{path}: the index cannot be read now: {text}")
    return CommitUnknown(f"{path}: {text}; the commit may or may not have happened: reopen the log and look")


def _poison() -> None:
    for index in list(_opened):
        # The child shares locks and reader slots with its parent: using them would corrupt the index.
        index._lock = threading.Lock()
        index._gate = threading.Condition(index._lock)
        index._unusable = ForkedProcess(FORKED)


os.register_at_fork(after_in_child=_poison)
