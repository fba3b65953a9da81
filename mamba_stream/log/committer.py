"""Committing: bytes first, then the index. Callers that arrive together share both syncs.

There is no thread of its own. Whoever finds nobody committing leads: takes all that has arrived, writes
it to the commit file with one sync, applies it to the index with one more, and answers everybody. Those
who arrive meanwhile are the next group.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mamba_stream.core.changes import Append, Applied, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.errors import CommitUnknown, LogClosed, LogUnavailable, MambaStreamError, NotCommitted
from mamba_stream.log import files, ledger
from mamba_stream.log.format import Message
from mamba_stream.log.index import CLOSED, Index

if TYPE_CHECKING:
    from mamba_stream.log.views import Draft

GROUP_BYTES = 256 << 20
"""A group takes no further callers once it holds so many bytes."""

_PATIENCE = 0.25
"""How long a leader waits for company, as a share of the last commit's time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """An encoded batch on its way to a partition; where it will lie is not known yet."""

    topic: int
    partition: int
    message: Message
    rows: int
    min_time: int
    max_time: int
    schema: int
    compressed: bool
    internal: bool
    expect: int | None = None


@dataclass(frozen=True)
class CommitCounts:
    """What the commits of this process came to. Times in seconds."""

    commits: int = 0
    """Synced transactions; each carried one change set or more."""
    changes: int = 0
    refused: int = 0
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Pending:
    change: ChangeSet
    batches: Sequence[Batch]
    done: bool = False
    answer: Applied | None = None
    error: BaseException | None = None
    wake: threading.Lock = field(default_factory=threading.Lock)
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.wake.acquire()
        self.bytes = sum(batch.message.length for batch in self.batches)


