"""The rows of the index as bytes: keys that sort as they are read, and values that carry a checksum.

Everything lies in one LMDB database, because a commit costs a page per database it touches. The first
byte of a key says what the row is; numbers in keys are big endian, so that the order of bytes is the
order of numbers. Every value ends with a CRC-32 over key and value: LMDB 0.9 pages have none.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgspec
import xxhash

from mamba_stream.core.changes import TopicSettings
from mamba_stream.log.format import Damaged

META = b"\x01"
TICKS = b"\x02"
HEAD = b"\x03"
TOPIC = b"\x04"
NAME = b"\x05"
FILE = b"\x06"
OFFSET = b"\x07"
RECORD = b"\x08"
PRODUCER = b"\x09"
SEQUENCE = b"\x0a"
SCHEMA = b"\x0b"
ONCE = b"\x0c"
USED = b"\x0d"
RECENT = b"\x0e"
MARKS = b"\x0f"
ENTRY = b"\x10"

NO_TIME = -(1 << 63)
"""The running time of a partition that has seen no time yet."""

_CRC = struct.Struct(">I")
_KEY_NUMBER = struct.Struct(">I")
_KEY_DAY = struct.Struct(">BI")
_PRODUCER = struct.Struct(">QQ")
_KEY_PARTITION = struct.Struct(">BIH")
_KEY_ENTRY = struct.Struct(">BIHQ")
ENTRY_KEY_BYTES = _KEY_ENTRY.size
_TICKS = struct.Struct(">QII")
_HEAD = struct.Struct(">QQQQQQqq?")
_MARKS = struct.Struct(">QQq")
_ENTRY = struct.Struct(">IQIIIqqqqIQB")

HAS_TIME = 1
COMPRESSED = 2
SEALED = 4
LOST = 8
MERGED = 16


class Ticks(msgspec.Struct, frozen=True):
    """The numbers that a log hands out: of commits, of files, and of topics and schemas."""

    lsn: int = 0
    file: int = 0
    topic: int = 0

    def pack(self) -> bytes:
        return _TICKS.pack(self.lsn, self.file, self.topic)


class Head(msgspec.Struct, frozen=True):
    """The state of one partition. ``chain`` is the sum of its entries' hashes, modulo 2**64."""

    begin: int = 0
    end: int = 0
    entries: int = 0
    chain: int = 0
    rows: int = 0
    size: int = 0
    running_time: int = NO_TIME
    append_time: int = 0
    ended: bool = False

    def pack(self) -> bytes:
        return _HEAD.pack(*msgspec.structs.astuple(self))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One batch of a partition: where its bytes are, and what is known without reading them.

    ``running_time`` is the greatest time of this batch and all before it; ``span`` is how many offsets
    it covers, which is more than its rows once rows were compacted away.
    """

    file: int
    position: int
    length: int
    rows: int
    span: int
    min_time: int
    max_time: int
    running_time: int
    append_time: int
    schema: int
    header: int
    flags: int

    def pack(self) -> bytes:
        return _ENTRY.pack(*msgspec.structs.astuple(self))

    @property
    def has_time(self) -> bool:
        return bool(self.flags & HAS_TIME)

    def meets(self, low: int | None, high: int | None) -> bool:
        """Whether a row may lie between these times, inclusive; ``None`` is no bound."""
        if low is None and high is None:
            return True
        return (
            self.has_time
            and (low is None or self.max_time >= low)
            and (high is None or self.min_time <= high)
        )

    @property
    def kind(self) -> str:
        """The kind of file that this lies in."""
        return "segment" if self.flags & SEALED else "commit"

    @property
    def merged(self) -> bool:
        """Whether its message says where its rows come from: of several appends, or not all that there were."""
        return bool(self.flags & MERGED)

    @property
    def compressed(self) -> bool:
        return bool(self.flags & COMPRESSED)

    @property
    def lost(self) -> bool:
        """Whether a repair has given up what was at these offsets: no rows, and no bytes in any file."""
        return bool(self.flags & LOST)


class Marks(msgspec.Struct, frozen=True):
    """How far upkeep is with a partition.

    ``sealed`` and ``compacted`` are offsets before which all lies in segments, and is compacted; ``tombstone`` is when
    the first row was appended that deletes its key and is still there, 0 where none is.
    """

    sealed: int = 0
    compacted: int = 0
    tombstone: int = 0

    def pack(self) -> bytes:
        return _MARKS.pack(self.sealed, self.compacted, self.tombstone)


class OnceRow(msgspec.Struct, frozen=True, array_like=True):
    """What came of the last change set of a name, and when that was, in microseconds since the epoch."""

    number: int
    used: int
    lsn: int
    ranges: tuple[tuple[int, int, int, int], ...]
    topics: tuple[int, ...]


class FileRow(msgspec.Struct, frozen=True):
    """A file of the log. ``end`` is how far it is published, ``live`` how many entries lie in it."""

    kind: str
    """``commit`` (rows of many partitions, in the order of commits) or ``segment`` (one partition)."""
    state: str
    """``open`` (a writer may go on), ``closed``, or ``trash`` (no entry lies in it any more)."""
    end: int
    live: int
    internal: bool = False
    opened: int = 0
    """When its first writer began, in microseconds since the epoch."""
    since: int = 0
    """When it came into this state."""
    topic: int = 0
    """Of a segment: whose batches these are; 0 where that is not known."""
    partition: int = 0
    first: int = 0
    """Of a segment: the offset from which on its batches lie; nothing where the schema is not known."""
    schema: int = 0
    """Of a segment: the number of its batches' schema; 0 where that is not known."""
    batches: int = 0
    """Of a segment: how many batches it was written with; 0 where that is not known."""


