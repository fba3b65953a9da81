"""Compaction: of the rows of a partition that have one key, the latest stays; its offset does not change.

A row whose other columns are all null says that its key is gone. It stays for a while, so that whoever follows hears of
it, and goes then. What was appended a moment ago is left alone, as is what is not sealed yet.

What is new since the last time says which keys have a later row; batches are then written anew from the first on,
except for those of which nothing goes. In that order, since a row that deletes its key must not go before those that it
deletes. It may be interrupted anywhere: how far everything is compacted is noted last.

What cannot be read may be readable again, at any moment: an error of a disk may pass. Until then nothing is noted and
no deletion goes, or rows would come back from there; what is new is compacted all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.errors import DataCorrupted, OffsetTrimmed, TopicNotFound
from mamba_stream.log import rows
from mamba_stream.log.batch import LogBatch, Numbers
from mamba_stream.log.pacing import Step, at_once
from mamba_stream.log.repacking import repack
from mamba_stream.log.rows import Head, Marks, TopicRow
from mamba_stream.log.segments import Repacked, Segment
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

UNIT_BYTES: Final = 64 << 20
"""About so much is written anew at a time."""
MOST_ROWS: Final = 4 << 20
"""New rows whose keys are looked at in one pass: they are held in memory."""
AGAIN: Final = 3_600_000_000
"""Microseconds after which what could not be read is tried again."""
_LOOKED_UP: Final = 1_024
_TOGETHER: Final = 256 << 10
"""Rows whose keys are looked for at once, at least."""
_OFFSET: Final = "\0offset"
_LATER: Final = " of the latest"
_NONE: Final = np.zeros(0, np.int64)


class PastDamage(msgspec.Struct, frozen=True):
    """How far a partition is compacted but for what could not be read, and since when; known to this process alone."""

    reached: int
    since: int


def compact(store: Store, done: Repacked, budget: int | None, step: Step = at_once) -> bool:
    """Compacts the topics that are to be; what was written is added to ``done``. Whether all of it was done.

    Raises:
        OSError: A segment could not be written; what was not compacted is as it was.
    """
    complete = True
    for topic in store.topics():
        if not topic.settings.compact or topic.internal:
            continue
        try:
            for partition, head in store.shelf.heads(topic).items():
                complete &= _Compaction(store, topic, partition, head, step).run(done, budget)
        except TopicNotFound:
            # It was deleted meanwhile.
            continue
    return complete


class _Compaction:
    """That of one partition."""

    def __init__(self, store: Store, topic: TopicRow, partition: int, head: Head, step: Step) -> None:
        self._step = step
        self._store = store
        self._topic = topic
        self._partition = partition
        self._head = head
        self._key = rows.marks_key(topic.id, partition)
        self._looked_at: set[int] = set()
        """The first offsets of the batches whose keys were looked at."""
        self._latest: Numbers = _NONE
        """The offsets of their rows that have no later one of their key, in order."""
        self._latest_keys: pl.DataFrame | None = None
        self._past: PastDamage | None = None
        self._damaged = False
        """Whether something could not be read, now or before."""
        self._tombstone: int | None = None
        """When the first row was appended that deletes its key and is still there."""

    def run(self, done: Repacked, budget: int | None) -> bool:
        """Whether all of it was done."""
        store, settings, now = self._store, self._topic.settings, self._store.clock.now()
        marks = rows.unpack_marks(store.get(self._key))
        old_enough, begin = now - settings.compact_after, self._head.begin
        compacted = max(marks.compacted, self._passed(now))
        fresh = self._sealed(max(begin, compacted), self._head.end, old_enough)
        due = not self._damaged and marks.tombstone and marks.tombstone < now - settings.tombstones
        if not fresh and not due:
            return True
        some = _first_rows(fresh, MOST_ROWS)
        self._look_at(some)
        reached = some[-1].next_offset if some else compacted
        for unit in _units(self._sealed(begin, reached, old_enough)):
            if budget is not None and done.bytes >= budget:
                return False
            try:
                self._write_anew(unit, now, done)
            except OffsetTrimmed:
                # The next time it is looked at as it is then.
                return False
        if self._damaged:
            since = now if self._past is None else self._past.since
            store.past_damage[self._key] = PastDamage(reached, since)
        else:
            self._note(reached)
        return len(some) == len(fresh)

    def _write_anew(self, unit: list[Placed], now: int, done: Repacked) -> None:
        """Writes batches anew without the rows that go; what lies around those that cannot be read, too."""
        try:
            kept = self._kept(unit, now)
            if any(one is not None for one in kept):
                done.add(repack(self._store, Segment(self._topic, self._partition, unit, kept), self._step))
        except DataCorrupted:
            self._damaged = True
            half = len(unit) // 2
            for part in (unit[:half], unit[half:]) if half else ():
                self._write_anew(part, now, done)

    def _passed(self, now: int) -> int:
        """How far this process has come behind what it could not read; 0 where it could, or is to try again."""
        past = self._store.past_damage.get(self._key)
        if past is not None and now - past.since >= AGAIN:
            del self._store.past_damage[self._key]
            past = None
        self._past, self._damaged = past, past is not None
        return 0 if past is None else past.reached

    def _sealed(self, position: int, end: int, before: int) -> list[Placed]:
        """The batches between two offsets, up to the first that lies in no segment or was appended after a moment."""
        found: list[Placed] = []
        while position < end:
            entries = self._store.shelf.entries(self._topic, self._partition, position, _LOOKED_UP)
            if not entries:
                break
            self._step()
            for placed in entries:
                if (
                    placed.offset >= end
                    or placed.entry.kind != "segment"
                    or placed.entry.append_time > before
                ):
                    return found
                found.append(placed)
                position = placed.next_offset
        return found

    def _read(self, placed: Placed, wanted: Sequence[int] | None = None) -> LogBatch:
        written = msgspec.structs.replace(self._topic, schema=placed.entry.schema)
        return self._store.shelf.batch(written, self._partition, placed, wanted)

    def _columns(self, placed: Placed) -> tuple[list[int], list[int]]:
        """The numbers of the key's columns in a batch, and those of the others."""
        names, key = self._store.shelf.layout(placed.entry.schema).schema.names, self._topic.key
        return [names.index(name) for name in key], [n for n, name in enumerate(names) if name not in key]

    def _keys(self, placed: Placed) -> pl.DataFrame:
        """The key of each row, and its offset."""
        self._step()
        batch = self._read(placed, self._columns(placed)[0])
        if batch.kept is None:
            offsets = pl.int_range(batch.offset, batch.next_offset, eager=True).alias(_OFFSET)
        else:
            offsets = pl.Series(_OFFSET, batch.kept)
        return frame_from_batch(batch.data).hstack([offsets])

    def _look_at(self, batches: list[Placed]) -> None:
        """Finds the last row of each key in these batches.

        From the last one on: most rows then have a key that was met already, and those that have not are as many as are
        looked for at once, so that each is compared with few others.
        """
        found: pl.DataFrame | None = None
        waiting: list[pl.DataFrame] = []
        count = 0
        for placed in reversed(batches):
            if placed.entry.lost:
                continue
            try:
                keys = self._keys(placed)
            except DataCorrupted:
                # What nobody can read takes no earlier row away.
                self._damaged = True
                continue
            self._looked_at.add(placed.offset)
            waiting.append(keys)
            count += keys.height
            if count >= max(_TOGETHER, 0 if found is None else found.height):
                found, waiting, count = self._with(found, waiting), [], 0
        found = self._with(found, waiting)
        if found is not None:
            self._latest_keys = found
            self._latest = np.sort(found[_OFFSET].to_numpy())

    def _with(self, found: pl.DataFrame | None, earlier: list[pl.DataFrame]) -> pl.DataFrame | None:
        """What was found, and the last row of each key that only earlier rows have."""
        if not earlier:
            return found
        keys = list(self._topic.key)
        rows_before = pl.concat(earlier)
        if found is not None:
            rows_before = rows_before.join(found, on=keys, how="anti", nulls_equal=True)
        new = rows_before.group_by(keys).agg(pl.col(_OFFSET).max())
        return new if found is None else pl.concat([found, new])

    def _kept(self, unit: list[Placed], now: int) -> list[Numbers | None]:
        """The offsets of the rows of each batch that are kept; ``None`` for all of them.

        Notes those that stay and delete their key. Of what is written anew all is verified here: a deletion must not
        go where what it deletes cannot.
        """
        superseded = self._superseded(unit)
        found: list[Numbers | None] = []
        for placed in unit:
            kept: Numbers | None
            if placed.offset in self._looked_at:
                kept = _between(self._latest, placed)
                kept = None if len(kept) == placed.entry.rows else kept
            else:
                gone = _between(superseded, placed)
                kept = _without(self._offsets(placed), gone) if len(gone) else None
            kept = self._without_tombstones(placed, kept, now)
            if kept is not None and len(kept):
                self._read(placed)
            found.append(kept)
        return found

    def _superseded(self, unit: list[Placed]) -> Numbers:
        """The offsets of rows whose keys have a later row by now, of batches that were compacted before.

        Or that could not be read when their keys were looked at: then there are earlier ones among those that were.
        """
        before = [self._keys(placed) for placed in unit if placed.offset not in self._looked_at]
        if self._latest_keys is None or not before:
            return _NONE
        found = pl.concat(before).join(self._latest_keys, on=self._topic.key, nulls_equal=True, suffix=_LATER)
        return np.sort(found.filter(pl.col(_OFFSET) < pl.col(_OFFSET + _LATER))[_OFFSET].to_numpy())

    def _offsets(self, placed: Placed) -> Numbers:
        return self._read(placed, ()).offsets

    def _without_tombstones(self, placed: Placed, kept: Numbers | None, now: int) -> Numbers | None:
        """Without the rows that deleted their key long enough ago; the first one that stays is noted."""
        if kept is not None and not len(kept):
            return kept
        offsets, times = self._tombstones(placed)
        if kept is not None:
            stay = np.isin(offsets, kept, assume_unique=True)
            offsets, times = offsets[stay], times[stay]
        if not len(offsets):
            return kept
        if not self._damaged:
            old = times < now - self._topic.settings.tombstones
            if old.any():
                kept = _without(self._offsets(placed) if kept is None else kept, offsets[old])
                times = times[~old]
        if len(times):
            first = int(times.min())
            self._tombstone = first if self._tombstone is None else min(first, self._tombstone)
        return kept

    def _tombstones(self, placed: Placed) -> tuple[Numbers, Numbers]:
        """The offsets of the rows that say that their key is gone, and when they were appended."""
        batch: LogBatch | None = None
        gone: npt.NDArray[np.bool_] | None = None
        for number in self._columns(placed)[1]:
            batch = self._read(placed, [number])
            column = batch.data.column(0)
            if not column.null_count:
                # As in most batches, and the other columns need not be looked at.
                return _NONE, _NONE
            null = column.is_null().to_numpy(zero_copy_only=False)
            gone = null if gone is None else gone & null
        if batch is None or gone is None:
            return _NONE, _NONE
        return batch.offsets[gone], batch.append_times[gone]

    def _note(self, reached: int) -> None:
        tombstone = self._tombstone or 0

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
    """What is written anew together: of one schema, not too much, and nothing that a repair has given up."""
    unit: list[Placed] = []
    size = 0
    for placed in batches:
        entry = placed.entry
        if unit and (entry.lost or size + entry.length > UNIT_BYTES or entry.schema != unit[0].entry.schema):
            yield unit
            unit, size = [], 0
        if not entry.lost:
            unit.append(placed)
            size += entry.length
    if unit:
        yield unit


def _between(offsets: Numbers, placed: Placed) -> Numbers:
    """Those of these offsets, which ascend, that a batch covers."""
    start, stop = np.searchsorted(offsets, (placed.offset, placed.next_offset))
    return offsets[start:stop]


def _without(offsets: Numbers, gone: Numbers) -> Numbers:
    """These offsets but for some of them; both ascend."""
    left = np.ones(len(offsets), np.bool_)
    left[np.searchsorted(offsets, gone)] = False
    return offsets[left]
