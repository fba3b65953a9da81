"""A log in a directory: what one process holds open of it, however many handles it was opened with."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import polars as pl
import pyarrow as pa

from mamba_stream.core.changes import Applied, ChangeSet, Once
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.diskmarks import DiskMarks, disk_marks
from mamba_stream.core.names import LONGEST_NAME
from mamba_stream.core.predicates import Predicate
from mamba_stream.errors import DiskFull, ForkedProcess, InvalidInput, LogFailed
from mamba_stream.log import description, directory, founding, locks, rows, scanning
from mamba_stream.log.caretaking import EVERY, SCRUBBED, Tending
from mamba_stream.log.committer import Batch, Committer, Rows
from mamba_stream.log.files import Maps
from mamba_stream.log.index import FORKED, MAP_SIZE, Index
from mamba_stream.log.intake import Intake
from mamba_stream.log.locks import FileLock
from mamba_stream.log.looking import Question
from mamba_stream.log.reader import ShelfReader
from mamba_stream.log.registering import SocketRegistrar
from mamba_stream.log.registrar import IndexRegistrar, Registrar
from mamba_stream.log.repeating import answered
from mamba_stream.log.room import Room
from mamba_stream.log.rows import Head, TopicRow
from mamba_stream.log.scrubbing import Scrubbed, ScrubCounts, scrub
from mamba_stream.log.seeking import first_reaching, offset_at
from mamba_stream.log.shelf import Shelf
from mamba_stream.log.sifting import Sieve, SiftedReader
from mamba_stream.log.skipping import Tally
from mamba_stream.log.staging import StagedRows
from mamba_stream.log.statistics import statistics
from mamba_stream.log.storage import LogStatistics, PartitionHead, Reader
from mamba_stream.log.upkeep import Maintained, UpkeepCounts
from mamba_stream.log.waking import Ear, Waker

if TYPE_CHECKING:
    from mamba_stream.log.compacting import PastDamage
    from mamba_stream.log.description import TopicDescription

_SLOW_POLL = 1.0
_stores: dict[tuple[int, int], Store] = {}
_opening = threading.RLock()


class Store:
    """The storage of a log in a directory: open index, files and sockets. Handles share it; the last one closes it."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        map_size: int,
        marks: DiskMarks,
        through: SocketRegistrar | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self.room = Room(path, marks, clock)
        self.files = path / directory.FILES
        self.index = Index(path / directory.INDEX, map_size, writable=through is None)
        try:
            self.registrar: Registrar = through or IndexRegistrar(self.index, self.files, clock, self.room)
            self.meta = founding.meta_of(self.index, path, clock)
            # Whoever writes the index has put it right.
            self.recovered = 0 if through else self.registrar.tidy()
            if not through:
                # Of processes that died before they did it. What the disk refuses, or has no room for, can be read
                # all the same.
                with contextlib.suppress(LogFailed, DiskFull):
                    self.registrar.flush()
                self.room.index_bytes = self.index.size
                self.room.look()
            self._waker = Waker(path / directory.WAKE, clock)
        except BaseException:
            self.index.close()
            raise
        self.maps = Maps(self.files)
        self.shelf = Shelf(self.index, self.maps)
        self.skips = Tally()
        self.scrubs = ScrubCounts()
        self.committer = Committer(self.registrar, clock, self._waker.announce, self.room)
        self.upkeep = UpkeepCounts()
        self.past_damage: dict[bytes, PastDamage] = {}
        self._tending = Tending(self)
        self._ear: Ear | None = None
        self._hearing = threading.Lock()
        self._pid = os.getpid()
        self.handles = 0

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def directory(self) -> Path:
        return self.path

    @property
    def identity(self) -> str:
        return self.meta.uuid

    @property
    def clock(self) -> Clock:
        return self._clock

    def commit(self, change: ChangeSet, batches: Sequence[Batch | Rows] = ()) -> Applied:
        """Commits durably, and wakes whoever waits."""
        return self.committer.commit(change, batches)

    def commit_together(
        self, changes: Sequence[tuple[ChangeSet, Sequence[Batch | Rows]]]
    ) -> list[Applied | BaseException]:
        return self.committer.commit_together(changes)

    def answered(self, once: Once) -> Applied | None:
        return answered(self.get(rows.once_key(once.name)), once)

    def stage(self) -> StagedRows:
        return StagedRows(self.registrar, self._clock, self.committer.commit, self.room)

    def schema(self, number: int) -> pa.Schema:
        return self.shelf.layout(number).schema

    def intake(self, topic: TopicRow) -> Intake:
        # Producers that come and go start at different partitions.
        turn = self.lsn()
        earlier = [
            Intake(msgspec.structs.replace(topic, schema=number), self.shelf.layout(number), turn)
            for number, _ in reversed(topic.versions)
            if number < topic.schema
        ]
        return Intake(topic, self.shelf.layout(topic.schema), turn, earlier)

    def heads(self, topic: TopicRow, partitions: Sequence[int] | None = None) -> dict[int, PartitionHead]:
        return {p: _head(topic.id, head) for p, head in self.shelf.heads(topic, partitions).items()}

    def all_heads(self, *, internal: bool) -> dict[tuple[str, int], PartitionHead]:
        names = {row.id: row.name for row in self.topics() if internal or not row.internal}
        found = {}
        for key, value in self.items(rows.HEAD):
            topic, partition = rows.partition_place(key)
            if topic in names:
                found[names[topic], partition] = _head(topic, rows.unpack_head(value))
        return found

    def offsets_at(self, topic: TopicRow, ticks: int, by: str) -> dict[int, int]:
        schema = self.schema(topic.schema)
        return {
            partition: offset_at(self.shelf, topic, schema, partition, head, ticks, by)
            for partition, head in self.shelf.heads(topic).items()
        }

    def reader(
        self,
        topic: TopicRow,
        positions: Mapping[int, int],
        wanted: tuple[int, ...] | None,
        ends: Mapping[int, int],
        opened: Callable[[], object],
        between: tuple[int | None, int | None] = (None, None),
        where: Predicate | None = None,
        *,
        skip_corrupt: bool = False,
    ) -> Reader:
        if where is not None:
            schema = self.schema(topic.schema)
            sieve = Sieve.of(where, schema, wanted)
            reads = sieve.reads(schema, wanted)
            found = self.reader(topic, positions, reads, ends, opened, between, skip_corrupt=skip_corrupt)
            return SiftedReader(found, sieve)
        if (low := between[0]) is not None:
            heads = self.shelf.heads(topic, list(positions))
            positions = {
                p: first_reaching(self.shelf, topic, p, max(start, heads[p].begin), heads[p].end, low)
                for p, start in positions.items()
            }
        passed_over = self.skips.add if skip_corrupt else None
        return ShelfReader(self._shelf_while(opened), topic, positions, wanted, ends, between, passed_over)

    def scan(self, topic: TopicRow, opened: Callable[[], object]) -> pl.LazyFrame:
        return scanning.scan(self._shelf_while(opened), topic, self.schema(topic.schema))

    def describe(self, topic: TopicRow) -> TopicDescription:
        return description.describe(self, topic, self.schema(topic.schema))

    def groups(self) -> list[str]:
        return sorted(group.decode() for group in self.openings(rows.OFFSET))

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        names: dict[int, str | None] = {}
        found = {}
        for key, value in self.items(rows.OFFSET + group.encode() + b"\0"):
            _, topic, partition = rows.offset_place(key)
            if topic not in names:
                row = self.get(rows.number_key(rows.TOPIC, topic))
                names[topic] = None if row is None else rows.unpack(TopicRow, row).name
            # Where the topic was deleted since, this went with it.
            if (name := names[topic]) is not None:
                found[name, partition] = int.from_bytes(value, "big")
        return found

    def record(self, namespace: str, key: str) -> bytes | None:
        return self.get(rows.record_key(namespace, key))

    def records(self, namespace: str, before: str | None, limit: int | None) -> dict[str, bytes]:
        prefix = rows.record_key(namespace, "")
        stop = None if before is None else rows.record_key(namespace, before)
        found = self.items(prefix, stop=stop, limit=limit)
        return {key[len(prefix) :].decode(): value for key, value in found}

    def together(
        self, questions: Sequence[Question], beyond: int | None = None, timeout: float = 0.0
    ) -> None:
        return None

    def namespaces(self, prefix: str) -> list[str]:
        start = prefix.encode()
        return [(start + rest).decode() for rest in self.openings(rows.RECORD + start)]

    def numbered(self, number: int) -> bool:
        return self.topic_mark(number) is not None

    def topic_mark(self, number: int) -> bytes | None:
        return self.get(rows.number_key(rows.TOPIC, number))

    def lock(self, space: str, name: str, holder: str | None = None) -> FileLock | None:
        return locks.take(self.path, space, name, holder or locks.this_process())

    def lock_holder(self, space: str, name: str) -> str | None:
        return locks.holder(self.path, space, name)

    def settle(self) -> None:
        self.registrar.settle()

    def flush(self) -> None:
        self.registrar.flush()

    def seal(self) -> int:
        self.committer.roll()
        return self.registrar.seal(self)

    def maintain(self, budget: int | None = None) -> Maintained:
        self.committer.roll()
        return self.registrar.maintain(self, budget)

    def scrub(self, most: int | None = None) -> Scrubbed:
        return scrub(self, most)

    def tended(self, every: float = EVERY, scrub: int = SCRUBBED) -> contextlib.AbstractContextManager[None]:
        return self._tending.wanted(every, scrub)

    def statistics(self) -> LogStatistics:
        return statistics(self)

    def release(self) -> None:
        release(self)

    def get(self, key: bytes) -> bytes | None:
        """One value of the index."""
        with self.index.view() as view:
            return view.get(key)

    def items(
        self, prefix: bytes, *, stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Rows of the index whose keys begin so, of one moment: those before ``stop``, at most ``limit``."""
        with self.index.view() as view:
            items = view.items(prefix)
            if stop is not None:
                items = itertools.takewhile(lambda item: item[0] < stop, items)
            return list(itertools.islice(items, limit))

    def openings(self, prefix: bytes) -> list[bytes]:
        """How keys of the index that begin so go on up to their first zero byte, each once, of one moment."""
        with self.index.view() as view:
            return list(view.openings(prefix))

    def lsn(self) -> int:
        value = self.get(rows.TICKS)
        return 0 if value is None else rows.unpack_ticks(value).lsn

    def flushed_lsn(self) -> int:
        """The number of the last commit that is on the disk."""
        with self.index.flushed() as view:
            value = view.get(rows.TICKS)
        return 0 if value is None else rows.unpack_ticks(value).lsn

    def heard(self) -> int:
        return self.lsn()

    def topic(self, name: object) -> TopicRow | None:
        """The topic of exactly this name."""
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            return None
        number = self.get(rows.name_key(name))
        row = None if number is None else self.get(rows.TOPIC + number)
        topic: TopicRow | None = None if row is None else rows.unpack(TopicRow, row)
        return topic if topic is not None and topic.name == name else None

    def topics(self) -> list[TopicRow]:
        return [rows.unpack(TopicRow, value) for _, value in self.items(rows.TOPIC)]

    def wait(self, lsn: int, timeout: float, called: Callable[[], bool] | None = None) -> int:
        """Returns once the log is past ``lsn``, or after ``timeout`` seconds; the lsn it is at.

        Also where ``called`` says yes: it is asked before each wait, and :meth:`rouse` ends one.
        """
        now = self.lsn()
        if now > lsn:
            return now
        deadline = self.clock.monotonic() + timeout
        ear = self._listener()
        while True:
            # Before the look, so that what comes after it is heard.
            heard = ear.heard
            now = self.lsn()
            left = deadline - self.clock.monotonic()
            if now > lsn or left <= 0 or (called is not None and called()):
                return now
            ear.wait(heard, min(left, _SLOW_POLL))

    def rouse(self) -> None:
        """Ends the waits in this process of those for whom something else has come; others wait on."""
        # Who makes the first ear has yet to ask whether it was called.
        if (ear := self._ear) is not None:
            ear.rouse()

    def sweep(self) -> None:
        """Removes what processes that died have left, in which nobody is woken any more."""
        self._waker.announce()

    def _shelf_while(self, opened: Callable[[], object]) -> Callable[[], Shelf]:
        """The shelf, to be asked for before each use, as long as the handle is open that it was asked for with."""

        def shelf() -> Shelf:
            opened()
            return self.shelf

        return shelf

    def close(self) -> None:
        """Closes everything; what is committed stays. Whoever waits is woken, and hears of it."""
        if os.getpid() != self._pid:
            return
        self.committer.close()
        self.registrar.close()
        self.maps.clear()
        self.index.close()
        with self._hearing:
            if self._ear is not None:
                self._ear.close()
        self._waker.announce()
        self._waker.close()

    def _listener(self) -> Ear:
        with self._hearing:
            # Not once it is closed: nobody would close it again.
            self.index.check()
            if self._ear is None:
                self._ear = Ear(self.path / directory.WAKE)
            return self._ear

    def abandon(self) -> None:
        """In a process that was forked: lets go of what would make its parent look alive."""
        self.committer.abandon()


def _head(topic: int, head: Head) -> PartitionHead:
    return PartitionHead(topic, head.begin, head.end, head.rows, head.size, head.append_time, head.ended)


def acquire(
    path: Path,
    clock: Clock | None = None,
    map_size: int = MAP_SIZE,
    *,
    marks: DiskMarks | None = None,
    through: SocketRegistrar | None = None,
) -> Store:
    """The store of this directory, created if missing; to be given back with :func:`release`.

    Args:
        path: The directory.
        clock: By which rows are appended and leases end; this machine's unless told otherwise.
        map_size: The first size of the index's address space.
        marks: Of its disk; what the environment and the file of settings say unless told otherwise.
        through: Who writes the index, in a process that must not; the log is there already, and not open here.
    """
    path = Path(os.path.abspath(path))
    with _opening:
        directory.prepare(path)
        status = os.stat(path / directory.INDEX)
        place = (status.st_dev, status.st_ino)
        store = _stores.get(place)
        if store is not None and store._pid != os.getpid():
            # LMDB permits a process one opening of a path, and this one inherited its parent's.
            raise ForkedProcess(FORKED)
        if store is None:
            try:
                store = Store(path, clock or SystemClock(), map_size, marks or disk_marks(), through)
            except OSError as error:
                raise directory.unopened(path, error) from error
            _stores[place] = store
        elif marks is not None and marks != store.room.marks:
            raise InvalidInput(
                f"{path} is open in this process already, with other marks of its disk: give the same, or open it "
                "without"
            )
        store.handles += 1
        return store


def is_open(path: Path) -> bool:
    """Whether this process has the log in a directory open."""
    try:
        status = os.stat(path / directory.INDEX)
    except FileNotFoundError:
        return False
    return (status.st_dev, status.st_ino) in _stores


def release(store: Store) -> None:
    """Gives back what :func:`acquire` gave; the last one closes it."""
    with _opening:
        store.handles -= 1
        if store.handles == 0:
            for place, known in list(_stores.items()):
                if known is store:
                    del _stores[place]
            store.close()


def _forked() -> None:
    # The lock may be held by a thread that the child does not have.
    global _opening  # noqa: PLW0603
    _opening = threading.RLock()
    for store in _stores.values():
        store.abandon()


os.register_at_fork(after_in_child=_forked)