class TopicRow(msgspec.Struct, frozen=True):
    """A topic. ``strict_key`` says that no row lies where its key does not say.

    ``schema`` is the number of the schema that it has now. Once it was altered, ``schemas`` are the numbers of all that
    it had, this one last, each with when it came, in microseconds since the epoch.
    """

    id: int
    name: str
    partitions: int
    key: tuple[str, ...]
    time: str | None
    compression: str
    schema: int
    internal: bool
    created: int
    strict_key: bool = False
    settings: TopicSettings = TopicSettings()
    schemas: tuple[tuple[int, int], ...] = ()

    @property
    def versions(self) -> tuple[tuple[int, int], ...]:
        """All its schemas, with when they came, the first one first."""
        return self.schemas or ((self.schema, self.created),)


class Meta(msgspec.Struct, frozen=True):
    """What the log is. ``origins`` are the uuids of the logs of which it is a restored backup, the first one first."""

    format: int
    uuid: str
    created: int
    origins: tuple[str, ...] = ()


def seal(key: bytes, value: bytes) -> bytes:
    """The value with its checksum."""
    return value + _CRC.pack(zlib.crc32(key + value))


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The value, proven to be what was written under this key."""
    value = sealed[:-4]
    if sealed[-4:] != _CRC.pack(zlib.crc32(key + value)):
        raise Damaged(f"the index row {key[:64].hex()} does not match its checksum")
    return value


def entry_hash(key: bytes, sealed: bytes) -> int:
    """What an entry adds to its partition's chain."""
    return xxhash.xxh3_64_intdigest(sealed, zlib.crc32(key))


def number_key(kind: bytes, number: int) -> bytes:
    return kind + _KEY_NUMBER.pack(number)


def head_key(topic: int, partition: int) -> bytes:
    return _KEY_PARTITION.pack(HEAD[0], topic, partition)


def marks_key(topic: int, partition: int) -> bytes:
    """Of a partition's :class:`Marks`."""
    return _KEY_PARTITION.pack(MARKS[0], topic, partition)


def entry_key(topic: int, partition: int, offset: int) -> bytes:
    return _KEY_ENTRY.pack(ENTRY[0], topic, partition, offset)


def entry_prefix(topic: int, partition: int) -> bytes:
    return _KEY_PARTITION.pack(ENTRY[0], topic, partition)


def entry_place(key: bytes) -> tuple[int, int, int]:
    """(topic, partition, base offset) of an entry's key."""
    _, topic, partition, offset = _KEY_ENTRY.unpack(key)
    return topic, partition, offset


def partition_place(key: bytes) -> tuple[int, int]:
    """(topic, partition) of a head's key."""
    _, topic, partition = _KEY_PARTITION.unpack(key)
    return topic, partition


def name_key(name: str) -> bytes:
    """Topics whose names differ only in case share this key: only one of them can exist."""
    return NAME + name.casefold().encode()


def offset_key(group: str, topic: int, partition: int) -> bytes:
    return OFFSET + group.encode() + b"\0" + topic.to_bytes(4, "big") + partition.to_bytes(2, "big")


def offset_place(key: bytes) -> tuple[str, int, int]:
    """(group, topic, partition) of a group offset's key."""
    group, _, place = key[1:].partition(b"\0")
    return group.decode(), int.from_bytes(place[:4], "big"), int.from_bytes(place[4:], "big")


def record_key(namespace: str, key: str) -> bytes:
    return RECORD + namespace.encode() + b"\0" + key.encode()


def producer_key(topic: int, producer: str) -> bytes:
    return PRODUCER + topic.to_bytes(4, "big") + producer.encode()


def pack_producer(number: int, used: int) -> bytes:
    """A producer's last sequence, and when it came, in microseconds since the epoch."""
    return _PRODUCER.pack(number, used)


def unpack_producer(value: bytes) -> tuple[int, int | None]:
    """The same; logs of before this was noted do not say when."""
    return (int.from_bytes(value, "big"), None) if len(value) == 8 else _PRODUCER.unpack(value)


def once_key(name: str) -> bytes:
    return ONCE + name.encode()


def used_key(day: int, key: bytes) -> bytes:
    """Lists the row of this key, a producer's or one of :class:`OnceRow`, under the day of its last use."""
    return _KEY_DAY.pack(USED[0], day) + key


def used_place(key: bytes) -> tuple[int, bytes]:
    """(day, key) of what is listed so."""
    return _KEY_DAY.unpack_from(key)[1], key[_KEY_DAY.size :]


def sequences_prefix(topic: int, producer: str) -> bytes:
    return SEQUENCE + topic.to_bytes(4, "big") + producer.encode() + b"\0"


def sequence_key(topic: int, producer: str, number: int) -> bytes:
    return sequences_prefix(topic, producer) + number.to_bytes(8, "big")


def unpack_ticks(value: bytes) -> Ticks:
    return Ticks(*_TICKS.unpack(value))


def unpack_head(value: bytes) -> Head:
    return Head(*_HEAD.unpack(value))


def unpack_marks(value: bytes | None) -> Marks:
    return Marks() if value is None else Marks(*_MARKS.unpack(value))


def unpack_entry(value: bytes | memoryview) -> Entry:
    return Entry(*_ENTRY.unpack_from(value))


_decoders = {kind: msgspec.msgpack.Decoder(kind) for kind in (FileRow, TopicRow, Meta, OnceRow)}


def pack(value: FileRow | TopicRow | Meta | OnceRow) -> bytes:
    return msgspec.msgpack.encode(value)


def unpack(kind: type[Any], value: bytes) -> Any:
    return _decoders[kind].decode(value)
