"""Messages whose bodies are a batch's own buffers: nothing is copied before the file takes it.

Only for rows that nobody changes any more, since their checksums are taken before they are written. The metadata is
that of a message of the same schema that Arrow wrote, with this batch's numbers in it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
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

    def message(self, batches: Sequence[pa.RecordBatch]) -> Message | None:
        """The rows of all batches as a message that points into them; ``None`` where to copy it is better, or needed.

        Their buffers must be known to be sound.
        """
        rows, at = sum(batch.num_rows for batch in batches), 0
        size = sum(batch.get_total_buffer_size() for batch in batches)
        if not rows or size < _WORTH * self._layout.buffers:
            return None
        nodes: list[int] = []
        buffers: list[int] = []
        body: list[memoryview | bytes] = []
        digests = []
        for number, width in enumerate(self._widths):
            found = _column([batch.column(number) for batch in batches], width)
            if found is None:
                return None
            nulls, columns_buffers = found
            nodes += rows, nulls
            pieces: list[memoryview | bytes] = []
            for buffer in columns_buffers:
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


def _column(parts: list[pa.Array], width: int) -> tuple[int, list[list[memoryview]]] | None:
    """How many nulls a column has, and its buffers, each in pieces; ``None`` where they do not begin with its rows."""
    if len(parts) > 1:
        if width and width % 8 == 0 and not any(part.null_count or part.offset for part in parts):
            values = [_values(part, width) for part in parts]
            return (0, [[], [value for value in values if value is not None]]) if None not in values else None
        # Bits do not end where bytes do, and offsets begin anew: copied, this column alone.
        parts = [pa.concat_arrays(parts)]
    (column,) = parts
    if column.offset:
        return None
    rows, nulls = len(column), column.null_count
    found = column.buffers()
    sizes = [(rows + 7) // 8 if nulls else 0]
    if width == _TEXT:
        offsets = memoryview(found[1])
        if _NUMBER.unpack_from(offsets, 0)[0]:
            return None
        sizes += 8 * (rows + 1), _NUMBER.unpack_from(offsets, 8 * rows)[0]
    else:
        sizes.append((rows * width + 7) // 8)
    pieces = [memoryview(buffer or b"")[:size] for buffer, size in zip(found, sizes, strict=True)]
    if [len(piece) for piece in pieces] != sizes:
        return None
    return nulls, [[piece] if piece else [] for piece in pieces]


def _values(column: pa.Array, width: int) -> memoryview | None:
    """The bytes of a column of whole bytes without nulls."""
    size = len(column) * width // 8
    values = memoryview(column.buffers()[1] or b"")[:size]
    return values if len(values) == size else None


def _digest(pieces: list[memoryview | bytes]) -> int:
    if len(pieces) == 1:
        return xxhash.xxh3_64_intdigest(pieces[0])
    running = xxhash.xxh3_64()
    for piece in pieces:
        running.update(piece)
    return running.intdigest()
