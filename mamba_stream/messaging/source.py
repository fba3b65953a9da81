"""A topic as parts: its rows between two offsets, or those of a run, with their key groups and times of delivery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.keys import hash_keys, key_groups
from mamba_stream.errors import OffsetTrimmed
from mamba_stream.log import Topic
from mamba_stream.log.batch import LogBatch
from mamba_stream.messaging.parts import Groups, Part
from mamba_stream.messaging.pending import Offsets, Pending
from mamba_stream.messaging.schema import is_message_schema


class Source:
    """Reads a topic for a group that shares it.

    Attributes:
        topic: The topic.
        messages: Whether its rows are messages; otherwise each row itself is one.
        ordered: Whether messages of a key are kept in order.
    """

    def __init__(self, topic: Topic, *, ordered: bool) -> None:
        self.topic = topic
        self.messages = is_message_schema(topic.schema)
        self.ordered = ordered and (self.messages or bool(topic.key))

    def read(self, partition: int, position: int, end: int, first: Sequence[LogBatch] = ()) -> Iterator[Part]:
        """The rows of a partition between two offsets, batch by batch; the ``first`` of them are here already."""
        for batch in first:
            yield from _parts(batch)
            position = batch.next_offset
        if position >= end:
            return
        reader = self.topic.reader(start={partition: position}, partitions=[partition], end={partition: end})
        while batches := reader.poll(max_rows=1):
            for batch in batches:
                yield from _parts(batch)

    def of(self, run: Pending) -> tuple[list[Part], int]:
        """The open rows of a run, and how many of them were trimmed away meanwhile."""
        wanted, partition = run.offsets, run.partition
        while True:
            begin, _ = self.topic.offsets()[partition]
            left = wanted[wanted >= begin]
            parts: list[Part] = []
            try:
                for part in self.read(partition, int(left[0]), run.end) if len(left) else ():
                    own = part.where(np.isin(part.offsets, left))
                    if len(own):
                        parts.append(self.grouped(own))
            except OffsetTrimmed:
                continue
            return parts, run.count - sum(map(len, parts))

    def grouped(self, part: Part) -> Part:
        """The rows with their key groups, where order is kept."""
        return replace(part, groups=self._groups(part.data)) if self.ordered else part

    def deliver_at(self, data: pa.RecordBatch) -> Offsets | None:
        """When each row may be delivered, in microseconds; ``None`` where all may at once."""
        if not self.messages:
            return None
        column = data.column("deliver_at")
        if column.null_count == data.num_rows:
            return None
        times: Offsets = pc.fill_null(pc.cast(column, pa.int64()), 0).to_numpy(zero_copy_only=False)
        return times

    def _groups(self, data: pa.RecordBatch) -> Groups | None:
        """Key groups; ``None`` where not one row has a key."""
        columns = [data.column("key")] if self.messages else [data.column(name) for name in self.topic.key]
        if self.messages and columns[0].null_count == data.num_rows:
            return None
        groups = key_groups(hash_keys(columns)).astype(np.int16)
        if self.messages and columns[0].null_count:
            groups[columns[0].is_null().to_numpy(zero_copy_only=False)] = -1
        return groups


def _parts(batch: LogBatch) -> Iterator[Part]:
    for one in batch.appended():
        yield Part(one.data, one.offsets, one.append_time)
