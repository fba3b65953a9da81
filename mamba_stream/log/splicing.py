"""Several stored messages as one, by their bytes: they are verified, and never decoded.

What a decoder does for each message costs more than the bytes of a small one. Values of whole bytes are put one behind
the other as they are; bits and the offsets of text are counted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import xxhash

from mamba_stream.log.format import Columns, Damaged, Message, verify_header
from mamba_stream.log.metadata import places, u32
from mamba_stream.log.rows import Entry
from mamba_stream.log.template import NUMBER, TEXT, Pieces, Template

Parts = list[memoryview]


class _Column:
    """What one column has in each of the messages."""

    def __init__(self) -> None:
        self.nulls = 0
        self.validity: list[memoryview | None] = []
        """``None``: all values are there."""
        self.values: Parts = []
        """Of text, the offsets."""
        self.texts: Parts = []


class Splice:
    """What lies in messages that become one; they are proven to be what was written.

    Attributes:
        origins: Where the rows of each come from, as its message says, if it does.
    """

    def __init__(self, template: Template, stored: Sequence[tuple[Entry, memoryview]]) -> None:
        """Reads them.

        Raises:
            Damaged: The bytes of one are not what was written.
        """
        self.origins: list[memoryview | bytes] = []
        self._template = template
        self._rows = [entry.rows for entry, _ in stored]
        self._columns = [_Column() for _ in template.widths]
        for entry, message in stored:
            table = verify_header(message, template.layout, entry.header)
            self.origins.append(table.origins)
            self._take(table, message, entry.rows)

    def message(self, origins: bytes = b"") -> Message:
        """All their rows."""
        columns = [
            self._joined(column, width)
            for column, width in zip(self._columns, self._template.widths, strict=True)
        ]
        return self._template.message(sum(self._rows), columns, origins)

    def _take(self, table: Columns, message: memoryview, rows: int) -> None:
        layout, numbers, body = self._template.layout, table.buffers, table.starts[0]
        nodes = self._nodes(message, table, rows)
        place = 0
        for column, width, (start, end), checksum, first in zip(
            self._columns,
            self._template.widths,
            pairwise(table.starts),
            table.checksums,
            layout.firsts,
            strict=True,
        ):
            if xxhash.xxh3_64_intdigest(message[start:end]) != checksum:
                raise Damaged(f"the checksum of column {place} does not match")
            nulls = nodes[2 * place + 1]
            place += 1
            if not rows:
                continue
            at = body + numbers[first + 2]
            if width == TEXT:
                texts_at = body + numbers[first + 4]
                column.values.append(_cut(message, at, 8 * (rows + 1), end))
                column.texts.append(message[texts_at : texts_at + numbers[first + 5]])
            else:
                column.values.append(_cut(message, at, (rows * width + 7) // 8, end))
            if nulls:
                column.nulls += nulls
                column.validity.append(_cut(message, body + numbers[first], (rows + 7) // 8, end))
            else:
                column.validity.append(None)

    def _nodes(self, message: memoryview, table: Columns, rows: int) -> tuple[int, ...]:
        """(rows, nulls) of each column, one behind the other."""
        at, count = table.nodes, len(self._template.widths)
        if u32(message, at - 4) != count:
            # It was laid out in another way than the last one of its length.
            at = places(message).nodes
        nodes: tuple[int, ...] = self._template.nodes.unpack_from(message, at)
        if nodes[::2] != (rows,) * count:
            raise Damaged("the rows are not as many as the index has")
        return nodes

    def _joined(self, column: _Column, width: int) -> tuple[int, list[Pieces]]:
        counts = [rows for rows in self._rows if rows]
        validity: Pieces = [_bits(column.validity, counts)] if column.nulls else []
        if width == TEXT:
            offsets, texts = _texts(column.values, column.texts)
            return column.nulls, [validity, [offsets], [texts] if texts else []]
        if width % 8:
            return column.nulls, [validity, [_bits(column.values, counts)]]
        return column.nulls, [validity, [b"".join(column.values)]]


def _cut(message: memoryview, start: int, size: int, end: int) -> memoryview:
    """So many bytes, of a column that ends there."""
    if start + size > end:
        raise Damaged("a buffer is shorter than its rows")
    return message[start : start + size]


def _bits(parts: Sequence[memoryview | None], counts: Sequence[int]) -> bytes:
    """So many bits of each, in a row; ones where there are none."""

    def unpacked() -> Iterator[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
        for part, count in zip(parts, counts, strict=True):
            if part is None:
                yield np.ones(count, np.uint8)
            else:
                yield np.unpackbits(np.frombuffer(part, np.uint8), count=count, bitorder="little")

    return np.packbits(np.concatenate(list(unpacked())), bitorder="little").tobytes()


def _texts(offsets: Parts, texts: Parts) -> tuple[bytes, bytes]:
    """The offsets of all, counted on from one to the next, and what lies between the first and the last of each."""
    joined, pieces = [NUMBER.pack(0)], []
    total = 0
    for part, text in zip(offsets, texts, strict=True):
        numbers = np.frombuffer(part, "<i8")
        first, last = int(numbers[0]), int(numbers[-1])
        if not 0 <= first <= last <= len(text):
            raise Damaged("a buffer is shorter than its rows")
        joined.append((numbers[1:] + (total - first)).tobytes())
        pieces.append(text[first:last])
        total += last - first
    return b"".join(joined), b"".join(pieces)
