"""Writing batches into a new segment, and having the index name it in their stead.

A segment is written, synced and named before the index points to it; one commit moves all its batches. What it
replaces stays until the delay for replaced files is over: readers that still hold its places find their batches there,
and those that come later look up the new ones. Batches that somebody trimmed or replaced meanwhile stay as they are.

Whatever is damaged is copied as it is: damage stays what it was.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
import xxhash

from mamba_stream.core.schemas import schema_bytes
from mamba_stream.errors import DataCorrupted, OffsetTrimmed, TopicNotFound
from mamba_stream.log import contents, files, format, rows
from mamba_stream.log.joining import Joiner
from mamba_stream.log.pacing import Step, at_once
from mamba_stream.log.publishing import listed, publish, remove, write_synced
from mamba_stream.log.rows import Entry, TopicRow
from mamba_stream.log.segments import Moved, Repacked, Segment

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

_PIECE: Final = 8 << 20
_IN_KERNEL: Final = hasattr(os, "copy_file_range")


def repack(store: Store, segment: Segment, step: Step = at_once) -> Repacked:
    """Writes the segment, and has the index name it; calls ``step`` between two batches.

    Raises:
        OSError: It could not be written; everything is as it was.
        NotCommitted: It could not be published; everything is as it was.
        DataCorrupted: A batch is damaged of which, or of whose neighbours, rows were to go; everything is as it was.
    """
    fd, fresh = files.create_locked(store.files)
    try:
        moved, size, opening = _write(store, fd, segment, step)
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
        beside = write_synced(files.contents_path(fresh), contents.encode(toc))
        try:
            publish(store, segment, moved, size, fresh)
        finally:
            os.close(beside)
    except BaseException as error:
        # Half a segment is only in the way, above all on a full disk. What was published has another name.
        remove(fresh)
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


def _write(store: Store, fd: int, segment: Segment, step: Step) -> tuple[list[Moved], int, int]:
    """Writes the batches behind a schema message; where they lie, the size, the opening's checksum."""
    opening = format.schema_message(store.shelf.layout(segment.schema).schema)
    files.write_all(fd, [opening], 0)
    with contextlib.ExitStack() as sources:
        writing = _Writing(store, fd, segment, len(opening), sources)
        for numbers in writing.joiner.groups():
            writing.write(numbers)
            step()
    os.pwrite(fd, format.END_OF_STREAM, writing.position)
    size = writing.position + len(format.END_OF_STREAM)
    return writing.moved, size, xxhash.xxh3_64_intdigest(opening)


class _Writing:
    """A segment that is being written."""

    def __init__(
        self, store: Store, fd: int, segment: Segment, position: int, sources: contextlib.ExitStack
    ) -> None:
        self.joiner = Joiner(store, segment)
        self.moved: list[Moved] = []
        self.position = position
        self._store = store
        self._fd = fd
        self._segment = segment
        self._sources = sources
        self._opened: dict[tuple[int, str], int] = {}

    def write(self, numbers: range) -> None:
        """Writes a group, as one batch or as they were."""
        segment = self._segment
        group = segment.batches[numbers.start : numbers.stop]
        first = group[0].entry
        compression = compression_of(segment.topic, first)
        whole = segment.kept is None or segment.kept[numbers.start] is None
        if len(group) > 1 or not whole or first.compressed != (compression != "none"):
            try:
                message, entry = self.joiner.joined(numbers, compression)
            except DataCorrupted:
                # Their damage is told to whoever reads them, as before. But no deletion may go of which it is not sure
                # that what it deletes went before.
                if segment.kept is not None:
                    raise
            else:
                files.write_all(self._fd, message.parts(), self.position)
                at = msgspec.structs.replace(entry, position=self.position)
                self.moved.append(Moved(group[0].offset, at, group))
                self.position += entry.length
                return
        for placed in group:
            entry = placed.entry
            _copy_range(self._source(entry), entry.position, self._fd, self.position, entry.length)
            at = msgspec.structs.replace(
                entry, file=0, position=self.position, flags=entry.flags | rows.SEALED
            )
            self.moved.append(Moved(placed.offset, at, [placed]))
            self.position += entry.length

    def _source(self, entry: Entry) -> int:
        source = self._opened.get((entry.file, entry.kind))
        if source is None:
            path = files.path_of(self._store.files, entry.file, entry.kind)
            source = self._opened[entry.file, entry.kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._sources.callback(os.close, source)
        return source


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
