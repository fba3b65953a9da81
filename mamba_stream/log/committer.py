"""Committing: bytes first, then the index. Callers that arrive together share both syncs.

There is no thread of its own. Whoever finds nobody committing leads: takes all that has arrived, writes
it to the commit file with one sync, applies it to the index with one more, and answers everybody. Those
who arrive meanwhile are the next group.

What threads cost each other is the interpreter's lock: one that wakes while another holds it sleeps twice. So those
who were answered wake one after the other, each by the one before it, and whoever completes a group leads it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from mamba_stream.core.changes import Append, Applied, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.errors import CommitUnknown, DiskFull, LogClosed, LogFailed, MambaStreamError, NotCommitted
from mamba_stream.log.commitcounts import CommitCounts, CommitTally
from mamba_stream.log.files import CommitFile
from mamba_stream.log.format import Message
from mamba_stream.log.index import CLOSED
from mamba_stream.log.registrar import Registrar
from mamba_stream.log.room import Room

GROUP_BYTES = 256 << 20
"""A group takes no further callers once it holds so many bytes."""

_PATIENCE = 0.25
"""How long a leader waits for company, as a share of the last commit's time."""


class Batch(msgspec.Struct, frozen=True):
    """A batch on its way to a partition; where it will lie is not known yet."""

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

    @property
    def length(self) -> int:
        """How many bytes it takes in a file."""
        return self.message.length

    def made(self) -> list[Batch]:
        """Itself."""
        return [self]

    def placed(self, file: int, position: int, append_time: int) -> Append:
        """What names it in the index, now that it is known where its message lies."""
        return Append(
            topic=self.topic,
            partition=self.partition,
            file=file,
            position=position,
            length=self.message.length,
            rows=self.rows,
            min_time=self.min_time,
            max_time=self.max_time,
            schema=self.schema,
            header=self.message.header,
            append_time=append_time,
            compressed=self.compressed,
            expect=self.expect,
        )


class Rows(msgspec.Struct, frozen=True):
    """A few rows that become batches, of about this length, only when they are committed.

    That is for whoever leads: threads that append together would only wait for each other at the interpreter's lock.
    """

    made: Callable[[], list[Batch]]
    length: int


class _Change(msgspec.Struct, eq=False):
    """A change set on its way, and what became of it."""

    change: ChangeSet
    made_of: Sequence[Batch | Rows]
    """What it appends, as it came."""
    outcome: Applied | BaseException | None = None
    batches: Sequence[Batch] = ()
    """What it appends, ready to be written."""
    rows: int = 0
    bytes: int = 0
    """What that takes in a file: exactly once it is ready, and about as much before."""

    def __post_init__(self) -> None:
        for one in self.made_of:
            self.bytes += one.length

    def settled(self) -> Applied | BaseException:
        """What became of it, once the commit is over."""
        assert self.outcome is not None
        return self.outcome

    def prepare(self) -> bool:
        """Makes batches of what was left to be made; where that fails, this one alone fails."""
        if not self.made_of:
            return True
        try:
            batches = [batch for one in self.made_of for batch in one.made()]
        except Exception as error:  # noqa: BLE001 - raised where it was to be appended
            self.outcome = error
            return False
        self.batches = batches
        self.bytes = 0
        for batch in batches:
            self.rows += batch.rows
            self.bytes += batch.message.length
        return True


class _Pending(msgspec.Struct, eq=False):
    """A caller that waits, with one change set or several."""

    changes: Sequence[_Change]
    done: bool = False
    interrupted: bool = False
    wake: threading.Lock = msgspec.field(default_factory=threading.Lock)
    group: list[_Pending] = []
    """Those that it leads."""
    following: _Pending | None = None
    """Whom it wakes when it leaves."""
    left: bool = False

    bytes: int = 0

    def __post_init__(self) -> None:
        self.wake.acquire()
        for change in self.changes:
            self.bytes += change.bytes

    def fail(self, error: BaseException) -> None:
        """Answers what was not answered."""
        for change in self.changes:
            if change.outcome is None:
                change.outcome = error
        self.done = True


