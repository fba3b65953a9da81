"""A commit as a plain value: everything that one transaction changes, and what it requires to be true.

The embedded log, a committer for many workers, a server and a replica all apply the same value; it
travels as msgpack (:func:`encode`, :func:`decode`) and holds no bytes of rows, only where they lie.
"""

from __future__ import annotations

import msgspec

from mamba_stream.core.durability import Durability

MAX_RECORD_BYTES = 2048
"""A record is a pointer or a small state, never data: larger values belong into a topic."""


class Append(msgspec.Struct, frozen=True, array_like=True):
    """Rows that lie, synced, in a file, and become visible at the end of a partition.

    Times are in the ticks of the topic's time column; ``min_time > max_time`` says that there are none.
    """

    topic: int
    partition: int
    file: int
    position: int
    length: int
    rows: int
    min_time: int
    max_time: int
    schema: int
    header: int
    append_time: int
    compressed: bool = False
    expect: int | None = None


class TopicSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a topic is kept, which can be changed while it is in use."""

    retention: int | None = None
    """For how many microseconds after they were appended rows are kept; ``None``: until they are trimmed."""
    retention_bytes: int | None = None
    """What a partition may take on disk before its first rows go; ``None``: anything."""
    compact: bool = False
    """Whether only the latest row of each key is kept."""
    compact_after: int = 60_000_000
    """For how many microseconds after they were appended rows are left alone by that."""
    tombstones: int = 86_400_000_000
    """For how many microseconds after it was appended a row is kept that says that its key is gone."""
    seal_compression: str | None = None
    """How sealed batches are compressed: ``none``, ``lz4``, ``zstd``; ``None``: as they were appended."""
    compatibility: str = "backward"
    """What altering the columns has to leave possible: one of :data:`mamba_stream.core.alterations.COMPATIBILITIES`."""
    quota: int | None = None
    """What the topic may take on disk before appends are refused; ``None``: anything."""


class CreateTopic(msgspec.Struct, frozen=True, array_like=True):
    """A new topic. ``schema`` is an Arrow IPC schema message.

    ``strict_key`` says that rows lie where their key says, whoever appends them. ``begins`` gives for each partition
    the first offset, where it is not 0: for copies of topics whose first rows are gone.
    """

    name: str
    partitions: int
    key: tuple[str, ...]
    time: str | None
    compression: str
    schema: bytes
    internal: bool
    created: int
    strict_key: bool = False
    settings: TopicSettings = TopicSettings()
    begins: tuple[int, ...] = ()


class AlterTopic(msgspec.Struct, frozen=True, array_like=True):
    """A topic is altered: it gets ``settings``, if it has those that were ``seen``.

    With a ``schema``, an Arrow IPC schema message, it also gets other columns, if the number of the schema that it has
    is the one that was seen.
    """

    topic: int
    seen: TopicSettings
    settings: TopicSettings
    schema: bytes | None = None
    schema_seen: int = 0


class Sequence(msgspec.Struct, frozen=True, array_like=True):
    """A producer's number for its appends to one topic; a repeated number changes nothing."""

    topic: int
    producer: str
    number: int


class Once(msgspec.Struct, frozen=True, array_like=True):
    """A name for change sets that come one after the other, and the number of this one: it is applied once.

    What came of a name's last number is kept, and answered when that comes again; the next one is one more.
    """

    name: str
    number: int


class Forget(msgspec.Struct, frozen=True, array_like=True):
    """A producer's numbers for one topic are no longer known: it will append nothing there any more.

    With 0 as the topic, which none has, it is a name of :class:`Once`.
    """

    topic: int
    producer: str


class Trim(msgspec.Struct, frozen=True, array_like=True):
    """Rows before ``begin`` are no longer part of the partition."""

    topic: int
    partition: int
    begin: int


class GroupOffset(msgspec.Struct, frozen=True, array_like=True):
    """The next offset that a group reads from a partition; ``None`` forgets it."""

    group: str
    topic: int
    partition: int
    offset: int | None


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A small value under (namespace, key); ``None`` deletes it."""

    namespace: str
    key: str
    value: bytes | None


class ChangeSet(msgspec.Struct, frozen=True, array_like=True):
    """What one commit changes, all or nothing.

    ``drops``, ``ends`` and ``alters`` name topics by number. ``requires`` lists records that must have exactly
    these values (``None``: must not exist) when the change set is applied; an ``Append`` with ``expect``
    requires the partition to end there. ``durability`` is what has to be true before it is acknowledged.
    """

    creates: tuple[CreateTopic, ...] = ()
    drops: tuple[int, ...] = ()
    appends: tuple[Append, ...] = ()
    sequences: tuple[Sequence, ...] = ()
    ends: tuple[int, ...] = ()
    trims: tuple[Trim, ...] = ()
    offsets: tuple[GroupOffset, ...] = ()
    records: tuple[Record, ...] = ()
    requires: tuple[Record, ...] = ()
    forgets: tuple[Forget, ...] = ()
    once: Once | None = None
    durability: Durability = "commit"
    alters: tuple[AlterTopic, ...] = ()


class Applied(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a change set that was committed.

    ``ranges`` gives, append by append, (topic, partition, first offset, next offset); for a repeated
    sequence, or what was to be applied once, those of the first time, with ``repeated`` set. ``topics`` are the
    numbers of created topics.
    """

    lsn: int
    ranges: tuple[tuple[int, int, int, int], ...] = ()
    repeated: bool = False
    topics: tuple[int, ...] = ()


_decoder = msgspec.msgpack.Decoder(ChangeSet)


def encode(change: ChangeSet) -> bytes:
    """The change set as msgpack.

    >>> decode(encode(ChangeSet(trims=(Trim(1, 0, 40),)))).trims[0].begin
    40
    """
    return msgspec.msgpack.encode(change)


def decode(data: bytes) -> ChangeSet:
    """The change set in these bytes; raises ``msgspec.ValidationError`` on anything else."""
    return _decoder.decode(data)
