"""How one batch lies in a file: an Arrow IPC message that carries its own checksums.

Every batch is an ordinary encapsulated IPC message, so that messages behind a schema message are an
ordinary IPC stream. The checksums lie where every Arrow reader looks away: in the padding between the
metadata and the body, which the metadata length already counts in::

    ffffffff | metadata length | flatbuffer | padding | xxh3 per column | footer | body, a column after the other

- The footer holds the number of columns and a magic. Start and body are aligned to 64 bytes, and so is
  the length of the whole.
- A column's checksum covers its buffers with their padding. Together the columns cover the whole body.
- The header checksum (in the index and in a segment's table of contents) covers everything before the
  body. It is seeded with the schema's fingerprint: with another schema it does not match.
- Where the rows of several appends were merged, what they come from lies before the columns' checksums
  (:mod:`mamba_stream.log.origins`).

A reader verifies the header and the columns it projects, and only then decodes: damaged IPC bytes would
crash the decoder, or silently give other rows. Pure functions over bytes; files are another module.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pyarrow as pa
import xxhash

from mamba_stream.log.metadata import BODY_LENGTH, PREFIX, Places, field as field_at, places, u32

ALIGNMENT = 64
MAX_MESSAGE_BYTES = 1 << 31
_FOOTER = struct.Struct("<I4s")
FOOTER_BYTES = _FOOTER.size
_MAGIC = b"MBA1"
_MERGED = b"MBA2"
"""Where the footer is of a message that also says where its rows come from."""
_ORIGINS = struct.Struct("<I")
_CONTINUATION = 0xFFFFFFFF
_OPTIONS = {name: pa.ipc.IpcWriteOptions(compression=name) for name in ("lz4", "zstd")}
END_OF_STREAM = PREFIX.pack(_CONTINUATION, 0)


class Damaged(Exception):
    """Bytes are not what was written; the caller knows topic, partition and offset."""


class Shape(msgspec.Struct, frozen=True):
    """What follows of a fresh message from the metadata that Arrow wrote alone. As many rows mostly have the same."""

    metadata: bytes
    opening: bytes
    """What it becomes, up to the checksums, where the message does not say where its rows come from."""
    starts: tuple[int, ...]
    """Where the columns lie in the body, and last where that ends."""
    padding: bytes


@dataclass(frozen=True)
class Layout:
    """What a schema says of its messages: the buffers of every column, and the seed of checksums."""

    schema: pa.Schema
    fingerprint: int
    firsts: tuple[int, ...]
    """For each column, where among the numbers of all buffers its first one's offset is; behind them if it has none."""
    buffers: int
    numbers: struct.Struct
    """(offset, length) of every buffer, as they lie in a message."""
    table: struct.Struct
    """The checksums and the footer."""
    opening: bytes
    """The schema message, for a stream of messages."""
    places: dict[int, Places] = field(default_factory=dict, compare=False, repr=False)
    """By the length of what lies before the body: where messages had their numbers, see ``_known``."""
    shapes: dict[int, Shape] = field(default_factory=dict, compare=False, repr=False)
    """By the length of their metadata: what is known of the last ones that were encoded."""

    @classmethod
    def of(cls, schema: pa.Schema, fingerprint: int) -> Layout:
        first, total = [], 0
        for column in schema:
            first.append(2 * total)
            total += _buffer_count(column.type)
        numbers, table = struct.Struct(f"<{2 * total}q"), struct.Struct(f"<{len(first)}QI4s")
        return cls(schema, fingerprint, tuple(first), total, numbers, table, schema_message(schema))


class Message(msgspec.Struct, frozen=True):
    """A message ready to be written: what lies before the body, and the body in pieces, its end padding among them."""

    head: bytes
    body: tuple[bytes | memoryview, ...]
    header: int
    length: int

    def parts(self) -> tuple[bytes | memoryview, ...]:
        return (self.head, *self.body)