class Committer:
    """Turns change sets into commits, for all threads of one process."""

    def __init__(self, index: Index, directory: Path, clock: Clock, announce: Callable[[], None]) -> None:
        self._index = index
        self._files = directory
        self._clock = clock
        self._announce = announce
        self._turn = threading.Lock()
        self._door = threading.Lock()
        self._led = False
        self._gathering = False
        self._bell = threading.Event()
        self._arrived: deque[_Pending] = deque()
        self._open: dict[bool, files.CommitFile] = {}
        self._closed = False
        self._expected = 1
        self._pace = 0.0
        self._counts = [0, 0, 0, 0, 0]
        self._seconds = 0.0

    @property
    def counts(self) -> CommitCounts:
        """What the commits came to so far."""
        commits, changes, refused, rows, size = self._counts
        return CommitCounts(commits, changes, refused, rows, size, self._seconds)

    def commit(self, change: ChangeSet, batches: Sequence[Batch] = ()) -> Applied:
        """Commits the change set with these batches appended, durably; raises if it did not happen."""
        # Before any lock: over a fork a thread that holds one is not inherited, but its lock is.
        self._index.check()
        pending = _Pending(change, batches)
        with self._door:
            self._arrived.append(pending)
            leads = not self._led
            self._led = True
            if self._gathering:
                self._bell.set()
        if not leads:
            self._wait(pending)
        if not pending.done:
            try:
                with self._turn:
                    self._lead()
            finally:
                self._hand_over(pending)
        if pending.error is not None:
            raise pending.error
        assert pending.answer is not None
        return pending.answer

    def roll(self) -> None:
        """Closes the open commit files, so that they can be sealed."""
        self._index.check()
        with self._turn:
            for internal in list(self._open):
                self._retire(internal)

    def close(self) -> None:
        with self._turn:
            self._closed = True
            for file in self._open.values():
                file.close()
            self._open.clear()

    def abandon(self) -> None:
        """Closes the files without a word, in a process that was forked: their locks are its parent's."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _wait(self, pending: _Pending) -> None:
        """Returns with an answer, or as the leader."""
        try:
            pending.wake.acquire()
        except BaseException:
            with self._door:
                leads = pending in self._arrived and not pending.wake.locked()
                if not leads and pending in self._arrived:
                    self._arrived.remove(pending)
            if leads:
                self._hand_over(pending)
            raise

    def _hand_over(self, leader: _Pending) -> None:
        """Lets the next in line lead. A leader that was interrupted before its turn leaves the line."""
        with self._door:
            if leader in self._arrived:
                self._arrived.remove(leader)
            self._led = bool(self._arrived)
            following = self._arrived[0] if self._arrived else None
        if following is not None:
            following.wake.release()

    def _lead(self) -> None:
        self._gather()
        group = self._take_group()
        started = self._clock.monotonic()
        try:
            if self._closed:
                raise LogClosed(CLOSED)
            self._index.check()
            places = self._write(group)
            self._apply(group, places)
            self._announce()
        except BaseException as error:
            for pending in group:
                if not pending.done:
                    pending.error = _for_neighbour(error)
                    pending.done = True
            if not isinstance(error, MambaStreamError):
                raise
            if isinstance(error, LogUnavailable):
                self._index.fail(error)
            return
        finally:
            self._count(group, self._clock.monotonic() - started)
            for pending in group[1:]:
                pending.wake.release()

    def _gather(self) -> None:
        """Waits a moment for those who shared the last commit: they are about to be back.

        Without it groups alternate between one and all the others, and half of the syncs carry one caller.
        A caller that is alone never waits.
        """
        if self._expected == 1:
            return
        deadline = self._clock.monotonic() + self._pace * _PATIENCE
        self._gathering = True
        while len(self._arrived) < self._expected:
            self._bell.clear()
            left = deadline - self._clock.monotonic()
            if left <= 0 or (len(self._arrived) < self._expected and not self._bell.wait(left)):
                break
        self._gathering = False

    def _take_group(self) -> list[_Pending]:
        group: list[_Pending] = []
        size = 0
        while self._arrived and (not group or size + self._arrived[0].bytes <= GROUP_BYTES):
            pending = self._arrived.popleft()
            size += pending.bytes
            group.append(pending)
        return group

    def _write(self, group: list[_Pending]) -> dict[bool, int]:
        """Writes the group's messages, one file for users' topics and one for internal ones."""
        places: dict[bool, int] = {}
        for internal in (False, True):
            batches = [b for p in group for b in p.batches if b.internal is internal]
            if not batches:
                continue
            file = self._file(internal)
            places[internal] = file.end
            parts = [part for batch in batches for part in batch.message.parts()]
            file.write(parts, sum(batch.message.length for batch in batches))
        return places

    def _apply(self, group: list[_Pending], places: dict[bool, int]) -> None:
        now = self._clock.now()
        changes = self._placed(group, dict(places), now)
        answers: list[Applied | MambaStreamError] = []

        def change(draft: Draft) -> None:
            answers.clear()
            book = ledger.Ledger(draft, now)
            for value in changes:
                try:
                    answers.append(ledger.apply(book, value))
                except MambaStreamError as error:
                    answers.append(error)
            book.flush()

        try:
            self._index.update(change)
        except NotCommitted:
            # Only where it certainly did not happen: published bytes must never be taken back.
            for internal, position in places.items():
                self._open[internal].rewind(position)
            raise
        for pending, answer in zip(group, answers, strict=True):
            if isinstance(answer, Applied):
                pending.answer = answer
            else:
                pending.error = answer
            pending.done = True

    def _placed(self, group: list[_Pending], places: dict[bool, int], now: int) -> list[ChangeSet]:
        changes = []
        for pending in group:
            change = pending.change
            if pending.batches:
                appends = []
                for batch in pending.batches:
                    position = places[batch.internal]
                    places[batch.internal] = position + batch.message.length
                    appends.append(
                        Append(
                            topic=batch.topic,
                            partition=batch.partition,
                            file=self._open[batch.internal].number,
                            position=position,
                            length=batch.message.length,
                            rows=batch.rows,
                            min_time=batch.min_time,
                            max_time=batch.max_time,
                            schema=batch.schema,
                            header=batch.message.header,
                            append_time=now,
                            compressed=batch.compressed,
                            expect=batch.expect,
                        )
                    )
                change = msgspec.structs.replace(change, appends=tuple(appends))
            changes.append(change)
        return changes

    def _file(self, internal: bool) -> files.CommitFile:
        file = self._open.get(internal)
        if file is not None and file.full:
            self._retire(internal)
            file = None
        if file is None:
            file = files.open_commit_file(self._index, self._files, self._clock.now(), internal)
            self._open[internal] = file
        return file

    def _retire(self, internal: bool) -> None:
        file = self._open.pop(internal)
        now = self._clock.now()

        def close(draft: Draft) -> None:
            book = ledger.Ledger(draft, now)
            row = book.file(file.number)
            if row is not None and row.state == "open":
                book.set_file(file.number, msgspec.structs.replace(row, state="closed", since=now))
            book.flush()

        try:
            self._index.update(close)
        finally:
            file.close()

    def _count(self, group: list[_Pending], seconds: float) -> None:
        counts = self._counts
        accepted = [p for p in group if p.answer is not None and not p.answer.repeated]
        counts[0] += bool(accepted)
        counts[1] += len(accepted)
        counts[2] += sum(p.answer is None for p in group)
        for pending in accepted:
            counts[3] += sum(batch.rows for batch in pending.batches)
            counts[4] += pending.bytes
        self._seconds += seconds
        self._expected = len(group)
        self._pace = seconds


def _for_neighbour(error: BaseException) -> BaseException:
    if isinstance(error, MambaStreamError):
        return error
    # The leader was interrupted (KeyboardInterrupt, MemoryError): the others only know that they do not know.
    return CommitUnknown(f"the commit was interrupted by {type(error).__name__}: reopen the log and look")
