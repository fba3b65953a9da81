"""Sealing: repacking commit files into segments, one partition each, that any Arrow tool opens.

A segment is copied, synced and named before the index points to it; one commit moves all its entries. The
commit file stays until the delay for replaced files is over: readers that still hold its places find
their batches there, and those that come later look up the new ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import xxhash

from mamba_stream.core.schemas import schema_bytes
from mamba_stream.errors import DiskFull, NotCommitted, TopicNotFound
from mamba_stream.log import contents, directory, files, format, recovery, rows
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.rows import Entry, FileRow, TopicRow
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

SEGMENT_BYTES = 512 << 20
_MASK = (1 << 64) - 1
_PIECE = 8 << 20
_IN_KERNEL = hasattr(os, "copy_file_range")


@dataclass(frozen=True)
class _Segment:
    """Batches of one schema: a stream has one."""

    topic: TopicRow
    partition: int
    batches: list[Placed]

    @property
    def schema(self) -> int:
        """The number of their schema."""
        return self.batches[0].entry.schema


def seal(store: Store) -> int:
    """Repacks every commit file that no living process writes to; says how many."""
    try:
        return _seal(store)
    except OSError as error:
        failed = DiskFull if error.errno in directory.NO_ROOM else NotCommitted
        raise failed(
            f"{store.path}: {error.strerror}; what was not sealed stays as it is. Seal again later"
        ) from error


def _seal(store: Store) -> int:
    recovery.recover(store.index, store.files, store.clock)
    store.maps.drop_removed()
    held: dict[int, int] = {}
    try:
        for number, row in _candidates(store):
            # Holding the lock keeps writers from adopting it, and other processes from sealing it too.
            fd = _locked(files.path_of(store.files, number, row.kind), row)
            if fd is not None:
                held[number] = fd
        if not held:
            return 0
        _close(store, list(held))
        for segment in _segments(store, set(held)):
            _repack(store, segment, held)
    finally:
        for fd in held.values():
            os.close(fd)
    return len(held)


def _candidates(store: Store) -> list[tuple[int, FileRow]]:
    found = []
    for key, value in store.items(rows.FILE):
        number, row = int.from_bytes(key[1:], "big"), rows.unpack(FileRow, value)
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


def _segments(store: Store, numbers: set[int]) -> list[_Segment]:
    """The batches of these files, by partition and in order, cut to the size of segments."""
    found = []
    for topic in store.topics():
        try:
            heads = store.shelf.heads(topic)
        except TopicNotFound:
            # It was deleted meanwhile, and its rows need no place.
            continue
        for partition, head in heads.items():
            batches: list[Placed] = []
            size, position = 0, head.begin
            while position < head.end:
                entries = store.shelf.entries(topic, partition, position, 4096)
                if not entries:
                    break
                for placed in entries:
                    position = placed.next_offset
                    if placed.entry.file not in numbers:
                        continue
                    if batches and (
                        size + placed.entry.length > SEGMENT_BYTES
                        or placed.entry.schema != batches[0].entry.schema
                    ):
                        found.append(_Segment(topic, partition, batches))
                        batches, size = [], 0
                    batches.append(placed)
                    size += placed.entry.length
            if batches:
                found.append(_Segment(topic, partition, batches))
    return found


def _repack(store: Store, segment: _Segment, sources: dict[int, int]) -> None:
    fd, fresh = files.create_locked(store.files)
    try:
        moved, size, opening = _copy(store, fd, segment, sources)
        os.fsync(fd)
        toc = contents.Contents(
            log=store.meta.uuid,
            topic=segment.topic.name,
            topic_id=segment.topic.id,
            partition=segment.partition,
            schema=schema_bytes(store.shelf.layout(segment.schema).schema),
            schema_id=segment.schema,
            batches=tuple(_listed(offset, entry) for offset, entry in moved.items()),
            size=size,
            opening=opening,
        )
        beside = _write_synced(files.contents_path(fresh), contents.encode(toc))
        try:
            _publish(store, segment, moved, size, fresh)
        finally:
            os.close(beside)
    except BaseException as error:
        # Half a copy is only in the way, above all on a full disk. What was published has another name.
        _remove(fresh)
        if not isinstance(error, TopicNotFound):
            raise
    finally:
        os.close(fd)


def _copy(
    store: Store, fd: int, segment: _Segment, sources: dict[int, int]
) -> tuple[dict[int, Entry], int, int]:
    """Copies the batches behind a schema message; their new entries, the size, the opening's checksum."""
    opening = format.schema_message(store.shelf.layout(segment.schema).schema)
    files.write_all(fd, [opening], 0)
    position = len(opening)
    moved = {}
    for placed in segment.batches:
        entry = placed.entry
        _copy_range(sources[entry.file], entry.position, fd, position, entry.length)
        moved[placed.offset] = msgspec.structs.replace(
            entry, file=0, position=position, flags=entry.flags | rows.SEALED
        )
        position += entry.length
    os.pwrite(fd, format.END_OF_STREAM, position)
    return moved, position + len(format.END_OF_STREAM), xxhash.xxh3_64_intdigest(opening)


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


def _publish(store: Store, segment: _Segment, moved: dict[int, Entry], size: int, fresh: Path) -> None:
    """Gives the segment its number and name, and moves its entries there; or removes it."""
    now = store.clock.now()
    old = {placed.offset: placed.entry for placed in segment.batches}
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
        chain, live = head.chain, 0
        for offset, entry in moved.items():
            key = rows.entry_key(segment.topic.id, segment.partition, offset)
            value = ledger.get(key)
            before = old[offset]
            if value != before.pack():
                # Trimmed meanwhile.
                continue
            after = msgspec.structs.replace(entry, file=number).pack()
            ledger.put(key, after)
            chain += rows.entry_hash(key, after) - rows.entry_hash(key, value)
            live += 1
            file = ledger.file(before.file)
            if file is not None:
                ledger.set_file(before.file, msgspec.structs.replace(file, live=file.live - 1))
        ledger.set_head(
            segment.topic.id, segment.partition, msgspec.structs.replace(head, chain=chain & _MASK)
        )
        ledger.set_file(number, FileRow("segment", "closed", size, live, segment.topic.internal, now, now))
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


def _listed(offset: int, entry: Entry) -> contents.Batch:
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
