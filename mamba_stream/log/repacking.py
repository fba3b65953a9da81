"""Writing batches into a new segment, and having the index name it in their stead.

A segment is written, synced and named before the index points to it; one commit moves all its batches. What it
replaces stays until the delay for replaced files is over: readers that still hold its places find their batches there,
and those that come later look up the new ones. Batches that somebody trimmed or replaced meanwhile stay as they are.

Small batches that lie one behind the other become one, which says where its rows come from. Whatever is damaged is
copied as it is: damage stays what it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from mamba_stream.core.schemas import schema_bytes
from mamba_stream.errors import DataCorrupted, NotCommitted, OffsetTrimmed, TopicNotFound
from mamba_stream.log import contents, directory, files, format, rows
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.origins import Origins, pack
from mamba_stream.log.rows import Entry, FileRow, Head, TopicRow
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

SMALL_BYTES: Final = 256 << 10
"""Batches below this size are merged with their neighbours."""
MERGED_BYTES: Final = 1 << 20
MERGED_ROWS: Final = 65_536
"""What one batch has at most that was made of several."""
MERGED_SPAN: Final = 1 << 20
"""Offsets that it covers at most, unless it has no rows."""
_MASK: Final = (1 << 64) - 1
_PIECE: Final = 8 << 20
_IN_KERNEL: Final = hasattr(os, "copy_file_range")

Mask = npt.NDArray[np.bool_]
Keep = Callable[[LogBatch], Mask]
"""Which rows of a batch are kept."""


@dataclass(frozen=True)
class Segment:
    """What is to lie in one segment: batches of one partition and one schema, in the order of their offsets.

    Attributes:
        topic: The topic.
        partition: The partition.
        batches: Where they lie now.
        keep: Which of their rows are kept; all, if it is not given.
    """

    topic: TopicRow
    partition: int
    batches: list[Placed]
    keep: Keep | None = None

    @property
    def schema(self) -> int:
        """The number of their schema."""
        return self.batches[0].entry.schema

    @property
    def size(self) -> int:
        """Bytes that they take now."""
        return sum(placed.entry.length for placed in self.batches)


@dataclass
class Repacked:
    """What became of batches.

    Attributes:
        bytes: That were written.
        merged: Batches that there are fewer.
        dropped: Rows that there are fewer.
    """

    bytes: int = 0
    merged: int = 0
    dropped: int = 0

    def add(self, other: Repacked) -> None:
        """Counts it in."""
        self.bytes += other.bytes
        self.merged += other.merged
        self.dropped += other.dropped


@dataclass(frozen=True)
class _Moved:
    """A batch of the segment, and those that it stands for."""

    offset: int
    entry: Entry
    stood: list[Placed] = field(default_factory=list)


def repack(store: Store, segment: Segment) -> Repacked:
    """Writes the segment, and has the index name it.

    Raises:
        OSError: It could not be written; everything is as it was.
        NotCommitted: It could not be published; everything is as it was.
    """
    fd, fresh = files.create_locked(store.files)
    try:
        moved, size, opening = _write(store, fd, segment)
        os.fsync(fd)
        toc = contents.Contents(
            log=store.meta.uuid,
            topic=segment.topic.name,
            topic_id=segment.topic.id,
            partition=segment.partition,
            schema=schema_bytes(store.shelf.layout(segment.schema).schema),
            schema_id=segment.schema,
            batches=tuple(listed(one.offset, one.entry) for one in moved),
            size=size,
            opening=opening,
            row=segment.topic,
        )
        beside = _write_synced(files.contents_path(fresh), contents.encode(toc))
        try:
            _publish(store, segment, moved, size, fresh)
        finally:
            os.close(beside)
    except BaseException as error:
        # Half a segment is only in the way, above all on a full disk. What was published has another name.
        _remove(fresh)
        if not isinstance(error, TopicNotFound | OffsetTrimmed):
            raise
        return Repacked()
    finally:
        os.close(fd)
    before = sum(placed.entry.rows for placed in segment.batches)
    return Repacked(size, len(segment.batches) - len(moved), before - sum(one.entry.rows for one in moved))


def compression_of(topic: TopicRow, entry: Entry) -> str:
    """How a batch is compressed once it is sealed."""
    chosen = topic.settings.seal_compression
    return chosen if chosen is not None else topic.compression if entry.compressed else "none"


def _write(store: Store, fd: int, segment: Segment) -> tuple[list[_Moved], int, int]:
    """Writes the batches behind a schema message; where they lie, the size, the opening's checksum."""
    opening = format.schema_message(store.shelf.layout(segment.schema).schema)
    files.write_all(fd, [opening], 0)
    position = len(opening)
    moved: list[_Moved] = []
    with contextlib.ExitStack() as sources:
        opened: dict[tuple[int, str], int] = {}
        for group in _groups(segment):
            for one in _written(store, fd, segment, group, position, opened, sources):
                moved.append(one)
                position += one.entry.length
    os.pwrite(fd, format.END_OF_STREAM, position)
    return moved, position + len(format.END_OF_STREAM), xxhash.xxh3_64_intdigest(opening)


