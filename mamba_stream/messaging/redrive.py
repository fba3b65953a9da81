"""Dead letters in the hands of whoever operates a queue: counted, looked at, put back, done away with.

What became of a letter is kept beside its topic, in records of the namespace ``letters/NUMBER``: for every 4,096
offsets of a partition (``PARTITION/CHUNK``) which were put back and which purged, as bitmaps; and for a partition
(``PARTITION``) how far a purge has trimmed it. A letter is put back in the change set that marks it, which requires
these records to be as they were read: however many do it at once, and wherever they are killed, each letter goes
back once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa

from mamba_stream.core.deadletters import DEAD
from mamba_stream.errors import (
    InvalidInput,
    NotFound,
    OffsetTrimmed,
    PreconditionFailed,
    QueueFull,
    TopicEnded,
    TopicNotFound,
)
from mamba_stream.log import Log, LogBatch, Topic, Transaction
from mamba_stream.messaging import bounds
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.message import Block, Rule
from mamba_stream.messaging.priorities import note_priorities
from mamba_stream.messaging.routing import partition_rows
from mamba_stream.messaging.schema import Headers, is_message_schema

CHUNK: Final = 4_096
"""Offsets to a record."""
_STEP: Final = 1_000
"""So many letters are put back in one change set, at most."""

State = Literal["left", "redriven", "purged"]
Place = tuple[int, int]
"""Partition and offset of a letter in its topic."""


class _Marks(msgspec.Struct, frozen=True, array_like=True):
    """What became of the letters of a chunk: bit ``i``, little end first, is its ``i``-th offset."""

    redriven: bytes = b""
    purged: bytes = b""


_marks = msgspec.msgpack.Decoder(_Marks)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be done.

    Attributes:
        partition: Its partition in the topic of dead letters.
        offset: Its offset there.
        state: ``left``, ``redriven`` (it was put back) or ``purged``.
        topic: The topic it came from.
        origin: Its partition and offset there.
        group: The group that gave it up.
        attempts: How often it was delivered.
        cause: Why.
        at: When.
        value: What was sent; the row of a typed topic.
        key: The key it was sent with.
        headers: Its headers.
        event_type: What kind of event its sender called it.
        time: When it was sent, or what its sender said, in microseconds since the epoch.
        priority: Its priority.
    """

    partition: int
    offset: int
    state: State
    topic: str
    origin: Place
    group: str
    attempts: int
    cause: str
    at: datetime
    value: Any
    key: Any
    headers: Headers
    event_type: str | None
    time: int | None
    priority: int


@dataclass(frozen=True, slots=True)
class LetterCounts:
    """A topic of dead letters.

    Attributes:
        topic: Its name.
        left: Letters that were neither put back nor purged.
        redriven: Those that were put back.
        purged: Those that were purged, and not trimmed away yet.
    """

    topic: str
    left: int
    redriven: int
    purged: int


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive did.

    Attributes:
        letters: So many went back.
        stayed: So many of those that were meant did not, by the reason.
        left: Letters that are left now.
    """

    letters: int
    stayed: Mapping[str, int]
    left: int


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    Attributes:
        letters: So many were purged.
        left: Letters that are left now.
    """

    letters: int
    left: int


def count_letters(log: Log) -> list[LetterCounts]:
    """The topics of dead letters, by name."""
    found = []
    for name in log.topics():
        try:
            topic = log[name]
        except TopicNotFound:
            continue
        if _is_dead(topic.schema):
            found.append(_Letters(log, topic).counts())
    return found


def letters(log: Log, name: str, *, where: Rule | None = None, every: bool = False) -> Iterator[DeadLetter]:
    """The letters that are left, in the order in which they came, partition by partition.

    Args:
        log: The log.
        name: The topic of dead letters.
        where: Only those that this lets pass; it sees the columns of the message, and ``_dead``.
        every: Also those that were put back or purged.

    Raises:
        TopicNotFound: There is no such topic.
        InvalidInput: It is not one of dead letters.
    """
    return _told(_Letters(log, _dead(log, name)), where, every)


