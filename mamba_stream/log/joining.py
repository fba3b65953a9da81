"""Several batches as one: small ones that lie one behind the other, and what is left of those of which rows go.

It says where its rows come from. Of small batches of plain columns the bytes are put together; others are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from mamba_stream.log import format, rows
from mamba_stream.log.batch import LogBatch, Numbers
from mamba_stream.log.format import Damaged, Message
from mamba_stream.log.origins import Origins, pack, unpack
from mamba_stream.log.rows import Entry
from mamba_stream.log.shelf import Placed
from mamba_stream.log.splicing import Splice
from mamba_stream.log.template import Template

if TYPE_CHECKING:
    from mamba_stream.log.segments import Segment
    from mamba_stream.log.store import Store

SMALL_BYTES: Final = 256 << 10
"""Batches below this size are merged with their neighbours."""
MERGED_BYTES: Final = 1 << 20
MERGED_ROWS: Final = 65_536
"""What one batch has at most that was made of several."""
MERGED_SPAN: Final = 1 << 20
"""Offsets that it covers at most, unless it has no rows."""
_MOST_SPAN: Final = 1 << 31


class _Part(NamedTuple):
    """What is known of the rows that one batch adds."""

    offset: int
    rows: int
    append_time: int
    appends: tuple[Numbers, Numbers] | None
    kept: Numbers | None


class Joiner:
    """Joins batches of one segment."""

    def __init__(self, store: Store, segment: Segment) -> None:
        self._store = store
        self._segment = segment
        self._layout = store.shelf.layout(segment.schema)
        self._template = Template.of(self._layout)

    def groups(self) -> Iterator[range]:
        """The segment's batches by their numbers: those together that are to become one."""
        segment = self._segment
        start = size = count = span = following = last = 0
        for number, placed in enumerate(segment.batches):
            entry = placed.entry
            length, left = entry.length, entry.rows
            if segment.kept is not None and (kept := segment.kept[number]) is not None:
                left = len(kept)
                length = length * left // max(1, entry.rows)
            fits = (
                number > start
                and following == placed.offset
                and max(last, length) < SMALL_BYTES
                and size + length <= MERGED_BYTES
                and count + left <= MERGED_ROWS
                and span + entry.span <= (MERGED_SPAN if count + left else _MOST_SPAN)
            )
            if number > start and not fits:
                yield range(start, number)
                start = number
                size = count = span = 0
            size, count, span = size + length, count + left, span + entry.span
            following, last = placed.next_offset, length
        if segment.batches:
            yield range(start, len(segment.batches))

    def joined(self, numbers: range, compression: str) -> tuple[Message, Entry]:
        """A group as one batch, without the rows that are not kept; its entry is yet to get its place.

        Raises:
            DataCorrupted: One of them is damaged.
            OffsetTrimmed: One of them was trimmed away meanwhile.
        """
        segment = self._segment
        group = segment.batches[numbers.start : numbers.stop]
        kept = [None] * len(group) if segment.kept is None else segment.kept[numbers.start : numbers.stop]
        dropped = any(one is not None for one in kept)
        found = None if dropped or compression != "none" else self._spliced(group)
        if found is None:
            found = self._decoded(group, kept, compression)
        message, count, times, merged = found
        return message, self._entry(group, message, count, times, compression, merged)

    def _spliced(self, group: list[Placed]) -> tuple[Message, int, tuple[int, int], bool] | None:
        """By their bytes; ``None`` where that cannot be, or one is not found or damaged: whoever decodes it tells."""
        if self._template is None or len(group) == 1 or any(placed.entry.compressed for placed in group):
            return None
        try:
            splice = Splice(self._template, list(self._stored(group)))
            parts = []
            for placed, told in zip(group, splice.origins, strict=True):
                entry = placed.entry
                parts.append(_part(placed, unpack(told, entry.rows) if entry.merged else None))
            message = splice.message(_packed(parts))
            return message, sum(part.rows for part in parts), _times(group), True
        except (Damaged, OSError):
            return None

    def _stored(self, group: list[Placed]) -> Iterator[tuple[Entry, memoryview]]:
        """The bytes of their messages, of those that lie in one file at once."""
        at = 0
        while at < len(group):
            first = group[at].entry
            stop = at + 1
            while (
                stop < len(group)
                and group[stop].entry.file == first.file
                and (group[stop].entry.position > group[stop - 1].entry.position)
            ):
                stop += 1
            last = group[stop - 1].entry
            begin, end = first.position, last.position + last.length
            found = self._store.maps.read(first.file, first.kind, begin, end - begin)
            if found is None:
                raise Damaged("its file is cut off")
            view = memoryview(found)
            for placed in group[at:stop]:
                entry = placed.entry
                start = entry.position - begin
                yield entry, view[start : start + entry.length]
            at = stop

    def _decoded(
        self, group: list[Placed], kept: Sequence[Numbers | None], compression: str
    ) -> tuple[Message, int, tuple[int, int], bool]:
        batches = self._read(group, kept)
        parts, data, dropped = [], [], False
        for batch, stay in zip(batches, kept, strict=True):
            rows_here = batch.data
            if stay is not None:
                dropped = True
                places = np.searchsorted(batch.offsets, stay)
                rows_here = rows_here.take(pa.array(places)) if len(stay) else None
            if rows_here is not None:
                data.append(rows_here)
            offsets = batch.kept if stay is None else stay
            count = batch.data.num_rows if stay is None else len(stay)
            parts.append(_Part(batch.offset, count, batch.append_time, batch.appends, offsets))
        if not data:
            data.append(_empty(self._layout.schema))
        whole = data[0] if len(data) == 1 else pa.concat_batches(data)
        merged = len(group) > 1 or dropped or group[0].entry.merged
        message = format.encode(whole, self._layout, compression, _packed(parts) if merged else b"")
        times = _times_of(whole, self._segment.topic.time) if dropped else _times(group)
        return message, whole.num_rows, times, merged

    def _read(self, group: list[Placed], kept: Sequence[Numbers | None]) -> list[LogBatch]:
        shelf, segment = self._store.shelf, self._segment
        # As they were written, whatever the topic's columns are now.
        written = msgspec.structs.replace(segment.topic, schema=segment.schema)
        found: list[LogBatch] = []
        while len(found) < len(group):
            at = len(found)
            if (stay := kept[at]) is not None and not len(stay):
                # Of what goes only where it came from is asked.
                found.append(shelf.batch(written, segment.partition, group[at], ()))
            elif any(one is not None for one in kept):
                found.append(shelf.batch(written, segment.partition, group[at]))
            else:
                found += shelf.batches(written, segment.partition, group[at:])
        return found

    def _entry(
        self,
        group: list[Placed],
        message: Message,
        count: int,
        times: tuple[int, int],
        compression: str,
        merged: bool,
    ) -> Entry:
        first, last = group[0], group[-1]
        low, high = times
        flags = rows.SEALED | (rows.HAS_TIME if low <= high else 0)
        flags |= (rows.COMPRESSED if compression != "none" else 0) | (rows.MERGED if merged else 0)
        return Entry(
            file=0,
            position=0,
            length=message.length,
            rows=count,
            span=last.next_offset - first.offset,
            min_time=low,
            max_time=high,
            running_time=last.entry.running_time,
            append_time=last.entry.append_time,
            schema=self._segment.schema,
            header=message.header,
            flags=flags,
        )


