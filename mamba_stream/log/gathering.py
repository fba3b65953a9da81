"""Messages whose bodies are a batch's own buffers: nothing is copied before the file takes it.

Only for rows that nobody changes any more, since their checksums are taken before they are written. The metadata is
that of a message of the same schema that Arrow wrote, with this batch's numbers in it.
"""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa
import xxhash
from pyarrow import types as pat

from mamba_stream.log.format import ALIGNMENT, Layout, Message, sealed
from mamba_stream.log.metadata import BODY_LENGTH, PREFIX, places

_WORTH: Final = 8 << 10
"""With fewer bytes to a buffer, to copy them costs less than to look for them."""
_ZEROS: Final = bytes(ALIGNMENT)
_NUMBER: Final = struct.Struct("<q")
_TEXT: Final = 0
"""The width of what has offsets."""


class Gathering:
    """Makes messages of a schema all of whose columns are of a fixed width, or text."""

    def __init__(self, layout: Layout, widths: list[int]) -> None:
        self._layout = layout
        self._widths = widths
        # Nulls have bytes: what is zero would be left out.
        columns = [pa.nulls(1, kind) for kind in layout.schema.types]
        sample = memoryview(pa.RecordBatch.from_arrays(columns, schema=layout.schema).serialize())
        self._metadata = bytes(sample[: PREFIX.size + PREFIX.unpack_from(sample)[1]])
        self._places = places(memoryview(self._metadata))
        self._nodes = struct.Struct(f"<{2 * len(widths)}q")

    @classmethod
    def of(cls, layout: Layout) -> Gathering | None:
        """Of this schema; ``None`` where a column has others inside, or nothing at all."""
        widths = [_width(kind) for kind in layout.schema.types]
        return cls(layout, [width for width in widths if width is not None]) if None not in widths else None

    def message(self, batch: pa.RecordBatch) -> Message | None:
        """The batch as a message that points into it; ``None`` where to copy it is better, or needed.

        Its buffers must be known to be sound.
        """
        if not batch.num_rows or batch.get_total_buffer_size() < _WORTH * self._layout.buffers:
            return None
        rows, at = batch.num_rows, 0
        nodes: list[int] = []
        buffers: list[int] = []
        body: list[memoryview | bytes] = []
        digests = []
        for column, width in zip(batch.columns, self._widths, strict=True):
            found = _buffers(column, width)
            if found is None:
                return None
            nodes += rows, column.null_count
            pieces: list[memoryview | bytes] = []
            for piece in found:
                buffers += at, len(piece)
                if len(piece):
                    pieces.append(piece)
                    if padding := -len(piece) % ALIGNMENT:
                        pieces.append(_ZEROS[:padding])
                    at += len(piece) + padding
            digests.append(_digest(pieces))
            body += pieces
        metadata = bytearray(self._metadata)
        BODY_LENGTH.pack_into(metadata, self._places.body_length, at)
        _NUMBER.pack_into(metadata, self._places.length, rows)
        self._nodes.pack_into(metadata, self._places.nodes, *nodes)
        self._layout.numbers.pack_into(metadata, self._places.buffers, *buffers)
        return sealed(metadata, tuple(body), at, digests, self._layout)


def _width(kind: pa.DataType) -> int | None:
    """Bits of a value; 0 for text."""
    if pat.is_large_string(kind) or pat.is_large_binary(kind):
        return _TEXT
    if pat.is_primitive(kind) or pat.is_decimal(kind) or pat.is_fixed_size_binary(kind):
        return int(kind.bit_width) or None
    return None


def _buffers(column: pa.Array, width: int) -> list[memoryview] | None:
    """What of the column's buffers belongs into a message; ``None`` where they do not begin with its rows."""
    if column.offset:
        return None
    rows = len(column)
    found = column.buffers()
    sizes = [(rows + 7) // 8 if column.null_count else 0]
    if width == _TEXT:
        offsets = memoryview(found[1])
        if _NUMBER.unpack_from(offsets, 0)[0]:
            return None
        sizes += 8 * (rows + 1), _NUMBER.unpack_from(offsets, 8 * rows)[0]
    else:
        sizes.append((rows * width + 7) // 8)
    pieces = [memoryview(buffer or b"")[:size] for buffer, size in zip(found, sizes, strict=True)]
    return pieces if [len(piece) for piece in pieces] == sizes else None


def _digest(pieces: list[memoryview | bytes]) -> int:
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    running = xxhash.xxh3_64()
    for piece in pieces:
        running.update(piece)
    return running.intdigest()
