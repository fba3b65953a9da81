"""Bounded topics: how much one may hold, how full it is, and what happens to what comes when it is full.

What a topic holds are the messages that a group still needs; without any group, all that were not trimmed. A
commit to a bounded topic requires that no other came between its look and itself, so that the bound is kept
exactly among senders, and trims what all groups have passed. Plain functions on the log's records; no threads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, OffsetTrimmed, QueueFull
from mamba_stream.log import Log, Topic, Transaction
from mamba_stream.messaging import pending
from mamba_stream.messaging.priorities import priorities_of

WhenFull = Literal["block", "reject", "drop_oldest"]
Floors = Callable[[Log, Topic], Iterable[Mapping[int, int]]]
"""For each group of some kind, the next offset that it needs, by partition; a partition it has not begun is missing."""

BOUNDS: Final = "bounds"
WHEN_FULL: Final = ("block", "reject", "drop_oldest")


class Bound(msgspec.Struct, frozen=True, array_like=True):
    """How much a topic may hold.

    Attributes:
        max_messages: So many messages that a group still needs.
        max_bytes: So many bytes on disk.
        when_full: What happens to what comes: it waits, is refused, or the oldest messages make room.
    """

    max_messages: int | None = None
    max_bytes: int | None = None
    when_full: WhenFull = "block"


_bound = msgspec.msgpack.Decoder(Bound)


@dataclass(slots=True)
class Admission:
    """How many rows may be appended now, and what must be committed with them.

    Attributes:
        rows: So many from the front.
        trims: ``{partition: offset}`` to trim to, in the same change set.
        turn: The record that must be as it was read, and becomes another.
    """

    rows: int
    trims: dict[int, int] = field(default_factory=dict)
    turn: bytes | None = None


def bound(max_messages: object, max_bytes: object, when_full: object, topic: str) -> Bound | None:
    """The bound that these say; ``None`` where they say none.

    Raises:
        InvalidInput: They cannot be right.
    """
    for what, value in (("max_messages", max_messages), ("max_bytes", max_bytes)):
        if value is not None and not is_whole(value, 1):
            raise InvalidInput(
                f"topic {topic!r}: {what}={value!r:.40}; give a number from 1 on, or leave it out"
            )
    if when_full not in WHEN_FULL:
        hint = did_you_mean(when_full, WHEN_FULL) if isinstance(when_full, str) else ""
        raise InvalidInput(
            f"topic {topic!r}: when_full={when_full!r:.40}{hint}; choose {', '.join(WHEN_FULL)}"
        )
    if max_messages is None and max_bytes is None:
        return None
    return Bound(max_messages, max_bytes, when_full)  # type: ignore[arg-type]


def read(log: Log, topic: Topic) -> Bound | None:
    """The bound of a topic."""
    value = log.record(BOUNDS, str(topic.number))
    return None if value is None else _bound.decode(value)


def require_none(transaction: Transaction, topic: Topic) -> None:
    """Has the transaction commit only if the topic has no bound."""
    transaction.require_record(BOUNDS, str(topic.number), None)


def bounded(log: Log) -> set[int]:
    """The numbers of the topics that have a bound."""
    return {int(key) for key in log.records(BOUNDS) if key.isdigit()}


def write(log: Log, topic: Topic, value: Bound | None) -> None:
    """Sets or lifts the bound of a topic."""
    if value == read(log, topic):
        return
    with log.transaction() as transaction:
        if value is None:
            transaction.delete_record(BOUNDS, str(topic.number))
        else:
            transaction.put_record(BOUNDS, str(topic.number), msgspec.msgpack.encode(value))


def groups_namespace(topic: Topic) -> str:
    """Where a group that shares a topic leaves its name (the key; the value is free), so that it is known of."""
    return f"groups/{topic.number}"


def consumer_floors(log: Log, topic: Topic) -> list[dict[int, int]]:
    """What groups of consumers need next, from the offsets they committed."""
    found = []
    for group in log.groups():
        offsets = {p: offset for (name, p), offset in log.group_offsets(group).items() if name == topic.name}
        if offsets:
            found.append(offsets)
    return found


def shared_floors(log: Log, topic: Topic) -> list[dict[int, int]]:
    """What groups that share the topic need next: what is open in their runs, and what their cursors come to."""
    return [shared_floor(log, topic, group) for group in log.records(groups_namespace(topic))]


def shared_floor(log: Log, topic: Topic, group: str) -> dict[int, int]:
    """What one group that shares the topic needs next, by partition."""
    cursors: dict[int, dict[int, int]] = {}
    for key, value in log.records(f"cursor/{group}/{topic.number}").items():
        number, _, priority = key.partition(".")
        cursors.setdefault(int(number), {})[int(priority)] = msgspec.msgpack.decode(value)[0]
    begins = priorities_of(log, topic.number)
    floors: dict[int, int] = {}
    for partition, by_priority in cursors.items():
        # A priority that has no cursor yet is read from where it begins.
        begun = (starts.get(partition, 0) for number, starts in begins.items() if number not in by_priority)
        floors[partition] = min([*by_priority.values(), *begun])
    for value in log.records(f"pending/{group}/{topic.number}").values():
        run = pending.unpack(value)
        if run.count:
            floors[run.partition] = min(floors.get(run.partition, 0), int(run.offsets[0]))
    return floors


ALL_FLOORS: Final[tuple[Floors, ...]] = (consumer_floors, shared_floors)


def consumed(log: Log, topic: Topic, *, floors: Sequence[Floors] = ALL_FLOORS) -> dict[int, int]:
    """``{partition: offset}``: what lies before it no group needs any more.

    Without a group nothing is consumed; of a partition that a group has not begun nothing is either.
    """
    groups = [floor for of in floors for floor in of(log, topic)]
    return {
        partition: min(end, max(begin, min((floor.get(partition, 0) for floor in groups), default=begin)))
        for partition, (begin, end) in topic.offsets().items()
    }


def admit(
    log: Log,
    topic: Topic,
    limit: Bound,
    rows: int,
    size: int,
    *,
    whole: bool = False,
    floors: Sequence[Floors] = ALL_FLOORS,
) -> Admission:
    """How many of these rows the topic takes now; none of them where it is full.

    Args:
        log: The log.
        topic: The topic.
        limit: Its bound.
        rows: How many there are.
        size: Their bytes.
        whole: All of them or none.
        floors: What the groups need.

    Raises:
        QueueFull: They can never fit.
    """
    turn = log.record(BOUNDS, _turn(topic))
    done = consumed(log, topic, floors=floors)
    offsets = topic.offsets()
    trims = {p: offset for p, offset in done.items() if offset > offsets[p][0]}
    held = sum(offsets[p][1] - done[p] for p in offsets)
    each = max(1, size // rows)
    most = rows
    if limit.max_messages is not None:
        most = min(most, limit.max_messages)
    if limit.max_bytes is not None:
        most = min(most, limit.max_bytes // each)
    if most < rows and (whole or most == 0):
        raise QueueFull(
            f"topic {topic.name!r} {_says(limit)}: these {rows} messages of {size} bytes can never fit; "
            "nothing was sent"
        )
    used = _bytes(topic, offsets, done) if limit.max_bytes is not None else 0
    if limit.when_full == "drop_oldest":
        surplus = 0
        if limit.max_messages is not None:
            surplus = held + most - limit.max_messages
        if limit.max_bytes is not None and used + most * each > limit.max_bytes and held:
            over = used + most * each - limit.max_bytes
            surplus = max(surplus, min(held, -(-over * held // max(1, used))))
        if surplus > 0:
            trims |= _oldest(topic, done, min(surplus, held))
        return Admission(most, trims, turn)
    room = most
    if limit.max_messages is not None:
        room = min(room, limit.max_messages - held)
    if limit.max_bytes is not None:
        room = min(room, (limit.max_bytes - used) // each)
    room = max(0, room)
    return Admission(0 if whole and room < rows else room, trims, turn)


def into(transaction: Transaction, topic: Topic, admission: Admission) -> None:
    """Adds to a transaction what belongs to an admission."""
    key = _turn(topic)
    transaction.require_record(BOUNDS, key, admission.turn)
    number = 0 if admission.turn is None else int.from_bytes(admission.turn, "big")
    transaction.put_record(BOUNDS, key, (number + 1).to_bytes(8, "big"))
    if admission.trims:
        transaction.trim(topic.name, admission.trims)


def full(topic: Topic, limit: Bound, refused: int) -> QueueFull:
    """The error of a topic that rejects."""
    return QueueFull(
        f"topic {topic.name!r} is full: it {_says(limit)}, and rejects what comes then; {refused} "
        f"message{'s were' if refused > 1 else ' was'} not taken. Send again once its groups have consumed some, or "
        "create it with when_full='block'"
    )


def _says(limit: Bound) -> str:
    parts = []
    if limit.max_messages is not None:
        parts.append(f"{limit.max_messages} messages")
    if limit.max_bytes is not None:
        parts.append(f"{limit.max_bytes} bytes")
    return f"holds at most {' and '.join(parts)}"


def _turn(topic: Topic) -> str:
    return f"{topic.number}.turn"


def _bytes(topic: Topic, offsets: dict[int, tuple[int, int]], done: dict[int, int]) -> int:
    """What the rows take on disk; of a partition that is consumed in part, its share."""
    sizes = topic.sizes()
    total = 0
    for partition, (begin, end) in offsets.items():
        if end > begin:
            total += sizes[partition] * (end - done[partition]) // (end - begin)
    return total


def _oldest(topic: Topic, begins: dict[int, int], rows: int) -> dict[int, int]:
    """Where to trim to, so that so many rows go that were appended first."""
    trims: dict[int, int] = {}
    line: list[tuple[int, int, Any]] = []
    readers = {
        partition: topic.reader(
            start={partition: begin}, partitions=[partition], columns=topic.schema.names[:1]
        )
        for partition, begin in begins.items()
    }

    def advance(partition: int) -> None:
        try:
            found = readers[partition].poll(max_rows=1)
        except OffsetTrimmed:
            # Somebody else trimmed meanwhile: this commit will not happen.
            return
        for batch in found:
            heapq.heappush(line, (batch.append_time, partition, batch))

    for partition in readers:
        advance(partition)
    while rows > 0 and line:
        _, partition, batch = heapq.heappop(line)
        taken = min(rows, batch.next_offset - batch.offset)
        trims[partition] = batch.offset + taken
        rows -= taken
        advance(partition)
    return trims