def _part(placed: Placed, origins: Origins | None) -> _Part:
    offset, entry = placed.offset, placed.entry
    if origins is None:
        return _Part(offset, entry.rows, entry.append_time, None, None)
    kept = None if origins.kept is None else origins.kept + offset
    return _Part(offset, entry.rows, entry.append_time, (origins.firsts + offset, origins.times), kept)


def _packed(parts: Sequence[_Part]) -> bytes:
    """Where the rows come from, appends of one moment told as one."""
    first = parts[0].offset
    firsts: list[int] = []
    times: list[int] = []
    gaps = False
    for part in parts:
        gaps = gaps or part.kept is not None
        known: tuple[Sequence[int], Sequence[int]] = (part.offset,), (part.append_time,)
        if part.appends is not None:
            known = part.appends[0].tolist(), part.appends[1].tolist()
        for start, time in zip(*known, strict=True):
            if not times or times[-1] != time:
                firsts.append(start - first)
                times.append(time)
    kept = None
    if gaps:
        offsets = [
            np.arange(part.offset, part.offset + part.rows, dtype=np.int64)
            if part.kept is None
            else part.kept
            for part in parts
        ]
        kept = np.concatenate(offsets) - first
    return pack(Origins(np.array(firsts, np.int64), np.array(times, np.int64), kept))


def _times(group: Sequence[Placed]) -> tuple[int, int]:
    """The least and the greatest time of the rows; of none, the least is greater."""
    timed = [placed.entry for placed in group if placed.entry.has_time]
    if not timed:
        return 0, -1
    return min(entry.min_time for entry in timed), max(entry.max_time for entry in timed)


def _times_of(data: pa.RecordBatch, time: str | None) -> tuple[int, int]:
    """The same, of what is left of batches."""
    if time is None:
        return 0, -1
    # See core/casting.py.
    import pyarrow.compute as pc

    column = data.column(time)
    ticks = column.view(pa.int32() if column.type == pa.date32() else pa.int64())
    bounds = pc.min_max(ticks).as_py()
    return (0, -1) if bounds["min"] is None else (bounds["min"], bounds["max"])


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], schema=schema)
