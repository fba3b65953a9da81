"""Where in an Arrow IPC message's metadata, a flatbuffer, its numbers stand. A flatbuffer leaves out what is zero."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PREFIX: Final = struct.Struct("<Ii")
"""What a message begins with: a mark, and the length of the metadata."""
BODY_LENGTH: Final = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a record batch's metadata has its numbers, each 0 where it is left out."""

    body_length: int
    length: int
    nodes: int
    """Of (rows, nulls) of each array."""
    buffers: int
    """Of (offset, length) of each buffer."""
    count: int
    """How many buffers there are."""


def places(metadata: bytes | bytearray | memoryview) -> Places:
    """Where a record batch's metadata, from the message's start on, has its numbers."""
    root = PREFIX.size + u32(metadata, PREFIX.size)
    body_length = _at(metadata, root, 3)
    batch = root + field(metadata, root, 2)
    batch += u32(metadata, batch)
    nodes, buffers = (_vector(metadata, batch, number) for number in (1, 2))
    return Places(body_length, _at(metadata, batch, 0), nodes, buffers, u32(metadata, buffers - 4))


def field(data: bytes | bytearray | memoryview, table: int, number: int) -> int:
    """Where a table's field lies, relative to the table; 0 where it is left out."""
    vtable: int = table - struct.unpack_from("<i", data, table)[0]
    if struct.unpack_from("<H", data, vtable)[0] <= 4 + 2 * number:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return offset


def u32(data: bytes | bytearray | memoryview, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


def _at(data: bytes | bytearray | memoryview, table: int, number: int) -> int:
    offset = field(data, table, number)
    return table + offset if offset else 0


def _vector(data: bytes | bytearray | memoryview, table: int, number: int) -> int:
    vector = table + field(data, table, number)
    return vector + u32(data, vector) + 4
