"""Dead letters put back where they came from, or done away with.

A letter is put back in the change set that marks it, which requires what is known of letters to be as it was read:
however many do it at once, and wherever they are killed, each letter goes back once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mamba_stream.core.deadletters import DEAD
from mamba_stream.errors import InvalidInput, PreconditionFailed, QueueFull, TopicEnded, TopicNotFound
from mamba_stream.log import Log, LogBatch, Topic, Transaction
from mamba_stream.messaging import bounds
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.letterbook import CHUNK, LetterBook, Place, letter_book
from mamba_stream.messaging.message import Rule
from mamba_stream.messaging.priorities import note_priorities
from mamba_stream.messaging.routing import partition_rows
from mamba_stream.messaging.schema import is_message_schema

_STEP: Final = 1_000
"""So many letters are put back in one change set, at most."""


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
    known = letter_book(log, name)
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
    known = letter_book(log, name)
    done = sum(_discard(known, batch, chosen) for batch, chosen in known.chosen(where, places))
    for partition in range(known.topic.partitions):
        _trim(known, partition)
    return Purged(done, known.read().counts().left)


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


def _put_back(known: LetterBook, batch: LogBatch, rows: Any, to: str | None, stayed: dict[str, int]) -> int:
    """Puts letters of a batch back that are still left; says how many."""
    log, partition = known.log, batch.partition
    facts = batch.data.column(DEAD)
    data = known.messages(batch.data)
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
        change = known.marking(partition, batch.offsets[np.array(sorted(back), np.int64)], "redriven")
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


def _discard(known: LetterBook, batch: LogBatch, rows: Any) -> int:
    partition = batch.partition
    while True:
        offsets = batch.offsets[rows]
        known.read_of(partition, offsets)
        redriven, purged = known.gone(partition, offsets)
        left = offsets[~redriven & ~purged]
        if not len(left):
            return 0
        transaction = known.log.transaction()
        known.marking(partition, left, "purged").into(transaction)
        try:
            transaction.commit()
        except PreconditionFailed:
            continue
        return len(left)


def _trim(known: LetterBook, partition: int) -> None:
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
