"""Where readers get batches from: entries out of the index, verified bytes out of the files."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pyarrow as pa

from mamba_stream.core.schemas import fingerprint, schema_from_bytes
from mamba_stream.errors import DataCorrupted, LogUnavailable, OffsetTrimmed, SchemaMismatch, TopicNotFound
from mamba_stream.log import format, rows
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.files import Maps
from mamba_stream.log.fitting import Fitting, Misfit
from mamba_stream.log.index import Index
from mamba_stream.log.origins import Origins, unpack
from mamba_stream.log.rows import Entry, Head, TopicRow

_REMEMBERED = 1 << 18
_SMALL_BYTES = 16 << 10
"""Batches up to this size are read together where they follow each other: copying them costs less than a call each."""
_FEW = 4
"""Fewer of them are read one by one: who looks for a single row wants no others."""
_TOGETHER_BYTES = 1 << 20
"""So much of them at a time: whoever keeps one batch keeps these bytes."""
_FITTINGS = 256


class Placed(msgspec.Struct, frozen=True, gc=False):
    """An entry with the offset of its first row."""

    offset: int
    entry: Entry

    @property
    def next_offset(self) -> int:
        return self.offset + self.entry.span


class Shelf:
    """The batches of one log. Bytes are verified when this process first touches them."""

    def __init__(self, index: Index, maps: Maps) -> None:
        self._index = index
        self._maps = maps
        self._layouts: dict[int, format.Layout] = {}
        # By the schema that was written, the one that is wanted, and the columns.
        self._fittings: dict[tuple[int, int, tuple[int, ...] | None], Fitting] = {}
        # (file, position) -> bits of the columns that were verified.
        self._verified: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    def heads(self, topic: TopicRow, partitions: Sequence[int] | None = None) -> dict[int, Head]:
        """The state of the topic's partitions, all of one moment."""
        found = {}
        with self._index.view() as view:
            for partition in range(topic.partitions) if partitions is None else partitions:
                value = view.get(rows.head_key(topic.id, partition))
                if value is None:
                    raise TopicNotFound(f"topic {topic.name!r} was deleted")
                found[partition] = rows.unpack_head(value)
        return found

    def entries(self, topic: TopicRow, partition: int, offset: int, limit: int) -> list[Placed]:
        """Up to ``limit`` entries, from the one that holds ``offset`` on; none at the end.

        Raises:
            DataCorrupted: Entries are missing. A page of the index that is damaged may hide some, and every
                other one is still sound by itself; but together they cover all offsets.
        """
        return self.following(topic, partition, offset, limit)[1]

    def following(
        self, topic: TopicRow, partition: int, offset: int, limit: int
    ) -> tuple[Head | None, list[Placed]]:
        """The same with the state of the partition at that moment; ``None`` where the topic was deleted."""
        prefix = rows.entry_prefix(topic.id, partition)
        head_key = rows.head_key(topic.id, partition)
        found: list[Placed] = []
        with self._index.view() as view:
            head = view.get(head_key)
            if head is None:
                # What may be left of it is nothing.
                return None, []
            # The entry that holds the offset may begin before it.
            start = view.floor(rows.entry_key(topic.id, partition, offset), prefix)
            for key, value in view.items(prefix, start):
                placed = Placed(rows.entry_place(key)[2], rows.unpack_entry(value))
                if placed.next_offset > offset:
                    found.append(placed)
                    if len(found) >= limit:
                        break
        state = rows.unpack_head(head)
        self._check_gaps(topic, partition, offset, limit, found, state)
        return state, found

    def entry(self, topic: TopicRow, partition: int, offset: int) -> Placed | None:
        """The entry that holds ``offset``, or the first behind it."""
        found = self.entries(topic, partition, offset, 1)
        return found[0] if found else None

    def sound_from(self, topic: TopicRow, partition: int, offset: int) -> int:
        """Where the first entry behind ``offset`` begins whose row in the index is sound; the end where none does."""
        with self._index.view() as view:
            prefix = rows.entry_prefix(topic.id, partition)
            for key, sealed in view.sealed(prefix, rows.entry_key(topic.id, partition, offset + 1)):
                with contextlib.suppress(format.Damaged):
                    rows.unseal(key, sealed)
                    return rows.entry_place(key)[2]
        return self.heads(topic, [partition])[partition].end

    def batches(
        self, topic: TopicRow, partition: int, placed: Sequence[Placed], wanted: Sequence[int] | None = None
    ) -> list[LogBatch]:
        """The rows of the first of these entries, and of as many that follow as are best read with it.

        Raises:
            DataCorrupted: The bytes of the first are not what was written.
            OffsetTrimmed: The rows of the first were trimmed away meanwhile.
            SchemaMismatch: A value of the first is not in its column's type, as the topic was before it was altered.
        """
        self._check_there(topic, partition, placed[0])
        alike = _alike(placed)
        if len(alike) >= _FEW:
            # Whatever is wrong with one of several, they are then read, or refused, one by one.
            with contextlib.suppress(format.Damaged, pa.ArrowInvalid, OSError, Misfit):
                found = self._verified_batches(topic, alike, wanted)
                return [_as_read(topic, partition, one, data) for one, data in zip(alike, found, strict=True)]
        return [self.batch(topic, partition, placed[0], wanted)]

    def batch(
        self, topic: TopicRow, partition: int, placed: Placed, wanted: Sequence[int] | None = None
    ) -> LogBatch:
        """The rows of an entry, with the wanted columns (by number; all without), verified.

        They have the columns of the topic's schema, whichever of its schemas they were written with.

        Raises:
            DataCorrupted: The bytes are not what was written.
            OffsetTrimmed: The rows were trimmed away meanwhile.
            SchemaMismatch: A value is not in its column's type, as the topic was before it was altered.
        """
        self._check_there(topic, partition, placed)
        asked = placed
        while True:
            entry = placed.entry
            try:
                message = self._maps.read(entry.file, entry.kind, entry.position, entry.length)
            except FileNotFoundError:
                # The file was replaced, or its rows trimmed: the index knows.
                self._maps.forget(entry.file)
                again = self.entry(topic, partition, placed.offset)
                # It may have become a part of a larger one, and never two.
                if again is None or again.next_offset < placed.next_offset or again.offset > placed.offset:
                    raise OffsetTrimmed(
                        f"topic {topic.name!r}, partition {partition}: offset {placed.offset} was trimmed away"
                    ) from None
                if again.entry.file == entry.file:
                    raise self._damaged(topic, partition, placed, "its file is missing") from None
                placed = again
                continue
            except OSError as error:
                if error.errno == errno.EIO:
                    raise self._damaged(topic, partition, placed, str(error.strerror)) from error
                raise LogUnavailable(f"topic {topic.name!r} cannot be read now: {error.strerror}") from error
            if message is None:
                raise self._damaged(topic, partition, placed, "its file is cut off")
            try:
                data = self._verified_batch(topic, entry, message, wanted)
                origins = self._origins(entry, message)
                read = _as_read(topic, partition, placed, data, origins)
                return read.between(asked.offset, asked.next_offset)
            except Misfit as misfit:
                left = self._left_by_trims(topic, partition, placed, message, wanted)
                if left is None:
                    raise _misfit(topic, partition, placed.offset, placed.next_offset, misfit) from None
                return left.between(asked.offset, asked.next_offset)
            except (format.Damaged, pa.ArrowInvalid, OSError) as error:
                raise self._damaged(topic, partition, placed, str(error)) from error

    def layout(self, schema: int) -> format.Layout:
        """What messages of a schema look like."""
        layout = self._layouts.get(schema)
        if layout is None:
            with self._index.view() as view:
                message = view.get(rows.number_key(rows.SCHEMA, schema))
            if message is None:
                raise TopicNotFound("the topic was deleted")
            arrow = schema_from_bytes(message)
            layout = format.Layout.of(arrow, fingerprint(arrow))
            self._layouts[schema] = layout
        return layout

    def _fitting(self, topic: TopicRow, stored: int, wanted: Sequence[int] | None) -> Fitting | None:
        """What gives batches of a stored schema the wanted columns of the topic's; ``None`` where they have them."""
        if stored == topic.schema:
            return None
        key = stored, topic.schema, None if wanted is None else tuple(wanted)
        fitting = self._fittings.get(key)
        if fitting is None:
            schema = self.layout(topic.schema).schema
            projected = schema if wanted is None else pa.schema([schema.field(number) for number in wanted])
            fitting = Fitting(self.layout(stored).schema, projected)
            with self._lock:
                if len(self._fittings) >= _FITTINGS:
                    self._fittings.clear()
                self._fittings[key] = fitting
        return fitting

    def _verified_batches(
        self, topic: TopicRow, placed: Sequence[Placed], wanted: Sequence[int] | None
    ) -> list[pa.RecordBatch]:
        """The rows of small entries of one file, through one stream: a decoder's own cost is paid once for all."""
        entries = [one.entry for one in placed]
        first, last = entries[0], entries[-1]
        fitting = self._fitting(topic, first.schema, wanted)
        if fitting is not None:
            if not fitting.columns:
                return [fitting.nulls(entry.rows) for entry in entries]
            wanted = fitting.columns
        layout, begin = self.layout(first.schema), first.position
        found = self._maps.read(first.file, first.kind, begin, last.position + last.length - begin)
        if found is None:
            raise format.Damaged("its file is cut off")
        view = memoryview(found)
        messages = [view[entry.position - begin :][: entry.length] for entry in entries]
        self._verify(layout, entries, messages, wanted)
        batches = format.decode_all(messages, layout, wanted)
        if [batch.num_rows for batch in batches] != [entry.rows for entry in entries]:
            raise format.Damaged("the rows are not as many as the index has")
        return batches if fitting is None else [fitting.fitted(batch) for batch in batches]

    def _verified_batch(
        self, topic: TopicRow, entry: Entry, message: pa.Buffer, wanted: Sequence[int] | None
    ) -> pa.RecordBatch:
        fitting = self._fitting(topic, entry.schema, wanted)
        if fitting is None:
            return self._stored_batch(entry, message, wanted)
        if not fitting.columns:
            return fitting.nulls(entry.rows)
        return fitting.fitted(self._stored_batch(entry, message, fitting.columns))

    def _stored_batch(
        self, entry: Entry, message: pa.Buffer, columns: Sequence[int] | None
    ) -> pa.RecordBatch:
        """The rows as they were written."""
        layout = self.layout(entry.schema)
        self._verify(layout, [entry], [memoryview(message)], columns)
        batch = format.decode(message, layout, columns, entry.compressed)
        if batch.num_rows != entry.rows:
            raise format.Damaged(f"{batch.num_rows} rows where the index has {entry.rows}")
        return batch

    def _left_by_trims(
        self,
        topic: TopicRow,
        partition: int,
        placed: Placed,
        message: pa.Buffer,
        wanted: Sequence[int] | None,
    ) -> LogBatch | None:
        """The rows of an entry whose first were trimmed away, and need not fit; ``None`` where none were."""
        fitting = self._fitting(topic, placed.entry.schema, wanted)
        begin = self.heads(topic, [partition])[partition].begin
        if fitting is None or begin <= placed.offset:
            return None
        stored = self._stored_batch(placed.entry, message, fitting.columns)
        origins = self._origins(placed.entry, message)
        left = _as_read(topic, partition, placed, stored, origins).between(begin, placed.next_offset)
        try:
            return replace(left, data=fitting.fitted(left.data))
        except Misfit as misfit:
            raise _misfit(topic, partition, begin, placed.next_offset, misfit) from None

    def _origins(self, entry: Entry, message: pa.Buffer) -> Origins | None:
        """Where the rows come from, proven anew: columns may have been proven before, or none be wanted."""
        if not entry.merged:
            return None
        table = format.verify_header(memoryview(message), self.layout(entry.schema), entry.header)
        return unpack(table.origins, entry.rows)

    def _verify(
        self,
        layout: format.Layout,
        entries: Sequence[Entry],
        messages: Sequence[memoryview],
        wanted: Sequence[int] | None,
    ) -> None:
        """Proves the wanted columns, as far as this process has not done so."""
        columns = range(len(layout.firsts)) if wanted is None else wanted
        bits = sum(1 << column for column in {*columns})
        proven = {}
        for entry, message in zip(entries, messages, strict=True):
            place = (entry.file, entry.position)
            known = self._verified.get(place, 0)
            if bits & ~known:
                table = format.verify_header(message, layout, entry.header)
                left = [c for c in columns if not known >> c & 1] if known else columns
                format.verify_columns(message, table, left)
                proven[place] = known | bits
        if proven:
            with self._lock:
                if len(self._verified) >= _REMEMBERED:
                    self._verified.clear()
                self._verified.update(proven)

    def _check_there(self, topic: TopicRow, partition: int, placed: Placed) -> None:
        if placed.entry.lost:
            raise DataCorrupted(
                f"topic {topic.name!r}, partition {partition}, offsets {placed.offset} to {placed.next_offset - 1} are "
                "lost: they were damaged, and a repair gave them up. Read on behind them, or with skip_corrupt=True",
                topic=topic.name,
                partition=partition,
                offset=placed.offset,
            )

    def _check_gaps(
        self, topic: TopicRow, partition: int, offset: int, limit: int, found: list[Placed], head: Head
    ) -> None:
        position = max(offset, head.begin)
        gap = None
        for number, placed in enumerate(found):
            if placed.offset > position or (number and placed.offset != position):
                gap = position, placed.offset
                break
            position = placed.next_offset
        if gap is None and len(found) < limit and position < head.end:
            gap = position, head.end
        if gap is not None:
            raise DataCorrupted(
                f"topic {topic.name!r}, partition {partition}: the index has lost what lies from offset {gap[0]} "
                f"to {gap[1]}; what lies behind can be read from there. Run: mamba-stream doctor",
                topic=topic.name,
                partition=partition,
                offset=gap[0],
            )

    def _damaged(self, topic: TopicRow, partition: int, placed: Placed, why: str) -> DataCorrupted:
        return DataCorrupted(
            f"topic {topic.name!r}, partition {partition}, offsets {placed.offset} to "
            f"{placed.next_offset - 1}: the stored bytes are damaged ({why}). Batches around it stay "
            "readable, by skip_corrupt=True at once; run: mamba-stream doctor",
            topic=topic.name,
            partition=partition,
            offset=placed.offset,
        )