class Columns(msgspec.Struct, frozen=True):
    """Where the columns of a message lie, relative to its start, and their checksums."""

    starts: Sequence[int]
    """One more than there are columns: the last is the end of the message."""
    checksums: Sequence[int]
    origins: memoryview | bytes = b""
    """Where the rows come from (:mod:`mamba_stream.log.origins`), if the message says so."""
    buffers: tuple[int, ...] = ()
    """(offset in the body, length) of every buffer, one behind the other."""
    nodes: int = 0
    """Where (rows, nulls) of every array lie."""


def encode(batch: pa.RecordBatch, layout: Layout, compression: str = "none", origins: bytes = b"") -> Message:
    """The batch as a message with checksums. Its schema must be the layout's."""
    message = memoryview(_serialize(batch, compression))
    body_start = PREFIX.size + PREFIX.unpack_from(message, 0)[1]
    metadata, body = bytes(message[:body_start]), message[body_start:]
    shape = layout.shapes.get(body_start)
    if shape is None or shape.metadata != metadata:
        shape = layout.shapes[body_start] = _shape(metadata, len(body), layout)
    table = _table(_digests(body, shape), layout, origins)
    opening = _opening(bytearray(shape.opening[:body_start]), len(table)) if origins else shape.opening
    parts = (body, shape.padding) if shape.padding else (body,)
    return _message(opening + table, parts, shape.starts[-1], layout)


def sealed(
    metadata: bytearray,
    body: tuple[bytes | memoryview, ...],
    body_length: int,
    digests: Sequence[int],
    layout: Layout,
    origins: bytes = b"",
) -> Message:
    """The message of this metadata, which is changed, and this body, with the columns' checksums between them."""
    table = _table(digests, layout, origins)
    return _message(_opening(metadata, len(table)) + table, body, body_length, layout)


def schema_message(schema: pa.Schema) -> bytes:
    """The message that opens an IPC stream of this schema, padded to the alignment of batches."""
    message: bytes = schema.serialize().to_pybytes()
    length = _aligned(len(message))
    return PREFIX.pack(_CONTINUATION, length - PREFIX.size) + message[8:] + bytes(length - len(message))


def verify_header(message: memoryview, layout: Layout, header: int) -> Columns:
    """The columns' places and checksums, from a header that is proven to be what was written."""
    if len(message) < PREFIX.size:
        raise Damaged("the message is cut off")
    mark, metadata_length = PREFIX.unpack_from(message, 0)
    body_start = PREFIX.size + metadata_length
    if mark != _CONTINUATION or not ALIGNMENT <= body_start <= len(message):
        raise Damaged("no message begins here")
    head = message[:body_start]
    if _header_checksum(head, layout) != header:
        raise Damaged("the header's checksum does not match")
    table_at = body_start - layout.table.size
    *checksums, count, magic = layout.table.unpack_from(head, table_at) if table_at > 0 else (0, b"")
    if magic not in (_MAGIC, _MERGED) or count != len(layout.firsts):
        raise Damaged("the table of checksums is not of this schema")
    origins: memoryview | bytes = b""
    if magic == _MERGED:
        origins_at = table_at - _ORIGINS.size - u32(head, table_at - _ORIGINS.size)
        if origins_at < PREFIX.size:
            raise Damaged("where its rows come from is cut off")
        origins = head[origins_at : table_at - _ORIGINS.size]
    body_length = len(message) - body_start
    found = _known(head, body_length, layout)
    if found is None:
        found = places(head)
        if (BODY_LENGTH.unpack_from(head, found.body_length)[0] if found.body_length else 0) != body_length:
            raise Damaged("the message is cut off")
        if body_length:
            layout.places[body_start] = found
    numbers = _numbers(head, found, layout)
    starts = [body_start + start for start in _column_starts(numbers, layout, body_length)]
    return Columns(starts, checksums, origins, numbers, found.nodes)