class Committer:
    """Turns change sets into commits, for all threads of one process."""

    def __init__(
        self,
        registrar: Registrar,
        clock: Clock,
        announce: Callable[[], None],
        room: Room,
    ) -> None:
        self._registrar = registrar
        self._room = room
        self._clock = clock
        self._announce = announce
        self._turn = threading.Lock()
        self._door = threading.Lock()
        # Under the door's lock: who waits, one of whom leads; and how many that one waits for, 0 once it begins.
        self._arrived: deque[_Pending] = deque()
        self._leader: _Pending | None = None
        self._awaited = 0
        self._open: dict[bool, CommitFile] = {}
        self._since: dict[bool, float] = {}
        self._closed = False
        self._expected = 1
        self._pace = 0.0
        self._tally = CommitTally()

    @property
    def counts(self) -> CommitCounts:
        """What the commits came to so far."""
        return self._tally.counts

    def commit(self, change: ChangeSet, batches: Sequence[Batch | Rows] = ()) -> Applied:
        """Commits the change set with these batches appended, as durably as it asks for; raises if it did not."""
        one = _Change(change, batches)
        self._commit([one])
        outcome = one.settled()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def commit_together(
        self, changes: Sequence[tuple[ChangeSet, Sequence[Batch | Rows]]]
    ) -> list[Applied | BaseException]:
        """Commits several change sets, as durably as each asks for, at the cost of one; what became of each."""
        several = [_Change(change, batches) for change, batches in changes]
        self._commit(several)
        return [one.settled() for one in several]

    def _commit(self, changes: Sequence[_Change]) -> None:
        # Before any lock: over a fork a thread that holds one is not inherited, but its lock is.
        self._registrar.check()
        pending = _Pending(changes)
        try:
            if not self._arrive(pending):
                self._wait(pending)
            if not pending.done:
                with self._turn:
                    self._lead(pending.group)
        finally:
            # Whatever interrupts a thread, and wherever: the others are answered, and the next in line leads.
            try:
                self._leave(pending)
            except BaseException:
                self._leave(pending)
                raise

    def roll(self, *, older_than: float = 0.0) -> None:
        """Closes the open commit files, or those that are so many seconds old, so that they can be sealed."""
        self._registrar.check()
        with self._turn:
            for internal, since in list(self._since.items()):
                if internal in self._open and self._clock.monotonic() - since >= older_than:
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
            file.let_go()
        self._open.clear()

    def _arrive(self, pending: _Pending) -> bool:
        """Whether it is to lead at once."""
        with self._door:
            if 0 < self._awaited <= len(self._arrived) + 1:
                # It runs already, and the one that waited for it would have to be woken. Who leads goes first: its own
                # change is in the group wherever that is cut.
                self._leader = pending
                self._awaited = 0
                self._arrived.appendleft(pending)
                return True
            self._arrived.append(pending)
            if self._leader is not None:
                return False
            self._choose(pending)
            return self._awaited == 0

    def _choose(self, leader: _Pending | None) -> None:
        """Makes it lead next, once those who shared the last commit are there, and those who came meanwhile.

        They are about to be back: without waiting for them, groups alternate between one and all the others, and half
        of the syncs carry one caller. A caller that is alone never waits.
        """
        self._leader = leader
        self._awaited = self._expected if self._expected > 1 else 0

    def _wait(self, pending: _Pending) -> None:
        """Until it is answered, or is to lead; nobody waits on for company once a moment passes in which none comes."""
        there = 0
        while True:
            with self._door:
                if pending.done:
                    return
                patience = -1.0
                if self._leader is pending:
                    before, there = there, len(self._arrived)
                    if there == before or there >= self._awaited:
                        self._awaited = 0
                        return
                    patience = self._pace * _PATIENCE
            pending.wake.acquire(timeout=patience)

    def _leave(self, pending: _Pending) -> None:
        """Wakes the next of those that were answered, and the next leader. Done twice it does nothing more."""
        with self._door:
            if self._leader is pending or not pending.done:
                self._hand_over(pending)
            pending.left = True
            if pending.following is not None:
                _wake(pending.following)
            # It holds itself, and with it all rows of the group.
            pending.group.clear()

    def _hand_over(self, pending: _Pending) -> None:
        last = pending
        for other in pending.group:
            if not other.done:
                other.interrupted = True
                other.fail(CommitUnknown("the commit was interrupted: reopen the log and look"))
            if other is not pending and not other.left:
                last.following = other
                last = other
        if not pending.done or pending.interrupted:
            # Interrupted while it waited, or while it took its group.
            self._arrived = deque(p for p in self._arrived if p is not pending and not p.done)
        if self._leader is pending:
            leader = self._arrived[0] if self._arrived else None
            if leader is not None:
                # It waits for this door before it looks whether it leads.
                _wake(leader)
            self._choose(leader)

    def _lead(self, group: list[_Pending]) -> None:
        started = self._clock.monotonic()
        try:
            self._take_group(group)
            if self._closed:
                raise LogClosed(CLOSED)
            self._registrar.check()
            ready = [
                one for pending in group for one in pending.changes if one.prepare() and self._takes(one)
            ]
            if ready:
                self._apply(*self._written(ready))
            for pending in group:
                pending.done = True
            self._announce()
        except MambaStreamError as error:
            for pending in group:
                if not pending.done:
                    pending.fail(error)
            if isinstance(error, LogFailed):
                self._registrar.fail(error)
        finally:
            self._count(group, self._clock.monotonic() - started)

    def _take_group(self, group: list[_Pending]) -> None:
        with self._door:
            size = 0
            while self._arrived:
                size += self._arrived[0].bytes
                if group and size > GROUP_BYTES:
                    return
                group.append(self._arrived[0])
                self._arrived.popleft()

    def _takes(self, one: _Change) -> bool:
        """Whether the disk has room for its rows; where not, it alone is refused."""
        if not one.batches:
            return True
        one.outcome = self._room.refusal(one.bytes)
        return one.outcome is None

    def _written(self, ready: list[_Change]) -> tuple[list[_Change], dict[bool, int]]:
        """Writes the messages; those that there was room for, which are all or those that have none, and where."""
        synced = "commit" in [one.change.durability for one in ready]
        try:
            return ready, self._write(ready, synced=synced)
        except DiskFull as error:
            left = [one for one in ready if not one.batches]
            if not left:
                raise
            # What deletes is not to wait for those who need room.
            for one in ready:
                if one.batches:
                    one.outcome = error
            return left, {}

    def _write(self, ready: list[_Change], *, synced: bool) -> dict[bool, int]:
        """Writes the messages, one file for users' topics and one for internal ones."""
        batches: dict[bool, list[Batch]] = {}
        for one in ready:
            for batch in one.batches:
                batches.setdefault(batch.internal, []).append(batch)
        places: dict[bool, int] = {}
        try:
            for internal, several in batches.items():
                file = self._file(internal)
                places[internal] = file.end
                parts: list[bytes | memoryview] = []
                length = 0
                for batch in several:
                    parts += batch.message.parts()
                    length += batch.message.length
                file.write(parts, length, synced=synced)
        except NotCommitted:
            self._rewind(places)
            raise
        return places

    def _rewind(self, places: dict[bool, int]) -> None:
        """Gives back the room of what was written for a commit that certainly did not happen."""
        for internal, position in places.items():
            self._open[internal].rewind(position)

    def _apply(self, ready: list[_Change], places: dict[bool, int]) -> None:
        now = self._clock.now()
        changes = self._placed(ready, dict(places), now)
        try:
            answers = self._registrar.apply(changes, now)
        except NotCommitted:
            # Only where it certainly did not happen: published bytes must never be taken back.
            self._rewind(places)
            raise
        fresh = False
        for change, answer in zip(ready, answers, strict=True):
            change.outcome = answer
            fresh |= isinstance(answer, Applied) and not answer.repeated
        if not fresh:
            for internal, position in places.items():
                self._open[internal].reuse(position)

    def _placed(self, ready: list[_Change], places: dict[bool, int], now: int) -> list[ChangeSet]:
        changes = []
        for one in ready:
            change = one.change
            if one.batches:
                appends = []
                for batch in one.batches:
                    position = places[batch.internal]
                    places[batch.internal] = position + batch.message.length
                    appends.append(batch.placed(self._open[batch.internal].number, position, now))
                change = msgspec.structs.replace(change, appends=tuple(appends))
            changes.append(change)
        return changes

    def _file(self, internal: bool) -> CommitFile:
        file = self._open.get(internal)
        if file is not None and file.full:
            self._retire(internal)
            file = None
            # A process that runs for months opens the log once. What fails here is tried again with the next file.
            with contextlib.suppress(OSError, MambaStreamError):
                self._registrar.tidy()
        if file is None:
            file = self._registrar.open_file(internal)
            self._open[internal] = file
            self._since[internal] = self._clock.monotonic()
        return file

    def _retire(self, internal: bool) -> None:
        file = self._open.pop(internal)
        try:
            self._registrar.close_file(file.number)
        finally:
            file.close()

    def _count(self, group: list[_Pending], seconds: float) -> None:
        committed = False
        for pending in group:
            for one in pending.changes:
                committed |= self._tally.add(one.change, one.outcome, one.rows, one.bytes)
        self._tally.took(seconds, committed=committed)
        self._pace = seconds
        # With those who came too late for this group, or else they would be too late for every other one, too.
        self._expected = len(group) + len(self._arrived)


def _wake(pending: _Pending) -> None:
    # Who does not wait at its lock (any more) does not mind.
    if pending.wake.locked():
        pending.wake.release()
