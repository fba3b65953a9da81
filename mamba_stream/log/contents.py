"""The table of contents beside a segment: what the index knows of its batches, as a file.

A segment with its table can be understood without the index. The table is a magic, a checksum, and
msgpack; pure functions over bytes.
"""

from __future__ import annotations

import msgspec
import xxhash

from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import TopicRow

_MAGIC = b"MBATOC1\n"


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """One batch of a segment; fields as in the index's entries."""

    offset: int
    position: int
    length: int
    rows: int
    span: int
    min_time: int
    max_time: int
    running_time: int
    append_time: int
    header: int
    flags: int


class Contents(msgspec.Struct, frozen=True):
    """What a segment holds."""

    log: str
    """The log's uuid."""
    topic: str
    topic_id: int
    partition: int
    schema: bytes
    """The schema as an IPC message, as the index has it."""
    schema_id: int
    batches: tuple[Batch, ...]
    size: int
    """The segment's length in bytes."""
    opening: int
    """The checksum of the schema message that the segment begins with."""
    row: TopicRow | None = None
    """The topic as the index had it then, for whoever has no index any more."""


_decoder = msgspec.msgpack.Decoder(Contents)


def encode(contents: Contents) -> bytes:
    payload = msgspec.msgpack.encode(contents)
    return _MAGIC + xxhash.xxh3_64_digest(payload) + payload


def decode(data: bytes) -> Contents:
    """The table in these bytes; raises ``Damaged`` unless they are what was written."""
    start = len(_MAGIC) + 8
    payload = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or xxhash.xxh3_64_digest(payload) != data[len(_MAGIC) : start]:
        raise Damaged("the table of contents does not match its checksum")
    return _decoder.decode(payload)
