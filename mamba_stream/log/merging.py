"""Merging small segments of a partition into larger ones, so that a log which is sealed often has few files.

Segments are merged from one on, with all that are newer, once those hold several times as much together as it does. So
a byte is written anew only a number of times that grows with the logarithm of what the partition holds, and there are
only so many segments that are not large yet, however large those are that come.

What compaction has left of a segment of which most is gone goes to a new one, too, so that the room of the rest comes
back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from mamba_stream.errors import DataCorrupted, TopicNotFound
from mamba_stream.log import contents, files, rows, sealing
from mamba_stream.log.format import Damaged
from mamba_stream.log.pacing import Step, at_once
from mamba_stream.log.repacking import repack
from mamba_stream.log.rows import FileRow, TopicRow
from mamba_stream.log.segments import Repacked, Segment
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

GROWTH: Final = 3
"""Segments are merged with newer ones that hold so many times as much together."""
FEWEST: Final = 4
"""So many at least: merging costs some calls, however little there is."""
_LEAST_BYTES: Final = 4096
"""What a file takes at least."""
_MOST_BATCHES: Final = 2 * sealing.MOST_BATCHES
"""They are moved in one commit, for which others wait."""
_OVERDRAWN: Final = 4
"""Where nothing else was written, so many times the budget may be: segments grow beyond what is written at a time."""
_LOOKED_UP: Final = 1_024


class _Lying(NamedTuple):
    """A segment that is small enough to be merged."""

    first: int
    """The offset from which on its batches are found."""
    number: int
    size: int
    batches: int


def merge(store: Store, done: Repacked, budget: int | None, step: Step = at_once) -> bool:
    """Merges segments until about so many bytes are written, those of ``done`` among them. Whether all of it was done.

    Raises:
        OSError: A segment could not be written; what was not merged is as it was.
    """
    most = sealing.SEGMENT_BYTES
    if budget is not None:
        most = min(most, max(_OVERDRAWN * budget, sealing.LEAST_SEGMENT))
    while (segment := _next(store, most, step)) is not None:
        size = sum(placed.entry.length for placed in segment.batches)
        left = store.room.within(None)
        if left is not None and size > left:
            return False
        if budget is not None and done.bytes and done.bytes + size > budget:
            return False
        found = repack(store, segment, step)
        if not found.bytes:
            # It was deleted meanwhile.
            return False
        done.add(found)
    return True


def due(sizes: Sequence[int], most: int) -> range | None:
    """Which of these segments, the oldest first, are to become one; ``None`` if none are.

    >>> due([900, 200, 200, 200], 10_000)
    >>> due([600, 200, 200, 200, 1200], 10_000)
    range(0, 5)
    """
    newer = sum(sizes)
    for first in range(len(sizes) - FEWEST + 1):
        newer -= sizes[first]
        if newer >= GROWTH * sizes[first]:
            stop, size = first, 0
            while stop < len(sizes) and size + sizes[stop] <= most:
                size += sizes[stop]
                stop += 1
            if stop - first > 1:
                return range(first, stop)
    return None


def _next(store: Store, most: int, step: Step) -> Segment | None:
    """The next one that is to be written in the stead of several."""
    topics = {topic.id: topic for topic in store.topics()}
    for (number, partition, _), lying in _small(store, most).items():
        topic = topics.get(number)
        if topic is None:
            continue
        some = due([max(_LEAST_BYTES, one.size) for one in lying], max(most, 2 * _LEAST_BYTES))
        if some is None:
            continue
        try:
            batches = _batches(store, topic, partition, lying[some.start : some.stop], step)
        except (DataCorrupted, TopicNotFound):
            # Of a damaged index doctor has to see first.
            continue
        if len({placed.entry.file for placed in batches}) > 1:
            return Segment(topic, partition, batches)
    return _left_over(store, topics, step)


def _left_over(store: Store, topics: Mapping[int, TopicRow], step: Step) -> Segment | None:
    """What compaction has left of a segment, if that is half of it at most."""
    for key, value in store.items(rows.FILE):
        number, row = int.from_bytes(key[1:], "big"), rows.unpack(FileRow, value)
        topic = topics.get(row.topic)
        few = row.state == "closed" and 0 < 2 * row.live <= row.batches
        if not few or topic is None or not topic.settings.compact or _begun(store, number, row) is None:
            continue
        try:
            lying = _Lying(row.first, number, row.end, row.live)
            batches = _batches(store, topic, row.partition, [lying], step)
        except (DataCorrupted, TopicNotFound):
            continue
        if batches:
            return Segment(topic, row.partition, batches)
    return None


def _small(store: Store, most: int) -> dict[tuple[int, int, int], list[_Lying]]:
    """The segments that are not large enough yet, by topic, partition and schema, in the order of their rows."""
    found: dict[tuple[int, int, int], list[_Lying]] = defaultdict(list)
    for key, value in store.items(rows.FILE):
        number, row = int.from_bytes(key[1:], "big"), rows.unpack(FileRow, value)
        small = row.end < most // 2 and row.live <= _MOST_BATCHES // 2
        if row.kind != "segment" or row.state != "closed" or row.internal or not row.topic or not small:
            continue
        if (begun := _begun(store, number, row)) is not None:
            first, schema = begun
            found[row.topic, row.partition, schema].append(_Lying(first, number, row.end, row.live))
    for lying in found.values():
        lying.sort()
    return found


def _begun(store: Store, number: int, row: FileRow) -> tuple[int, int] | None:
    """(first offset, schema) of a segment; ``None`` where it is not whole."""
    path = files.path_of(store.files, number, row.kind)
    try:
        if path.stat().st_size < row.end:
            return None
        if row.schema:
            return row.first, row.schema
        # Of an earlier version.
        table = contents.decode(files.contents_path(path).read_bytes())
    except (FileNotFoundError, Damaged, msgspec.MsgspecError):
        return None
    return (table.batches[0].offset, table.schema_id) if table.batches else None


def _batches(
    store: Store, topic: TopicRow, partition: int, lying: Sequence[_Lying], step: Step
) -> list[Placed]:
    """What lies in these segments, in the order of offsets; as many of them as may be moved at once."""
    found: list[Placed] = []
    for one in lying:
        if found and len(found) + one.batches > _MOST_BATCHES:
            break
        position, left = one.first, one.batches
        while left:
            entries = store.shelf.entries(topic, partition, position, min(left, _LOOKED_UP))
            if not entries:
                break
            step()
            position = entries[-1].next_offset
            here = [placed for placed in entries if placed.entry.file == one.number]
            found += here
            left -= len(here)
    return sorted(found, key=lambda placed: placed.offset)
