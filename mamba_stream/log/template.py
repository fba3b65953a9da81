"""Messages of plain columns, put together out of pieces of buffers: numbers are filled into metadata that Arrow wrote.

Plain are columns of a fixed width and text, with nulls or without: no column has others inside.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Self

import pyarrow as pa
import xxhash
from pyarrow import types as pat

from mamba_stream.log.format import ALIGNMENT, Layout, Message, sealed
from mamba_stream.log.metadata import BODY_LENGTH, PREFIX, places

TEXT: Final = 0
"""The width of what has offsets."""
NUMBER: Final = struct.Struct("<q")
_ZEROS: Final = bytes(ALIGNMENT)

Pieces = Sequence[memoryview | bytes]
"""A buffer, in pieces that follow each other."""


class Template:
    """Makes messages of one schema.

    Attributes:
        layout: What they look like.
        widths: Bits of a value of each column; ``TEXT`` for text.
        nodes: (rows, nulls) of each column, as they lie in a message.
    """

    def __init__(self, layout: Layout, widths: list[int]) -> None:
        self.layout = layout
        self.widths = widths
        self.nodes = struct.Struct(f"<{2 * len(widths)}q")
        # Nulls have bytes: what is zero would be left out.
        columns = [pa.nulls(1, kind) for kind in layout.schema.types]
        sample = memoryview(pa.RecordBatch.from_arrays(columns, schema=layout.schema).serialize())
        self._metadata = bytes(sample[: PREFIX.size + PREFIX.unpack_from(sample)[1]])
        self._places = places(memoryview(self._metadata))

    @classmethod
    def of(cls, layout: Layout) -> Self | None:
        """That of this schema; ``None`` where a column is not plain."""
        widths = [_width(kind) for kind in layout.schema.types]
        return cls(layout, [width for width in widths if width is not None]) if None not in widths else None

    def message(
        self, rows: int, columns: Sequence[tuple[int, Sequence[Pieces]]], origins: bytes = b""
    ) -> Message:
        """So many rows, of whose columns these are the number of nulls and the buffers."""
        nodes: list[int] = []
        buffers: list[int] = []
        body: list[memoryview | bytes] = []
        digests = []
        at = 0
        for nulls, column in columns:
            nodes += rows, nulls
            pieces: list[memoryview | bytes] = []
            for buffer in column:
                length = sum(map(len, buffer))
                buffers += at, length
                pieces += buffer
                if padding := -length % ALIGNMENT:
                    pieces.append(_ZEROS[:padding])
                at += length + padding
            digests.append(_digest(pieces))
            body += pieces
        metadata = bytearray(self._metadata)
        BODY_LENGTH.pack_into(metadata, self._places.body_length, at)
        NUMBER.pack_into(metadata, self._places.length, rows)
        self.nodes.pack_into(metadata, self._places.nodes, *nodes)
        self.layout.numbers.pack_into(metadata, self._places.buffers, *buffers)
        return sealed(metadata, tuple(body), at, digests, self.layout, origins)


def _width(kind: pa.DataType) -> int | None:
    """Bits of a value; ``TEXT`` for text, ``None`` for what is not plain."""
    if pat.is_large_string(kind) or pat.is_large_binary(kind):
        return TEXT
    if pat.is_primitive(kind) or pat.is_decimal(kind) or pat.is_fixed_size_binary(kind):
        return int(kind.bit_width) or None
    return None


def _digest(pieces: Pieces) -> int:
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    running = xxhash.xxh3_64()
    for piece in pieces:
        running.update(piece)
    return running.intdigest()