def letter(log: Log, name: str, partition: int, offset: int) -> DeadLetter:
    """One letter, whatever became of it.

    Raises:
        NotFound: It is not there, or not any more.
    """
    known = _Letters(log, _dead(log, name))
    begin, end = known.topic.offsets().get(partition, (0, 0))
    if not begin <= offset < end:
        raise NotFound(
            f"topic {name!r}, partition {partition}, has no letter {offset}: "
            + (f"its offsets are {begin}..{end - 1}" if begin < end else "it holds none")
        )
    [batch] = known.topic.read(
        start={partition: offset}, end={partition: offset + 1}, partitions=[partition], max_rows=1
    )
    return next(_decoded(known, batch, np.ones(1, bool)))


def redrive(
    log: Log,
    name: str,
    *,
    where: Rule | None = None,
    places: Collection[Place] | None = None,
    limit: int | None = None,
    to: str | None = None,
) -> Redriven:
    """Puts letters back into the topics and partitions that they came from, each once, as new messages.

    They keep key, headers, event type and time, and their attempts count anew. Letters that come meanwhile are left.

    Args:
        log: The log.
        name: The topic of dead letters.
        where: Only those that this lets pass.
        places: Only these, by (partition, offset).
        limit: At most so many.
        to: Another topic of the same columns to put them into; by key, or round-robin.

    Raises:
        TopicNotFound: There is no such topic.
        InvalidInput: It is not one of dead letters.
        NotFound: One of ``places`` is not there.
    """
    known = _Letters(log, _dead(log, name))
    if to is not None:
        target = log[to]
        if target.difference(known.schema):
            raise InvalidInput(
                f"to={to!r}: its columns are not those of the letters of {name!r}: {', '.join(known.schema.names)}"
            )
    done = 0
    stayed: dict[str, int] = defaultdict(int)
    for batch, chosen in known.chosen(where, places):
        for start in range(0, len(chosen), _STEP):
            step = chosen[start : start + _STEP]
            if limit is not None:
                step = step[: limit - done]
            if not len(step):
                break
            done += _put_back(known, batch, step, to, stayed)
    return Redriven(done, dict(stayed), known.read().counts().left)


def purge(
    log: Log, name: str, *, where: Rule | None = None, places: Collection[Place] | None = None
) -> Purged:
    """Marks letters as gone, and frees what they take once all before them are gone too, put back or purged.

    Args:
        log: The log.
        name: The topic of dead letters.
        where: Only those that this lets pass.
        places: Only these, by (partition, offset).

    Raises:
        TopicNotFound: There is no such topic.
        InvalidInput: It is not one of dead letters.
        NotFound: One of ``places`` is not there.
    """
    known = _Letters(log, _dead(log, name))
    done = sum(_discard(known, batch, chosen) for batch, chosen in known.chosen(where, places))
    for partition in range(known.topic.partitions):
        _trim(known, partition)
    return Purged(done, known.read().counts().left)


