"""Copying topics from one log to another: the same rows at the same offsets, each once, however often it is begun.

There is nothing to remember: where a partition of the copy ends is where the copy goes on, and each append is refused
unless the partition ends there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.core.changes import ChangeSet, Record
from mamba_stream.errors import AlreadyExists, InvalidInput, PreconditionFailed
from mamba_stream.log.asked import offsets_of
from mamba_stream.log.creating import checked_topic

if TYPE_CHECKING:
    from mamba_stream.log.batch import LogBatch
    from mamba_stream.log.log import Log
    from mamba_stream.log.topic import Topic

NAMESPACE: Final = "copies"
_AT_ONCE: Final = 1 << 18
_AT_ONCE_BYTES: Final = 32 << 20

Starts = Mapping[str, Mapping[int, int]]
"""``{topic: {partition: offset}}``."""


@dataclass(frozen=True)
class Copied:
    """What was copied now.

    Attributes:
        rows: Rows.
        ranges: ``{(topic, partition): (first, next)}``: their offsets, there as here.
    """

    rows: int
    ranges: dict[tuple[str, int], tuple[int, int]]


def copy(source: Log, topics: str | Iterable[str], into: Log, start: Starts | None = None) -> Copied:
    """Copies what the topics hold now; what an earlier copy has brought is there, and this one goes on behind it.

    Args:
        source: The log.
        topics: Their names, which they keep.
        into: The other log, in a directory or a server's.
        start: For topics that are not there yet, where each partition begins; at its first row unless told otherwise.

    Raises:
        AlreadyExists: There is a topic of that name which is no copy of this one.
        InvalidInput: Rows are missing in the middle of a partition, so that the copy would have other offsets.
        OffsetTrimmed: The rows that come next were trimmed away since the last copy.
        PreconditionFailed: Somebody else appended to the copy.
    """
    if into.place == source.place:
        raise InvalidInput(f"{source.place} is the log itself: copy into another one")
    ranges: dict[tuple[str, int], tuple[int, int]] = {}
    rows = 0
    for name in dict.fromkeys([topics] if isinstance(topics, str) else topics):
        topic = source[name]
        target = _target(topic, into, (start or {}).get(name))
        for batches in _batches(topic, target):
            with into.transaction() as tx:
                for batch in batches:
                    tx.append(
                        target, batch.data, partition=batch.partition, expect={batch.partition: batch.offset}
                    )
            for (_, partition), (first, following) in tx.offsets.items():
                known = ranges.get((name, partition))
                ranges[name, partition] = (first if known is None else known[0], following)
                rows += following - first
        ends = {partition: end for partition, (_, end) in topic.offsets().items()}
        if topic.ended and not target.ended and ends == {p: end for p, (_, end) in target.offsets().items()}:
            target.end()
    return Copied(rows, ranges)


def _target(topic: Topic, into: Log, start: Mapping[int, int] | None) -> Topic:
    """The copy, made if there is none."""
    mark = msgspec.msgpack.encode((topic.log._store.identity, topic.number))
    known = into.record(NAMESPACE, topic.name)
    if topic.name not in into:
        offsets = topic.offsets()
        begins = {partition: begin for partition, (begin, _) in offsets.items()}
        begins |= offsets_of(topic._row, "start", start)
        for partition, begin in begins.items():
            first, end = offsets[partition]
            if not first <= begin <= end:
                raise InvalidInput(
                    f"topic {topic.name!r}, partition {partition}: a copy from offset {begin} on cannot be made of "
                    f"rows from {first} to {end}"
                )
        row = topic._row
        create = checked_topic(
            row.name,
            topic.schema,
            partitions=row.partitions,
            key=row.key or None,
            strict_key=row.strict_key,
            time=row.time,
            compression=row.compression,
            internal=row.internal,
            created=into.clock.now(),
            settings=row.settings,
        )
        create = msgspec.structs.replace(create, begins=tuple(begins[p] for p in range(row.partitions)))
        into._store.commit(ChangeSet(creates=(create,), records=(Record(NAMESPACE, topic.name, mark),)))
    elif known != mark:
        raise AlreadyExists(
            f"topic {topic.name!r} of {into.place} is no copy of that of {topic.log.place}: delete it first, or copy "
            "into another log"
        )
    target = into[topic.name]
    if target.schema.equals(topic.schema):
        return target
    # It was altered since it was copied.
    return into.alter_topic(topic.name, schema=topic.schema, compatibility=topic.compatibility)


def _batches(topic: Topic, target: Topic) -> Iterable[list[LogBatch]]:
    """What the copy does not have yet, some batches at a time."""
    ends = {partition: end for partition, (_, end) in topic.offsets().items()}
    there = {partition: end for partition, (_, end) in target.offsets().items()}
    for partition, end in there.items():
        if end > ends[partition]:
            raise PreconditionFailed(
                f"topic {topic.name!r}, partition {partition}: the copy in {target.log.place} goes on to {end}, behind "
                f"the {ends[partition]} of what it is a copy of: somebody appended to it, or the log went back"
            )
    reader = topic.reader(start=there, end=ends)
    while batches := reader.poll(max_rows=_AT_ONCE, max_bytes=_AT_ONCE_BYTES):
        for batch in batches:
            if (
                batch.offset != there[batch.partition]
                or batch.next_offset - batch.offset != batch.data.num_rows
            ):
                raise _missing(topic, batch.partition, there[batch.partition])
            there[batch.partition] = batch.next_offset
        yield batches
    for partition, end in ends.items():
        if there[partition] != end:
            raise _missing(topic, partition, there[partition])


def _missing(topic: Topic, partition: int, offset: int) -> InvalidInput:
    return InvalidInput(
        f"topic {topic.name!r}, partition {partition}: rows are missing behind offset {offset}, which were compacted "
        "away: a copy would have other offsets. Back the log up instead, or append what topic.read() gives to a topic "
        "of another name"
    )