def origins_in(message: bytes) -> bytes:
    """Where the rows of a message come from, which is not proven to be what was written.

    Raises:
        Damaged: It does not say.
    """
    try:
        body_start = PREFIX.size + PREFIX.unpack_from(message)[1]
        count, magic = _FOOTER.unpack_from(message, body_start - _FOOTER.size)
        end = body_start - _FOOTER.size - 8 * count - _ORIGINS.size
        (size,) = _ORIGINS.unpack_from(message, end)
    except struct.error as error:
        raise Damaged("the message is cut off") from error
    if magic != _MERGED or size > end:
        raise Damaged("the message does not say where its rows come from")
    return message[end - size : end]


def verify_columns(message: memoryview, columns: Columns, wanted: Sequence[int]) -> None:
    """Raises ``Damaged`` unless each wanted column's bytes are what was written."""
    for column in wanted:
        body = message[columns.starts[column] : columns.starts[column + 1]]
        if xxhash.xxh3_64_intdigest(body) != columns.checksums[column]:
            raise Damaged(f"the checksum of column {column} does not match")


def decode_all(
    messages: Sequence[memoryview], layout: Layout, wanted: Sequence[int] | None
) -> list[pa.RecordBatch]:
    """The wanted columns (``None``: all) of several messages, which are copied together. Verify them before."""
    options = pa.ipc.IpcReadOptions(included_fields=None if wanted is None else list(wanted))
    with pa.ipc.open_stream(b"".join((layout.opening, *messages)), options=options) as reader:
        table = reader.read_all()
    # included_fields keeps the schema's order.
    chosen = table if wanted is None else table.select([layout.schema.field(i).name for i in wanted])
    batches: list[pa.RecordBatch] = chosen.to_batches()
    return batches


def decode(
    message: pa.Buffer, layout: Layout, wanted: Sequence[int] | None, compressed: bool
) -> pa.RecordBatch:
    """The wanted columns (``None``: all), zero copy unless compressed. Verify them before."""
    if not compressed:
        batch = pa.ipc.read_record_batch(message, layout.schema)
        return batch if wanted is None else batch.select(list(wanted))
    # Only a stream reader can leave out columns before they are decompressed.
    options = pa.ipc.IpcReadOptions(included_fields=None if wanted is None else list(wanted))
    stream = b"".join((layout.opening, memoryview(message)))
    with pa.ipc.open_stream(stream, options=options) as reader:
        batch = reader.read_next_batch()
    # included_fields keeps the schema's order.
    return batch if wanted is None else batch.select([layout.schema.field(i).name for i in wanted])


def is_compressed(metadata: pa.Buffer, kind: str) -> bool:
    """Whether a message's body is compressed, by its flatbuffer; ``kind`` is the message's type.

    Raises:
        Damaged: The flatbuffer makes no sense.
    """
    data = memoryview(metadata)
    try:
        root = u32(data, 0)
        batch = root + field_at(data, root, 2)
        batch += u32(data, batch)
        if kind == "dictionary":
            # A dictionary's rows are a record batch inside of it.
            batch += field_at(data, batch, 1)
            batch += u32(data, batch)
        return field_at(data, batch, 3) != 0
    except struct.error as error:
        raise Damaged("the message's header is cut off") from error


def _serialize(batch: pa.RecordBatch, compression: str) -> pa.Buffer:
    if compression == "none":
        return batch.serialize()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS[compression]) as writer:
        writer.write_batch(batch)
    stream = sink.getvalue()
    _, schema_length = PREFIX.unpack_from(stream, 0)
    start = PREFIX.size + schema_length
    return stream.slice(start, stream.size - start - len(END_OF_STREAM))


