"""Several stored messages as one, by their bytes: they are verified, and never decoded.

What a decoder does for each message costs more than the bytes of a small one. Values of whole bytes are put one behind
the other as they are; bits and the offsets of text are counted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from mamba_stream.log.format import FOOTER_BYTES, Columns, Damaged, Layout, Message, verify_header
from mamba_stream.log.metadata import places as places_in, u32
from mamba_stream.log.rows import Entry
from mamba_stream.log.template import NUMBER, TEXT, Pieces, Template

Parts = list[memoryview]


class _Column:
    """What one column has in the messages."""

    def __init__(self) -> None:
        self.nulls = 0
        self.validity: dict[int, memoryview] = {}
        """By the number of the message; of those that are not here, all values are there."""
        self.values: Parts = []
        """Of text, the offsets."""
        self.texts: Parts = []


class _Place(NamedTuple):
    """Where one column lies in messages of one shape."""

    start: int
    end: int
    cuts: tuple[tuple[Parts, int, int], ...]
    """What is taken: to which others it is added, from where to where."""
    validity: tuple[_Column, int, int, int] | None
    """Whose validity lies where, and how many nulls there are, if there are some."""


class _Shape:
    """How a message is laid out; others are alike whose headers differ in nothing but the columns' checksums."""

    def __init__(
        self, layout: Layout, entry: Entry, message: memoryview, table: Columns, places: list[_Place]
    ) -> None:
        self.places = places
        self._layout = layout
        self._entry = entry
        self._body = table.starts[0]
        self._table = self._body - layout.table.size
        head = bytes(message[: self._body])
        self._metadata, self._ending = head[: self._table], head[-FOOTER_BYTES:]
        self._plain = not table.origins

    def checksums(self, entry: Entry, message: memoryview) -> Sequence[int] | None:
        """Those of the columns of a message that is alike, from a header that is proven; ``None`` of another."""
        if not self._plain or entry.length != self._entry.length or entry.rows != self._entry.rows:
            return None
        head = bytes(message[: self._body])
        if xxh3_64_intdigest(head, self._layout.fingerprint) != entry.header:
            # It is of another length, or damaged.
            return None
        if not head.startswith(self._metadata) or not head.endswith(self._ending):
            return None
        return self._layout.table.unpack_from(head, self._table)[:-2]


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
        shape: _Shape | None = None
        for number, (entry, message) in enumerate(stored):
            # Most are alike, and what is known of one is known of the next.
            checksums = None if shape is None else shape.checksums(entry, message)
            if shape is None or checksums is None:
                table = verify_header(message, template.layout, entry.header)
                nodes = self._nodes(message, table, entry.rows)
                shape = _Shape(template.layout, entry, message, table, self._places(table, nodes, entry.rows))
                checksums = table.checksums
                self.origins.append(table.origins)
            else:
                self.origins.append(b"")
            self._take(number, message, shape.places, checksums)

    def message(self, origins: bytes = b"") -> Message:
        """All their rows."""
        columns = [
            self._joined(column, width)
            for column, width in zip(self._columns, self._template.widths, strict=True)
        ]
        return self._template.message(sum(self._rows), columns, origins)

    def _take(self, number: int, message: memoryview, places: list[_Place], checksums: Sequence[int]) -> None:
        for (start, end, cuts, validity), checksum in zip(places, checksums, strict=True):
            if xxh3_64_intdigest(message[start:end]) != checksum:
                raise Damaged("the checksum of a column does not match")
            for parts, first, last in cuts:
                parts.append(message[first:last])
            if validity is not None:
                column, first, last, nulls = validity
                column.validity[number] = message[first:last]
                column.nulls += nulls

    def _nodes(self, message: memoryview, table: Columns, rows: int) -> tuple[int, ...]:
        """(rows, nulls) of each column, one behind the other."""
        at, count = table.nodes, len(self._template.widths)
        if u32(message, at - 4) != count:
            # It was laid out in another way than the last one of its length.
            at = places_in(message).nodes
        nodes: tuple[int, ...] = self._template.nodes.unpack_from(message, at)
        if nodes[::2] != (rows,) * count:
            raise Damaged("the rows are not as many as the index has")
        return nodes

    def _places(self, table: Columns, nodes: Sequence[int], rows: int) -> list[_Place]:
        body, numbers = table.starts[0], table.buffers
        found = []
        for place, (column, width, (start, end), first) in enumerate(
            zip(
                self._columns,
                self._template.widths,
                pairwise(table.starts),
                self._template.layout.firsts,
                strict=True,
            )
        ):
            cuts: tuple[tuple[Parts, int, int], ...] = ()
            validity, nulls = None, nodes[2 * place + 1]
            if rows:
                size = 8 * (rows + 1) if width == TEXT else (rows * width + 7) // 8
                cuts = ((column.values, *_within(body + numbers[first + 2], size, end)),)
                if width == TEXT:
                    cuts += ((column.texts, *_within(body + numbers[first + 4], numbers[first + 5], end)),)
                if nulls:
                    validity = column, *_within(body + numbers[first], (rows + 7) // 8, end), nulls
            found.append(_Place(start, end, cuts, validity))
        return found

    def _joined(self, column: _Column, width: int) -> tuple[int, list[Pieces]]:
        validity: Pieces = []
        if column.nulls:
            validity = [_bits([column.validity.get(n) for n in range(len(self._rows))], self._rows)]
        if width == TEXT:
            offsets, texts = _texts(column.values, column.texts)
            return column.nulls, [validity, [offsets], [texts] if texts else []]
        if width % 8:
            return column.nulls, [validity, [_bits(column.values, [rows for rows in self._rows if rows])]]
        return column.nulls, [validity, [b"".join(column.values)]]


def _within(start: int, size: int, end: int) -> tuple[int, int]:
    """From where to where so many bytes lie, of a column that ends there."""
    if start + size > end:
        raise Damaged("a buffer is shorter than its rows")
    return start, start + size


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
