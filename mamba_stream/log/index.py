"""The index: one LMDB environment that says which rows exist. It is the truth.

Read transactions are one lookup each, never held over user code, I/O or a ``yield``: a long reader keeps
every page freed after it from being reused. The map grows by itself.

Commits that need not be on the disk yet lie over it (:mod:`mamba_stream.log.recent`) until one that has to be takes
them along. Whoever writes takes the upper one's lock first, so that below nothing changes without what lies above;
and who reads opens the upper one first: what was flushed in between is then found below.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar, cast

import lmdb

from mamba_stream.errors import (
    CommitUnknown,
    DataCorrupted,
    DiskFull,
    ForkedProcess,
    LogClosed,
    LogFailed,
    LogUnavailable,
    NotCommitted,
    ReadOnlyLog,
)
from mamba_stream.log import directory, rows
from mamba_stream.log.environment import environment
from mamba_stream.log.format import Damaged
from mamba_stream.log.overlay import Memory, OverlaidDraft, OverlaidView
from mamba_stream.log.recent import Recent, first_mark, flushed
from mamba_stream.log.views import Draft, View

T = TypeVar("T")

MAP_SIZE = 64 << 30
CLOSED = "the log was closed: open it again with mamba.open(...)"
FORKED = (
    "this process was forked from one that had this log open, and cannot use it: the index would be damaged. "
    "Start processes with multiprocessing's 'spawn' method, or open the log after the fork only"
)
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
        self._writable = writable
        self._recent: Recent | None = None
        self._memory = Memory()
        self._opening = threading.Lock()
        try:
            self._env = environment(path, map_size, writable=writable)
        except lmdb.ReadonlyError as error:
            raise ReadOnlyLog(f"{path} cannot be written to") from error
        except lmdb.Error as error:
            if "ermission denied" in str(error) or "Read-only" in str(error):
                raise ReadOnlyLog(f"{path} cannot be written to: {error}") from error
            raise _translated(error, path, reading=True) from error
        self._env.reader_check()
        _opened.add(self)

    def view(self) -> AbstractContextManager[View]:
        """A consistent view of one moment, for a lookup."""
        return self._viewed(above=True)

    def flushed(self) -> AbstractContextManager[View]:
        """The same of what is on the disk only: what a loss of power would leave."""
        return self._viewed(above=False)

    @contextmanager
    def _viewed(self, *, above: bool) -> Iterator[View]:
        # One generator: there are many views, and each of those that it could be made of costs as much as a lookup.
        try:
            self._enter()
            if self._recent is None or not above:
                with self._begin() as lower:
                    if not above or flushed(lower) is None or not self._looks_above():
                        yield View(lower)
                        return
            assert self._recent is not None
            with self._recent.begin() as upper, self._begin() as lower:
                if self._recent.pending(upper) and self._recent.generation(upper) > (flushed(lower) or 0):
                    yield OverlaidView(upper, lower)
                else:
                    yield View(lower)
        except (lmdb.Error, Damaged) as error:
            raise _translated(error, self._path, reading=True) from error
        finally:
            self._leave()

    def update(
        self, change: Callable[[Draft], T], *, durable: bool = True, unsynced: Collection[int] = ()
    ) -> T:
        """Runs ``change`` in the write transaction and commits it.

        Args:
            change: May run more than once (the map may have to grow); what it raises aborts.
            durable: Whether it is on the disk when this returns, and with it all that came before.
            unsynced: The numbers of files with bytes that are not on the disk, if it need not be either.
        """
        try:
            self._enter()
            while True:
                try:
                    if durable:
                        return self._attempt(change)
                    return self._attempt_above(change, unsynced)
                except lmdb.MapFullError:
                    self._resize(self._env.info()["map_size"] * 2)
                except lmdb.MapResizedError:
                    self._resize(0)
        except Damaged as error:
            raise _translated(error, self._path) from error
        except lmdb.ReadersFullError as error:
            # It looks at what waits for the disk before it writes anything.
            raise NotCommitted(
                f"{self._path}: as many threads look into the index as can at one moment; nothing was committed. "
                "Append again"
            ) from error
        except lmdb.Error as error:
            if self._found_no_room(error):
                raise _no_room(self._path) from error
            self.fail(LogFailed(f"{self._path}: an earlier commit failed ({error}); reopen the log"))
            raise _translated(error, self._path) from error
        finally:
            self._leave()

    def flush(self) -> bool:
        """Has everything on the disk that was committed; whether anything had to be done."""
        with self.view() as view:
            if not isinstance(view, OverlaidView):
                return False
        self.update(lambda draft: None)
        return True

    def copy_to(self, path: Path) -> None:
        """Copies it as it is at one moment on the disk; what waits for the disk is not in it."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            self._enter()
            self._env.copyfd(fd)
        except lmdb.Error as error:
            raise _translated(error, self._path, reading=True) from error
        finally:
            self._leave()
            os.close(fd)

    def settle(self) -> None:
        """Makes visible what a process had committed when it was killed before it could say so.

        LMDB tells readers of a commit in memory they share, after the commit is durable. Of one that was
        killed in between they learn only when the write lock, which it still holds, is next taken.
        """
        try:
            self._enter()
            if self._recent is not None:
                self._recent.begin(write=True).abort()
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
        above = 0 if self._recent is None else self._recent.reclaim()
        return above + int(self._env.reader_check())

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
            if self._recent is not None:
                self._recent.close()
            self._env.close()

    def _begin(self) -> lmdb.Transaction:
        while True:
            try:
                return self._env.begin()
            except lmdb.MapResizedError:
                self._resize(0)

    def _attempt(self, change: Callable[[Draft], T]) -> T:
        if self._recent is None:
            transaction = self._env.begin(write=True)
            try:
                above = flushed(transaction) is not None
                result = None if above else change(Draft(transaction))
            except BaseException:
                transaction.abort()
                raise
            if not above:
                transaction.commit()
                return cast("T", result)
            # Another process has begun to commit without waiting for the disk: its lock comes first.
            transaction.abort()
            self._looks_above()
        return self._attempt_below(change)

    def _attempt_below(self, change: Callable[[Draft], T]) -> T:
        """With the lock of what lies above, and all of it taken along."""
        recent = self._recent
        assert recent is not None
        with recent.begin() as upper:
            if why := recent.refused(upper):
                raise self._refused(why)
            if recent.pending(upper):
                # Most of it without the lock, for which others wait.
                self._sync(recent, upper)
        with _writing(recent.begin(write=True)) as upper:
            if recent.pending(upper):
                # Before the lower lock is taken: where this fails, the upper one is let go of and taken again.
                self._sync(recent, upper)
            lower = self._env.begin(write=True)
            try:
                below, pending = flushed(lower) or 0, recent.pending(upper)
                if pending and recent.generation(upper) > below:
                    recent.pour(upper, lower)
                    below = recent.generation(upper)
                result = change(Draft(lower))
            except BaseException:
                lower.abort()
                raise
            lower.commit()
            if pending:
                # It happened, whatever becomes of this: what stays there is of a generation that nobody reads.
                with contextlib.suppress(lmdb.Error):
                    recent.empty(upper, below)
                    upper.commit()
            return result

    def _attempt_above(self, change: Callable[[Draft], T], unsynced: Collection[int]) -> T:
        if self._recent is None:
            self._attempt(_begin_above)
            self._looks_above()
        recent = self._recent
        assert recent is not None
        upper = recent.begin(write=True)
        lower: lmdb.Transaction | None = None
        try:
            # Whoever flushed may have been killed when the index had it all, and before its readers could know: only
            # who has its lock is sure to see which generation was flushed. Nobody else can want it who has not the
            # upper one.
            lower = self._env.begin(write=True)
            if not self._memory.recall(upper.id(), lower.id()):
                if why := recent.refused(upper):
                    raise self._refused(why)
                before = flushed(lower) or 0
                if recent.generation(upper) <= before:
                    recent.empty(upper, before)
            if recent.crowded(upper):
                lower.abort()
                upper.abort()
                self._attempt_below(lambda draft: None)
                return self._attempt_above(change, unsynced)
            result = change(OverlaidDraft(upper, lower, self._memory))
            if unmarked := [number for number in unsynced if number not in self._memory.unsynced]:
                recent.mark(upper, unmarked)
                self._memory.unsynced.update(unmarked)
            moment = upper.id(), lower.id()
            upper.commit()
            self._memory.keep(*moment)
            return result
        finally:
            # Of what was committed there is nothing to undo.
            if lower is not None:
                lower.abort()
            upper.abort()

    def _looks_above(self) -> bool:
        """Whether there can be anything that waits for the disk; from now on it is looked at."""
        with self._opening:
            if self._recent is None:
                place = self._path.parent / directory.RECENT
                try:
                    self._recent = Recent.of(
                        place, self._path.parent / directory.FILES, writable=self._writable
                    )
                except OSError as error:
                    raise directory.unopened(place, error) from error
                except lmdb.Error as error:
                    raise _translated(error, place, reading=True) from error
            return self._recent is not None

    def _sync(self, recent: Recent, upper: lmdb.Transaction) -> None:
        try:
            recent.sync(upper)
        except OSError as error:
            # What the disk refused once, the system may take for written the next time.
            upper.abort()
            recent.refuse(str(error))
            raise self._refused(str(error)) from error

    def _refused(self, why: str) -> LogFailed:
        return LogFailed(
            f"{self._path.parent}: what was committed without waiting for the disk could not be written to it ({why}). "
            "It can be read until the machine is started again: copy what you need, and look at the disk"
        )

    def _found_no_room(self, error: lmdb.Error) -> bool:
        """Whether a commit failed for want of room only, so that it certainly did not happen."""
        text = str(error)
        if not any(os.strerror(code) in text for code in directory.NO_ROOM):
            # A write that the disk took a part of, LMDB calls an I/O error.
            short = os.strerror(errno.EIO) in text and directory.full(self._path)
            if not short:
                return False
        try:
            if self._recent is not None:
                self._recent.begin(write=True).abort()
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


@contextmanager
def _writing(transaction: lmdb.Transaction) -> Iterator[lmdb.Transaction]:
    """Undone at the end, unless it was committed."""
    try:
        yield transaction
    finally:
        # Of one that was committed there is nothing to undo.
        transaction.abort()


def _begin_above(draft: Draft) -> None:
    if draft.get(rows.RECENT) is None:
        draft.put(rows.RECENT, first_mark())


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