def _shape(metadata: bytes, body_length: int, layout: Layout) -> Shape:
    found = _located(metadata, body_length, layout)
    padding = bytes(-body_length % ALIGNMENT)
    whole = body_length + len(padding)
    patched = bytearray(metadata)
    if body_length:
        BODY_LENGTH.pack_into(patched, found.body_length, whole)
    starts = _column_starts(_numbers(metadata, found, layout), layout, whole)
    return Shape(metadata, _opening(patched, layout.table.size), tuple(starts), padding)


def _opening(metadata: bytearray, behind: int) -> bytes:
    """The metadata as it is before so many bytes that the body follows."""
    length = _aligned(len(metadata) + behind)
    PREFIX.pack_into(metadata, 0, _CONTINUATION, length - PREFIX.size)
    return bytes(metadata).ljust(length - behind, b"\0")


def _table(digests: Sequence[int], layout: Layout, origins: bytes) -> bytes:
    """What lies between the metadata and the body."""
    table = layout.table.pack(*digests, len(digests), _MERGED if origins else _MAGIC)
    return origins + _ORIGINS.pack(len(origins)) + table if origins else table


def _message(head: bytes, body: tuple[bytes | memoryview, ...], body_length: int, layout: Layout) -> Message:
    return Message(head, body, _header_checksum(head, layout), len(head) + body_length)


def _digests(body: memoryview, shape: Shape) -> list[int]:
    """The columns' checksums. The padding is the last one's that has bytes: behind it may be columns of nulls alone."""
    starts, padding = shape.starts, shape.padding
    if not padding:
        return [xxhash.xxh3_64_intdigest(body[start:end]) for start, end in pairwise(starts)]
    whole = starts[-1]
    found = []
    for start, end in pairwise(starts):
        if start < end == whole:
            running = xxhash.xxh3_64(body[start:])
            running.update(padding)
            found.append(running.intdigest())
        else:
            found.append(xxhash.xxh3_64_intdigest(body[start:end]))
    return found


def _header_checksum(head: bytes | memoryview, layout: Layout) -> int:
    return xxhash.xxh3_64_intdigest(head, layout.fingerprint)


def _aligned(length: int) -> int:
    return length + -length % ALIGNMENT


def _located(metadata: bytes, body_length: int, layout: Layout) -> Places:
    """Where a fresh message has its numbers."""
    found = _known(metadata, body_length, layout)
    if found is None:
        found = places(metadata)
        if found.count != layout.buffers:
            raise ValueError(
                f"a message with {found.count} buffers does not fit a schema with {layout.buffers}"
            )
        if body_length:
            layout.places[len(metadata)] = found
    return found


def _known(metadata: bytes | memoryview, body_length: int, layout: Layout) -> Places | None:
    """Where a message has its numbers, if they lie as in the last one of its length.

    Messages of a schema differ little.
    """
    known = layout.places.get(len(metadata))
    if known is not None and body_length:
        length = BODY_LENGTH.unpack_from(metadata, known.body_length)[0]
        if length == body_length and u32(metadata, known.buffers - 4) == layout.buffers:
            return known
    return None


def _numbers(metadata: bytes | memoryview, found: Places, layout: Layout) -> tuple[int, ...]:
    return layout.numbers.unpack_from(metadata, found.buffers)


def _column_starts(numbers: tuple[int, ...], layout: Layout, body_length: int) -> list[int]:
    # Behind them what stands for buffers that there are not.
    numbers = (*numbers, body_length)
    starts = [numbers[first] for first in layout.firsts]
    if starts:
        starts[0] = 0
    starts.append(body_length)
    return starts


def _buffer_count(kind: pa.DataType) -> int:
    types = pa.types
    if types.is_null(kind):
        return 0
    if types.is_struct(kind):
        return 1 + sum(_buffer_count(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_map(kind):
        return 3 + _buffer_count(kind.key_type) + _buffer_count(kind.item_type)
    if types.is_fixed_size_list(kind):
        return 1 + _buffer_count(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return 2 + _buffer_count(kind.value_type)
    if (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    ):
        return 3
    return 2
