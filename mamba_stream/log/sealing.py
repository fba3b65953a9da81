"""Sealing: repacking commit files into segments, one partition each, that any Arrow tool opens.

It costs what is new: of each partition is noted up to where everything lies in segments already.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.errors import DiskFull, NotCommitted, TopicNotFound
from mamba_stream.log import directory, files, recovery, rows
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.pacing import Step, at_once
from mamba_stream.log.repacking import repack
from mamba_stream.log.rows import FileRow, TopicRow
from mamba_stream.log.segments import Repacked, Segment
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

SEGMENT_BYTES = 512 << 20
MOST_BATCHES: Final = 4_096
"""Of a segment, as they were appended: they are moved there in one commit, for which others wait."""
YOUNG: Final = 3_600_000_000
"""Microseconds for which upkeep in the background leaves a file to its writer, and one that is small to itself."""
_WORTH_BYTES: Final = 64 << 20
LEAST_SEGMENT: Final = 16 << 20
_LOOKED_UP: Final = 1_024


def seal(store: Store) -> int:
    """Repacks every commit file that no living process writes to; says how many."""
    return _sealed(store, Repacked(), None)[0]


def seal_some(
    store: Store, done: Repacked, budget: int | None, *, patient: bool = False, step: Step = at_once
) -> bool:
    """The same until about so many bytes are written, which are added to what was ``done``. Whether all of it was.

    Raises:
        DiskFull: There is no room for the copies; what was not sealed stays as it is.
        NotCommitted: It could not be done, for another reason.
    """
    return _sealed(store, done, budget, patient, step)[1]


def _sealed(
    store: Store, done: Repacked, budget: int | None, patient: bool = False, step: Step = at_once
) -> tuple[int, bool]:
    try:
        return _seal(store, done, budget, patient, step)
    except OSError as error:
        failed = DiskFull if error.errno in directory.NO_ROOM else NotCommitted
        raise failed(
            f"{store.path}: {error.strerror}; what was not sealed stays as it is. Seal again later"
        ) from error


def _seal(store: Store, done: Repacked, budget: int | None, patient: bool, step: Step) -> tuple[int, bool]:
    recovery.recover(store.index, store.files, store.clock)
    store.maps.drop_removed()
    held: dict[int, int] = {}
    try:
        for number, row in _candidates(store, patient):
            # Holding the lock keeps writers from adopting it, and other processes from sealing it too.
            fd = _locked(files.path_of(store.files, number, row.kind), row)
            if fd is not None:
                held[number] = fd
        if not held:
            return 0, True
        _close(store, list(held))
        # What is begun is not interrupted.
        most = SEGMENT_BYTES if budget is None else min(SEGMENT_BYTES, max(budget, LEAST_SEGMENT))
        for segment in _segments(store, set(held), most, step):
            if budget is not None and done.bytes >= budget:
                return 0, False
            done.add(repack(store, segment, step))
    finally:
        for fd in held.values():
            os.close(fd)
    return len(held), True


def _candidates(store: Store, patient: bool) -> list[tuple[int, FileRow]]:
    found, now = [], store.clock.now()
    for key, value in store.items(rows.FILE):
        number, row = int.from_bytes(key[1:], "big"), rows.unpack(FileRow, value)
        if patient and row.end < _WORTH_BYTES and now - row.opened < YOUNG:
            continue
        if row.kind == "commit" and row.state != "trash" and not row.internal:
            found.append((number, row))
    return found


def _locked(path: Path, row: FileRow) -> int | None:
    try:
        fd = files.lock(path)
    except FileNotFoundError:
        # Another process removed it meanwhile, or it is lost.
        return None
    if fd is not None and os.fstat(fd).st_size < row.end:
        # A file that lost published bytes is doctor's business.
        os.close(fd)
        return None
    return fd


def _close(store: Store, numbers: list[int]) -> None:
    now = store.clock.now()

    def close(draft: Draft) -> None:
        ledger = Ledger(draft, now)
        for number in numbers:
            row = ledger.file(number)
            if row is not None and row.state == "open":
                ledger.set_file(number, msgspec.structs.replace(row, state="closed", since=now))
        ledger.flush()

    store.index.update(close)


def _segments(store: Store, numbers: set[int], most: int, step: Step) -> Iterator[Segment]:
    """The batches of these files, by partition and in order, cut to the size of segments."""
    marks = {key: rows.unpack_marks(value).sealed for key, value in store.items(rows.MARKS)}
    reached: dict[bytes, int] = {}
    for topic in store.topics():
        try:
            heads = {} if topic.internal else store.shelf.heads(topic)
        except TopicNotFound:
            # It was deleted meanwhile, and its rows need no place.
            continue
        for partition, head in heads.items():
            key = rows.marks_key(topic.id, partition)
            mark = max(marks.get(key, 0), head.begin)
            if mark < head.end:
                bounds = mark, head.end
                yield from _of_partition(store, topic, partition, bounds, numbers, most, reached, step)
    _note(store, {key: mark for key, mark in reached.items() if mark > marks.get(key, 0)})


def _of_partition(
    store: Store,
    topic: TopicRow,
    partition: int,
    bounds: tuple[int, int],
    numbers: set[int],
    most: int,
    reached: dict[bytes, int],
    step: Step,
) -> Iterator[Segment]:
    position, end = bounds
    batches: list[Placed] = []
    size, sealed = 0, True
    while position < end:
        entries = store.shelf.entries(topic, partition, position, _LOOKED_UP)
        if not entries:
            break
        step()
        for placed in entries:
            position, entry = placed.next_offset, placed.entry
            sealed = sealed and entry.kind == "segment"
            if sealed:
                reached[rows.marks_key(topic.id, partition)] = position
            if entry.kind == "segment" or entry.file not in numbers:
                continue
            full = size + entry.length > most or len(batches) >= MOST_BATCHES
            if batches and (full or entry.schema != batches[0].entry.schema):
                yield Segment(topic, partition, batches)
                batches, size = [], 0
            batches.append(placed)
            size += entry.length
    if batches:
        yield Segment(topic, partition, batches)


def _note(store: Store, marks: dict[bytes, int]) -> None:
    """Notes up to where everything was found in segments."""
    if not marks:
        return

    def note(draft: Draft) -> None:
        for key, mark in marks.items():
            topic, partition = rows.partition_place(key)
            # Not of a partition that was deleted meanwhile.
            if draft.get(rows.head_key(topic, partition)) is not None:
                known = rows.unpack_marks(draft.get(key))
                draft.put(key, msgspec.structs.replace(known, sealed=mark).pack())

    store.index.update(note)
