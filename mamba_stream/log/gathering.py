"""Messages whose bodies are a batch's own buffers: nothing is copied before the file takes it.

Only for rows that nobody changes any more, since their checksums are taken before they are written. The metadata is
that of a message of the same schema that Arrow wrote, with this batch's numbers in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from mamba_stream.log.format import Layout, Message
from mamba_stream.log.template import NUMBER, TEXT, Template

_WORTH: Final = 8 << 10
"""With fewer bytes to a buffer, to copy them costs less than to look for them."""


class Gathering:
    """Makes messages of a schema all of whose columns are of a fixed width, or text."""

    def __init__(self, template: Template) -> None:
        self._template = template

    @classmethod
    def of(cls, layout: Layout) -> Gathering | None:
        """Of this schema; ``None`` where a column has others inside, or nothing at all."""
        template = Template.of(layout)
        return None if template is None else cls(template)

    def message(self, batches: Sequence[pa.RecordBatch]) -> Message | None:
        """The rows of all batches as a message that points into them; ``None`` where to copy it is better, or needed.

        Their buffers must be known to be sound.
        """
        template = self._template
        rows = sum(batch.num_rows for batch in batches)
        size = sum(batch.get_total_buffer_size() for batch in batches)
        if not rows or size < _WORTH * template.layout.buffers:
            return None
        columns = []
        for number, width in enumerate(template.widths):
            found = _column([batch.column(number) for batch in batches], width)
            if found is None:
                return None
            columns.append(found)
        return template.message(rows, columns)


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
    if width == TEXT:
        offsets = memoryview(found[1])
        if NUMBER.unpack_from(offsets, 0)[0]:
            return None
        sizes += 8 * (rows + 1), NUMBER.unpack_from(offsets, 8 * rows)[0]
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