class _Letters:
    """A topic of dead letters, and what became of each, as it was when it was read."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self.log = log
        self.topic = topic
        self.schema = pa.schema([each for each in topic.schema if each.name != DEAD])
        self.space = f"letters/{topic.number}"
        self.read()

    def read(self) -> _Letters:
        """Reads the records, and then how far the topic was trimmed: what is not marked may be gone altogether."""
        self.records = self.log.records(self.space)
        self.offsets = self.topic.offsets()
        self._flags: dict[tuple[int, int], tuple[Any, Any]] = {}
        return self

    def read_of(self, partition: int, offsets: Any) -> None:
        """Reads what is known of these offsets only; in the same order."""
        for key in (
            str(partition),
            *(f"{partition}/{chunk}" for chunk in np.unique(offsets // CHUNK).tolist()),
        ):
            value = self.log.record(self.space, key)
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        self.offsets = self.topic.offsets()
        self._flags.clear()

    def marks(self, key: str) -> _Marks:
        value = self.records.get(key)
        return _Marks() if value is None else _marks.decode(value)

    def gone(self, partition: int, offsets: Any) -> tuple[Any, Any]:
        """Which of these ascending offsets were put back, and which purged; what was trimmed counts as purged."""
        redriven, purged = np.zeros(len(offsets), bool), offsets < self.offsets[partition][0]
        chunks = offsets // CHUNK
        for chunk in np.unique(chunks).tolist():
            here = chunks == chunk
            within = offsets[here] - chunk * CHUNK
            one, other = self._bits(partition, chunk)
            redriven[here] |= one[within]
            purged[here] |= other[within]
        return redriven, purged

    def counts(self) -> LetterCounts:
        redriven = purged = total = 0
        for partition, (begin, end) in self.offsets.items():
            total += end - begin
            for key in self.records:
                of, slash, chunk = key.partition("/")
                if slash and int(of) == partition:
                    after = max(0, begin - int(chunk) * CHUNK)
                    one, other = self._bits(partition, int(chunk))
                    redriven += int(one[after:].sum())
                    purged += int(other[after:].sum())
        return LetterCounts(self.topic.name, total - redriven - purged, redriven, purged)

    def chosen(self, where: Rule | None, places: Collection[Place] | None) -> Iterator[tuple[LogBatch, Any]]:
        """Batches, and the positions in them of the letters that are left and meant."""
        wanted: dict[int, list[int]] = defaultdict(list)
        ends = {partition: end for partition, (_, end) in self.offsets.items()}
        for partition, offset in places or ():
            begin, end = self.offsets.get(partition, (0, 0))
            if not begin <= offset < end:
                raise NotFound(f"topic {self.topic.name!r}, partition {partition}, has no letter {offset}")
            wanted[partition].append(offset)
        for partition, end in ends.items():
            if places is not None and partition not in wanted:
                continue
            for batch in self.batches(partition, min(wanted[partition], default=0), end):
                redriven, purged = self.gone(partition, batch.offsets)
                left = ~redriven & ~purged & _passes(where, batch.data)
                if places is not None:
                    left &= np.isin(batch.offsets, np.array(wanted[partition], np.int64))
                if left.any():
                    yield batch, np.flatnonzero(left)

    def batches(self, partition: int, start: int, end: int) -> Iterator[LogBatch]:
        """The rows of a partition that are there, between two offsets."""
        begin = self.topic.offsets()[partition][0]
        reader = self.topic.reader(
            start={partition: min(max(start, begin), end)}, partitions=[partition], end={partition: end}
        )
        while True:
            try:
                found = reader.poll(max_rows=1)
            except OffsetTrimmed:
                # Somebody purged what we were about to look at.
                reader.seek({partition: min(self.topic.offsets()[partition][0], end)})
                continue
            if not found:
                return
            yield from found

    def _bits(self, partition: int, chunk: int) -> tuple[Any, Any]:
        known = self._flags.get((partition, chunk))
        if known is None:
            marks = self.marks(f"{partition}/{chunk}")
            known = self._flags[partition, chunk] = (_unpacked(marks.redriven), _unpacked(marks.purged))
        return known


@dataclass(slots=True)
class _Returns:
    """Letters of one origin, by position in their batch, and where each goes."""

    topic: Topic
    rows: list[int] = field(default_factory=list)
    partitions: list[int | None] = field(default_factory=list)

    def route(self, data: pa.RecordBatch, turn: int) -> None:
        """Has messages go where their keys say, as a producer does."""
        found = partition_rows(data.take(pa.array(self.rows)), self.topic.partitions, turn)
        self.partitions = list(np.broadcast_to(found, len(self.rows)).tolist())


def _put_back(known: _Letters, batch: LogBatch, rows: Any, to: str | None, stayed: dict[str, int]) -> int:
    """Puts letters of a batch back that are still left; says how many."""
    log, partition = known.log, batch.partition
    facts = batch.data.column(DEAD)
    data = _without_facts(batch.data, known.schema)
    while True:
        offsets = batch.offsets[rows]
        known.read_of(partition, offsets)
        redriven, purged = known.gone(partition, offsets)
        left = rows[~redriven & ~purged]
        kept: dict[str, int] = defaultdict(int)
        transaction = log.transaction()
        back: list[int] = []
        for each in _returns(log, facts, left, known.schema, to, kept):
            if to is not None and is_message_schema(known.schema):
                each.route(data, batch.offset)
            back += _append(log, transaction, each, data, kept)
        change = _marking(known, partition, batch.offsets[np.array(sorted(back), np.int64)], "redriven")
        try:
            if back:
                change.into(transaction)
                transaction.commit()
        except (PreconditionFailed, TopicNotFound, TopicEnded):
            # Somebody else put some of them back, or purged them; or a topic went.
            continue
        for reason, count in kept.items():
            stayed[reason] += count
        return len(back)


def _returns(
    log: Log, facts: pa.StructArray, rows: Any, schema: pa.Schema, to: str | None, kept: dict[str, int]
) -> list[_Returns]:
    """Letters by the topic that they go to; those that cannot go are counted with the reason."""
    found: dict[str, _Returns] = {}
    for row in rows.tolist():
        fact = facts[row].as_py()
        name, partition = (fact["topic"], fact["partition"]) if to is None else (to, None)
        if name not in found:
            try:
                found[name] = _Returns(log[name])
            except TopicNotFound:
                kept[f"topic {name!r}, from which they came, was deleted"] += 1
                continue
        topic = found[name].topic
        if topic.ended:
            kept[f"topic {name!r} was ended and takes no more rows"] += 1
        elif topic.difference(schema):
            kept[f"topic {name!r} was made anew, with other columns"] += 1
        elif partition is not None and partition >= topic.partitions:
            kept[f"topic {name!r} has no partition {partition} any more"] += 1
        else:
            found[name].rows.append(row)
            found[name].partitions.append(partition)
    return [each for each in found.values() if each.rows]


def _append(
    log: Log, transaction: Transaction, returns: _Returns, data: pa.RecordBatch, kept: dict[str, int]
) -> list[int]:
    """Appends to one topic what it has room for; says which rows."""
    topic, rows, partitions = returns.topic, returns.rows, returns.partitions
    limit = bounds.read(log, topic)
    if limit is not None:
        size = data.take(pa.array(rows)).nbytes
        try:
            admission = bounds.admit(log, topic, limit, len(rows), size)
        except QueueFull:
            room = 0
        else:
            room = admission.rows
            if room:
                bounds.into(transaction, topic, admission)
        if room < len(rows):
            kept[f"topic {topic.name!r} is full"] += len(rows) - room
        rows, partitions = rows[:room], partitions[:room]
    if rows and is_message_schema(topic.schema):
        note_priorities(log, transaction, topic, data.column("priority").take(pa.array(rows)))
    for partition in dict.fromkeys(partitions):
        own = [row for row, goes in zip(rows, partitions, strict=True) if goes == partition]
        transaction.append(topic.name, data.take(pa.array(own)), partition=partition)
    return rows


def _discard(known: _Letters, batch: LogBatch, rows: Any) -> int:
    partition = batch.partition
    while True:
        offsets = batch.offsets[rows]
        known.read_of(partition, offsets)
        redriven, purged = known.gone(partition, offsets)
        left = offsets[~redriven & ~purged]
        if not len(left):
            return 0
        transaction = known.log.transaction()
        _marking(known, partition, left, "purged").into(transaction)
        try:
            transaction.commit()
        except PreconditionFailed:
            continue
        return len(left)


def _trim(known: _Letters, partition: int) -> None:
    """Trims what is all gone."""
    while True:
        known.read()
        begin, end = known.offsets[partition]
        floor = begin
        while floor < end:
            stop = min(end, (floor // CHUNK + 1) * CHUNK)
            redriven, purged = known.gone(partition, np.arange(floor, stop))
            gone = redriven | purged
            if not gone.all():
                floor += int(gone.argmin())
                break
            floor = stop
        stale = [
            key
            for key in known.records
            if key.startswith(f"{partition}/") and (int(key.partition("/")[2]) + 1) * CHUNK <= floor
        ]
        if floor == begin and not stale:
            return
        place = known.space, str(partition)
        # Who read a letter before it is trimmed requires this record as it was then.
        change = Change({place: known.records.get(str(partition))}, {place: str(floor).encode()})
        change.records |= {(known.space, key): None for key in stale}
        transaction = known.log.transaction()
        change.into(transaction)
        transaction.trim(known.topic.name, {partition: floor})
        try:
            transaction.commit()
        except PreconditionFailed:
            continue
        return


def _marking(known: _Letters, partition: int, offsets: Any, how: str) -> Change:
    """The change that marks these, if nothing is known of them but what was read."""
    change = Change({(known.space, str(partition)): known.records.get(str(partition))})
    chunks = offsets // CHUNK
    for chunk in np.unique(chunks).tolist():
        key = f"{partition}/{chunk}"
        marks = known.marks(key)
        bits = _unpacked(getattr(marks, how))
        bits[offsets[chunks == chunk] - chunk * CHUNK] = True
        packed = np.packbits(bits, bitorder="little").tobytes().rstrip(b"\0")
        change.requires[known.space, key] = known.records.get(key)
        change.records[known.space, key] = msgspec.msgpack.encode(
            msgspec.structs.replace(marks, **{how: packed})
        )
    return change


def _told(known: _Letters, where: Rule | None, every: bool) -> Iterator[DeadLetter]:
    for partition, (begin, end) in known.offsets.items():
        for batch in known.batches(partition, begin, end):
            redriven, purged = known.gone(partition, batch.offsets)
            shown = _passes(where, batch.data)
            if not every:
                shown &= ~redriven & ~purged
            yield from _decoded(known, batch, shown)


def _decoded(known: _Letters, batch: LogBatch, shown: Any) -> Iterator[DeadLetter]:
    rows = np.flatnonzero(shown)
    if not len(rows):
        return
    redriven, purged = known.gone(batch.partition, batch.offsets[rows])
    data = batch.data.take(pa.array(rows))
    offsets = batch.offsets[rows].tolist()
    block = Block(
        known.topic.name, batch.partition, _without_facts(data, known.schema), offsets, batch.append_time
    )
    for row, fact in enumerate(data.column(DEAD).to_pylist()):
        yield DeadLetter(
            partition=batch.partition,
            offset=offsets[row],
            state="redriven" if redriven[row] else "purged" if purged[row] else "left",
            topic=fact["topic"],
            origin=(fact["partition"], fact["offset"]),
            group=fact["group"],
            attempts=fact["attempts"],
            cause=fact["cause"],
            at=fact["at"].astimezone(UTC),
            value=block.values[row],
            key=block.keys[row],
            headers=block.headers[row],
            event_type=block.event_types[row],
            time=block.times[row],
            priority=block.priorities[row],
        )


def _passes(where: Rule | None, data: pa.RecordBatch) -> Any:
    mask = None if where is None else where.mask(data)
    return np.ones(data.num_rows, bool) if mask is None else np.array(mask, bool)


def _without_facts(data: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([data.column(name) for name in schema.names], schema=schema)


def _unpacked(bits: bytes) -> Any:
    padded = np.frombuffer(bits.ljust(CHUNK // 8, b"\0"), np.uint8)
    return np.unpackbits(padded, bitorder="little").astype(bool)


def _is_dead(schema: pa.Schema) -> bool:
    return DEAD in schema.names and pa.types.is_struct(schema.field(DEAD).type)


def _dead(log: Log, name: str) -> Topic:
    topic = log[name]
    if not _is_dead(topic.schema):
        there = [each.topic for each in count_letters(log)]
        raise InvalidInput(
            f"topic {name!r} is not one of dead letters: these have a column {DEAD!r}; "
            + (f"there are {', '.join(there[:8])}" if there else "there are none in this log")
        )
    return topic
