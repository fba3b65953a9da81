"""Having the index name a segment that was written, in the stead of the files in which its batches lay."""

from __future__ import annotations

import contextlib
import fcntl
import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.errors import NotCommitted
from mamba_stream.log import contents, directory, files, rows
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.rows import Entry, FileRow, Head
from mamba_stream.log.segments import Moved, Segment
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store
    from mamba_stream.log.views import Draft

_MASK: Final = (1 << 64) - 1


def publish(store: Store, segment: Segment, moved: list[Moved], size: int, fresh: Path) -> None:
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

    def moving(draft: Draft) -> bool:
        ledger = Ledger(draft, now)
        head = ledger.head(segment.topic.id, segment.partition)
        if head is None:
            # The topic was deleted meanwhile.
            return False
        changed, live = head, 0
        for one in moved:
            stood = [(_key(segment, placed), placed.entry.pack()) for placed in one.stood]
            if all(ledger.get(key) == value for key, value in stood):
                # Otherwise some were trimmed or replaced meanwhile.
                changed = _move(ledger, segment, one, stood, number, changed)
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
            moved[0].offset,
            segment.schema,
            len(moved),
        )
        ledger.set_file(number, row)
        ledger.flush()
        return True

    published = False
    try:
        published = store.index.update(moving)
    except NotCommitted:
        remove(path)
        raise
    # Whatever else is raised, the commit may have happened: rows may lie there.
    if not published:
        remove(path)


def _key(segment: Segment, placed: Placed) -> bytes:
    return rows.entry_key(segment.topic.id, segment.partition, placed.offset)


def _move(
    ledger: Ledger, segment: Segment, one: Moved, stood: list[tuple[bytes, bytes]], number: int, head: Head
) -> Head:
    """Has one entry stand for those that it is made of; the partition's state after that."""
    chain = head.chain
    for key, value in stood:
        chain -= rows.entry_hash(key, value)
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


def remove(segment: Path) -> None:
    """Removes a segment that nobody knows, with its table of contents."""
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


def write_synced(path: Path, data: bytes) -> int:
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