def _as_read(
    topic: TopicRow, partition: int, placed: Placed, data: pa.RecordBatch, origins: Origins | None = None
) -> LogBatch:
    first, entry = placed.offset, placed.entry
    kept = appends = None
    if origins is not None:
        kept = None if origins.kept is None else origins.kept + first
        appends = origins.firsts + first, origins.times
    return LogBatch(topic.name, partition, first, placed.next_offset, data, entry.append_time, kept, appends)


def _alike(placed: Sequence[Placed]) -> Sequence[Placed]:
    """The first entries, as far as they are small and lie one after the other in one file."""
    first = placed[0].entry
    file, schema, position, stop = first.file, first.schema, first.position, first.position + _TOGETHER_BYTES
    for number, one in enumerate(placed):
        entry = one.entry
        end = entry.position + entry.length
        if (
            entry.length > _SMALL_BYTES
            or entry.compressed
            or entry.merged
            or entry.file != file
            or entry.schema != schema
            or entry.position < position
            or end > stop
        ):
            return placed[:number]
        position = end
    return placed


def _misfit(topic: TopicRow, partition: int, offset: int, following: int, misfit: Misfit) -> SchemaMismatch:
    return SchemaMismatch(
        f"topic {topic.name!r}, partition {partition}, row {misfit.row} of offsets {offset} to {following - 1}: "
        f"{misfit.words}. The topic was altered: take it anew from its log and read with the columns that it has now, "
        "or read without this one"
    )