def _groups(segment: Segment) -> Iterator[list[Placed]]:
    """Batches that are to become one: small ones that lie one behind the other."""
    group: list[Placed] = []
    size = count = span = 0
    for placed in segment.batches:
        entry = placed.entry
        fits = (
            group
            and group[-1].next_offset == placed.offset
            and max(entry.length, group[-1].entry.length) < SMALL_BYTES
            and size + entry.length <= MERGED_BYTES
            and count + entry.rows <= MERGED_ROWS
            and (span + entry.span <= MERGED_SPAN or not count + entry.rows)
        )
        if group and not fits:
            yield group
            group, size, count, span = [], 0, 0, 0
        group.append(placed)
        size, count, span = size + entry.length, count + entry.rows, span + entry.span
    if group:
        yield group


def _written(
    store: Store,
    fd: int,
    segment: Segment,
    group: list[Placed],
    position: int,
    opened: dict[tuple[int, str], int],
    sources: contextlib.ExitStack,
) -> list[_Moved]:
    """Writes a group, as one batch or as they were."""
    topic, first = segment.topic, group[0]
    compression = compression_of(topic, first.entry)
    alone = len(group) == 1 and segment.keep is None
    if not alone or first.entry.compressed != (compression != "none"):
        try:
            return [_merged(store, fd, segment, group, position, compression)]
        except DataCorrupted:
            # Their damage is told to whoever reads them, as before.
            pass
    moved = []
    for placed in group:
        entry = placed.entry
        source = opened.get((entry.file, entry.kind))
        if source is None:
            path = files.path_of(store.files, entry.file, entry.kind)
            source = opened[entry.file, entry.kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            sources.callback(os.close, source)
        _copy_range(source, entry.position, fd, position, entry.length)
        at = msgspec.structs.replace(entry, file=0, position=position, flags=entry.flags | rows.SEALED)
        moved.append(_Moved(placed.offset, at, [placed]))
        position += entry.length
    return moved


def _merged(
    store: Store, fd: int, segment: Segment, group: list[Placed], position: int, compression: str
) -> _Moved:
    """Writes a group as one batch, without the rows that are not kept."""
    topic, layout = segment.topic, store.shelf.layout(segment.schema)
    # As they were written, whatever the topic's columns are now.
    written = msgspec.structs.replace(topic, schema=segment.schema)
    batches: list[LogBatch] = []
    at = 0
    while at < len(group):
        batches += store.shelf.batches(written, segment.partition, group[at:])
        at = len(batches)
    masks = None if segment.keep is None else [segment.keep(batch) for batch in batches]
    entries = [placed.entry for placed in group]
    first, last = group[0], entries[-1]
    dropped = masks is not None and not all(mask.all() for mask in masks)
    parts = [batch.data for batch in batches]
    if dropped:
        assert masks is not None
        parts = [
            data if mask.all() else data.filter(pa.array(mask))
            for data, mask in zip(parts, masks, strict=True)
        ]
    data = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
    span = group[-1].next_offset - first.offset
    gaps = dropped or any(batch.kept is not None for batch in batches)
    kept = None
    if gaps:
        offsets = [batch.offsets for batch in batches]
        if dropped:
            assert masks is not None
            offsets = [each[mask] for each, mask in zip(offsets, masks, strict=True)]
        kept = np.concatenate(offsets) - first.offset
    origins = b""
    if gaps or len(group) > 1 or first.entry.merged:
        origins = pack(_origins(batches, first.offset, kept))
    message = format.encode(data, layout, compression, origins)
    files.write_all(fd, message.parts(), position)
    low, high = _times(topic, data, entries, dropped)
    flags = rows.SEALED | (rows.HAS_TIME if low <= high else 0)
    flags |= (rows.COMPRESSED if compression != "none" else 0) | (rows.MERGED if origins else 0)
    entry = Entry(
        file=0,
        position=position,
        length=message.length,
        rows=data.num_rows,
        span=span,
        min_time=low,
        max_time=high,
        running_time=last.running_time,
        append_time=last.append_time,
        schema=segment.schema,
        header=message.header,
        flags=flags,
    )
    return _Moved(first.offset, entry, group)


def _origins(batches: Sequence[LogBatch], first: int, kept: npt.NDArray[np.int64] | None) -> Origins:
    """Where the rows come from, appends of one moment told as one."""
    firsts: list[int] = []
    times: list[int] = []
    for batch in batches:
        known = ([batch.offset], [batch.append_time])
        if batch.appends is not None:
            known = batch.appends[0].tolist(), batch.appends[1].tolist()
        for start, time in zip(*known, strict=True):
            if not times or times[-1] != time:
                firsts.append(start - first)
                times.append(time)
    return Origins(np.array(firsts, np.int64), np.array(times, np.int64), kept)


def _times(topic: TopicRow, data: pa.RecordBatch, entries: Sequence[Entry], dropped: bool) -> tuple[int, int]:
    """The least and the greatest time of the rows; of none, the least is greater."""
    if dropped and topic.time is not None:
        column = data.column(topic.time)
        ticks = column.view(pa.int32() if column.type == pa.date32() else pa.int64())
        bounds = pc.min_max(ticks).as_py()
        return (0, -1) if bounds["min"] is None else (bounds["min"], bounds["max"])
    timed = [entry for entry in entries if entry.has_time]
    if not timed:
        return 0, -1
    return min(entry.min_time for entry in timed), max(entry.max_time for entry in timed)


def _copy_range(source: int, start: int, target: int, position: int, length: int) -> None:
    done = 0
    while done < length:
        left = length - done
        if _IN_KERNEL:
            copied = os.copy_file_range(source, target, left, start + done, position + done)
        else:
            piece = os.pread(source, min(left, _PIECE), start + done)
            copied = os.pwrite(target, piece, position + done)
        if copied == 0:
            raise OSError(f"the commit file ends {left} bytes early")
        done += copied


def _publish(store: Store, segment: Segment, moved: list[_Moved], size: int, fresh: Path) -> None:
    """Gives the segment its number and name, and moves its entries there; or removes it."""
    now = store.clock.now()
    # Its number is its own before it has a name: one that was taken back could be given to another file.
    number = store.index.update(lambda draft: _taken(draft, store.files, now))
    path = files.path_of(store.files, number, "segment")
    # Whoever finds the segment, also after a loss of power, finds what it holds beside it.
    os.rename(files.contents_path(fresh), files.contents_path(path))
    directory.sync(store.files)
    os.rename(fresh, path)
    directory.sync(store.files)

    def publish(draft: Draft) -> bool:
        ledger = Ledger(draft, now)
        head = ledger.head(segment.topic.id, segment.partition)
        if head is None:
            # The topic was deleted meanwhile.
            return False
        changed, live = head, 0
        for one in moved:
            if all(ledger.get(_key(segment, placed)) == placed.entry.pack() for placed in one.stood):
                # Otherwise some were trimmed or replaced meanwhile.
                changed = _move(ledger, segment, one, number, changed)
                live += 1
        ledger.set_head(segment.topic.id, segment.partition, changed)
        row = FileRow(
            "segment",
            "closed",
            size,
            live,
            segment.topic.internal,
            now,
            now,
            segment.topic.id,
            segment.partition,
        )
        ledger.set_file(number, row)
        ledger.flush()
        return True

    published = False
    try:
        published = store.index.update(publish)
    except NotCommitted:
        _remove(path)
        raise
    # Whatever else is raised, the commit may have happened: rows may lie there.
    if not published:
        _remove(path)


def _key(segment: Segment, placed: Placed) -> bytes:
    return rows.entry_key(segment.topic.id, segment.partition, placed.offset)


def _move(ledger: Ledger, segment: Segment, one: _Moved, number: int, head: Head) -> Head:
    """Has one entry stand for those that it is made of; the partition's state after that."""
    chain = head.chain
    for placed in one.stood:
        key = _key(segment, placed)
        chain -= rows.entry_hash(key, placed.entry.pack())
        ledger.delete(key)
    for file_number, group in groupby(sorted(placed.entry.file for placed in one.stood)):
        file = ledger.file(file_number)
        if file is not None:
            left = file.live - sum(1 for _ in group)
            ledger.set_file(file_number, msgspec.structs.replace(file, live=left))
    key = rows.entry_key(segment.topic.id, segment.partition, one.offset)
    value = msgspec.structs.replace(one.entry, file=number).pack()
    ledger.put(key, value)
    return msgspec.structs.replace(
        head,
        chain=(chain + rows.entry_hash(key, value)) & _MASK,
        entries=head.entries + 1 - len(one.stood),
        rows=head.rows + one.entry.rows - sum(placed.entry.rows for placed in one.stood),
        size=head.size + one.entry.length - sum(placed.entry.length for placed in one.stood),
    )


def _taken(draft: Draft, directory: Path, now: int) -> int:
    ledger = Ledger(draft, now)
    number = files.free_number(ledger, directory)
    ledger.flush()
    return number


def _remove(segment: Path) -> None:
    segment.unlink(missing_ok=True)
    # Where that is not sure to last, the table stays and tells what the segment holds.
    with contextlib.suppress(OSError):
        directory.sync(segment.parent)
        files.contents_path(segment).unlink(missing_ok=True)


def listed(offset: int, entry: Entry) -> contents.Batch:
    """An entry as a table of contents has it."""
    return contents.Batch(
        offset=offset,
        position=entry.position,
        length=entry.length,
        rows=entry.rows,
        span=entry.span,
        min_time=entry.min_time,
        max_time=entry.max_time,
        running_time=entry.running_time,
        append_time=entry.append_time,
        header=entry.header,
        flags=entry.flags,
    )


def _write_synced(path: Path, data: bytes) -> int:
    """A new file of these bytes, synced; its descriptor holds its lock, so that nobody takes it for a stray."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd
