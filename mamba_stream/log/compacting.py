"""Compaction: of the rows of a partition that have one key, the latest stays; its offset does not change.

A row whose other columns are all null says that its key is gone. It stays for a while, so that whoever follows hears of
it, and goes then. What was appended a moment ago is left alone, as is what is not sealed yet.

What is new since the last time says which keys have a later row; batches are then written anew from the first on,
except for those of which nothing goes. In that order, since a row that deletes its key must not go before those that it
deletes. It may be interrupted anywhere: how far everything is compacted is noted last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.errors import DataCorrupted, DiskFull, NotCommitted, OffsetTrimmed, TopicNotFound
from mamba_stream.log import directory, rows
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.repacking import Repacked, Segment, repack
from mamba_stream.log.rows import Head, Marks, TopicRow
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

UNIT_BYTES: Final = 64 << 20
"""About so much is written anew at a time."""
MOST_ROWS: Final = 4 << 20
"""New rows whose keys are looked at in one pass: they are held in memory."""
_LOOKED_UP: Final = 4_096
_OFFSET: Final = "\0offset"
_LATEST: Final = "\0latest"


def compact(store: Store, done: Repacked, budget: int | None) -> bool:
    """Compacts the topics that are to be; what was written is added to ``done``. Whether all of it was done.

    Raises:
        DiskFull: There is no room for what is written anew; everything is as it was.
        NotCommitted: It could not be done, for another reason.
    """
    complete = True
    for topic in store.topics():
        if not topic.settings.compact or topic.internal:
            continue
        try:
            for partition, head in store.shelf.heads(topic).items():
                complete &= _Compaction(store, topic, partition, head).run(done, budget)
        except TopicNotFound:
            # It was deleted meanwhile.
            continue
        except OSError as error:
            failed = DiskFull if error.errno in directory.NO_ROOM else NotCommitted
            raise failed(
                f"{store.path}: {error.strerror}; what was not compacted stays as it is. Try again later"
            ) from error
    return complete


@dataclass
class _Left:
    """What is seen of the rows that stay."""

    damaged: bool = False
    tombstone: int | None = None
    """When the first row was appended that deletes its key and is still there."""


class _Compaction:
    """That of one partition."""

    def __init__(self, store: Store, topic: TopicRow, partition: int, head: Head) -> None:
        self._store = store
        self._topic = topic
        self._partition = partition
        self._head = head
        self._key = rows.marks_key(topic.id, partition)
        self._left = _Left()

    def run(self, done: Repacked, budget: int | None) -> bool:
        """Whether all of it was done."""
        store, settings, now = self._store, self._topic.settings, self._store.clock.now()
        marks = rows.unpack_marks(store.get(self._key))
        batches = self._sealed(now - settings.compact_after)
        fresh = [placed for placed in batches if placed.next_offset > marks.compacted]
        due = marks.tombstone and marks.tombstone < now - settings.tombstones
        if not fresh and not due:
            return True
        some = _first_rows(fresh, MOST_ROWS)
        latest = self._latest(some)
        reached = some[-1].next_offset if some else marks.compacted
        within = [placed for placed in batches if placed.offset < reached]
        for unit in _units(within):
            if budget is not None and done.bytes >= budget:
                return False
            try:
                if self._is_less(unit, latest, now):
                    done.add(repack(store, self._segment(unit, latest, now)))
            except DataCorrupted:
                self._left.damaged = True
            except OffsetTrimmed:
                # The next time it is looked at as it is then.
                return False
        self._note(reached)
        return len(some) == len(fresh)

    def _sealed(self, before: int) -> list[Placed]:
        """The batches from the first on that lie in segments, and were appended by this moment."""
        found: list[Placed] = []
        position = self._head.begin
        while position < self._head.end:
            entries = self._store.shelf.entries(self._topic, self._partition, position, _LOOKED_UP)
            if not entries:
                break
            for placed in entries:
                if placed.entry.kind != "segment" or placed.entry.append_time > before:
                    return found
                found.append(placed)
                position = placed.next_offset
        return found

    def _read(self, placed: Placed) -> LogBatch:
        written = msgspec.structs.replace(self._topic, schema=placed.entry.schema)
        return self._store.shelf.batch(written, self._partition, placed)

    def _latest(self, batches: list[Placed]) -> pl.DataFrame | None:
        """The last offset of each key in these batches."""
        frames = []
        for placed in batches:
            try:
                frames.append(self._keys(self._read(placed)))
            except DataCorrupted:
                # What nobody can read takes no earlier row away.
                self._left.damaged = True
        if not frames:
            return None
        return pl.concat(frames).group_by(self._topic.key).agg(pl.col(_OFFSET).max().alias(_LATEST))

    def _keys(self, batch: LogBatch) -> pl.DataFrame:
        frame = frame_from_batch(batch.data.select(list(self._topic.key)))
        return frame.with_columns(pl.Series(_OFFSET, batch.offsets))

    def _is_less(self, unit: list[Placed], latest: pl.DataFrame | None, now: int) -> bool:
        """Whether a row of these goes; notes those that stay and delete their key."""
        less = False
        for placed in unit:
            batch = self._read(placed)
            kept, gone = self._kept(batch, latest, now)
            less = less or not kept.all()
            left = batch.append_times[gone & kept]
            if len(left):
                first = int(left.min())
                known = self._left.tombstone
                self._left.tombstone = first if known is None else min(first, known)
        return less

    def _segment(self, unit: list[Placed], latest: pl.DataFrame | None, now: int) -> Segment:
        return Segment(self._topic, self._partition, unit, lambda batch: self._kept(batch, latest, now)[0])

    def _kept(
        self, batch: LogBatch, latest: pl.DataFrame | None, now: int
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which rows stay, and which say that their key is gone."""
        kept = np.ones(batch.data.num_rows, np.bool_)
        if latest is not None and batch.data.num_rows:
            joined = self._keys(batch).join(
                latest, on=list(self._topic.key), how="left", nulls_equal=True, maintain_order="left"
            )
            # One that was read meanwhile in more rows than were looked at would tell here.
            kept = ~(joined[_LATEST] > joined[_OFFSET]).fill_null(value=False).to_numpy()
        gone = self._tombstones(batch)
        if not self._left.damaged and gone.any():
            kept = kept & ~(gone & (batch.append_times < now - self._topic.settings.tombstones))
        return kept, gone

    def _tombstones(self, batch: LogBatch) -> npt.NDArray[np.bool_]:
        others = [name for name in batch.data.schema.names if name not in self._topic.key]
        gone = np.full(batch.data.num_rows, bool(others))
        for name in others:
            column = batch.data.column(name)
            if not column.null_count:
                return np.zeros(batch.data.num_rows, np.bool_)
            gone &= column.is_null().to_numpy(zero_copy_only=False)
        return gone

    def _note(self, reached: int) -> None:
        tombstone = self._left.tombstone or 0

        def note(draft: Draft) -> None:
            # Not of a partition that was deleted meanwhile.
            if draft.get(rows.head_key(self._topic.id, self._partition)) is not None:
                marks = rows.unpack_marks(draft.get(self._key))
                draft.put(self._key, Marks(marks.sealed, reached, tombstone).pack())

        self._store.index.update(note)


def _first_rows(batches: list[Placed], most: int) -> list[Placed]:
    """The first of these, with so many rows at most; one at least."""
    count = 0
    for number, placed in enumerate(batches):
        count += placed.entry.rows
        if count > most and number:
            return batches[:number]
    return batches


def _units(batches: list[Placed]) -> Iterator[list[Placed]]:
    """What is written anew together: of one schema, and not too much."""
    unit: list[Placed] = []
    size = 0
    for placed in batches:
        entry = placed.entry
        if unit and (size + entry.length > UNIT_BYTES or entry.schema != unit[0].entry.schema):
            yield unit
            unit, size = [], 0
        unit.append(placed)
        size += entry.length
    if unit:
        yield unit
