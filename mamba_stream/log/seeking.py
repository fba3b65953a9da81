"""Where in a partition a time is reached."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mamba_stream.log.intake import running_time
from mamba_stream.log.rows import NO_TIME, Head, TopicRow
from mamba_stream.log.shelf import Shelf


def offset_at(
    shelf: Shelf, topic: TopicRow, schema: pa.Schema, partition: int, head: Head, ticks: int, by: str
) -> int:
    """Bisects the entries: running times and append times never decrease along a partition."""
    low, high = head.begin, head.end
    before = NO_TIME
    while low < high:
        placed = shelf.entry(topic, partition, (low + high) // 2)
        if placed is None:
            break
        reached = placed.entry.running_time if by == "time" else placed.entry.append_time
        if reached >= ticks:
            high = placed.offset
        else:
            low, before = placed.next_offset, placed.entry.running_time
    placed = shelf.entry(topic, partition, low) if low < head.end else None
    if placed is None:
        return head.end
    if by == "append" and not placed.entry.merged:
        return max(placed.offset, head.begin)
    wanted = [] if by == "append" else [schema.get_field_index(topic.time)]
    batch = shelf.batch(topic, partition, placed, wanted)
    if by == "append":
        firsts, times = batch.appends or ([placed.offset], [ticks])
        return max(int(firsts[int(np.searchsorted(times, ticks))]), head.begin)
    reached_at = int(running_time(before, batch.data.column(0)).searchsorted(ticks))
    if reached_at == batch.data.num_rows:
        # Reached by rows before it that were trimmed or compacted away.
        return max(placed.offset, head.begin)
    return max(int(batch.offsets[reached_at]), head.begin)


def first_reaching(shelf: Shelf, topic: TopicRow, partition: int, begin: int, end: int, time: int) -> int:
    """An offset before which no row has this time: running times never decrease along a partition."""
    low, high = begin, end
    while low < high:
        placed = shelf.entry(topic, partition, (low + high) // 2)
        if placed is None:
            break
        if placed.entry.running_time >= time:
            high = placed.offset
        else:
            low = placed.next_offset
    return low
