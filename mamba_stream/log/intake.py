"""From what a user passes to encoded batches on their way to partitions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mamba_stream.core.batches import to_batches
from mamba_stream.core.keys import hash_keys, partitions_of, split_by_partition
from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.log import format
from mamba_stream.log.asked import offsets_of, partition_of
from mamba_stream.log.committer import Batch
from mamba_stream.log.gathering import Gathering
from mamba_stream.log.rows import NO_TIME

if TYPE_CHECKING:
    from mamba_stream.log.rows import TopicRow

MAX_ROWS = 1 << 18
MAX_BYTES = 64 << 20
"""A batch larger than either is cut: readers skip and verify whole batches."""
_FEW_ROWS, _FEW_BYTES = 256, 16 << 10
"""Up to here encoding costs less than handing the interpreter's lock to another thread and getting it back."""
_OVERHEAD = 320
"""About what a message takes beside its rows."""

_NO_TIMES = (0, -1)
_FEW = 64
"""Up to here Python finds the least and the greatest of them before NumPy has begun."""
_SEVERAL = 8
"""From so many parts on, their times are found together."""


class Intake:
    """Prepares rows for one topic, in its schema, or in an earlier one of it whose columns they have.

    Args:
        topic: The topic.
        layout: What messages of its schema look like.
        turn: The partition that is next where there is no key.
        earlier: Those of its earlier schemas, the latest first.
    """

    def __init__(
        self, topic: TopicRow, layout: format.Layout, turn: int, earlier: Sequence[Intake] = ()
    ) -> None:
        self._topic = topic
        self._earlier = earlier
        self._layout = layout
        self._time = None if topic.time is None else layout.schema.get_field_index(topic.time)
        self._turn = turn
        self._to = f"topic {topic.name!r}"

    def batches(
        self,
        data: Any,
        partition: int | None = None,
        expect: Mapping[int, int] | None = None,
        *,
        at_once: bool = False,
        own: bool = False,
    ) -> list[Batch]:
        """The data as batches, in order; raises before anything is written.

        They are encoded, unless they are small and are to be committed ``at_once``: before the caller may change
        what it passed. Where rows are ``own``, they are taken to be sound, and batches may point into them.
        """
        try:
            return self._batches(data, partition, expect, at_once=at_once, own=own)
        except SchemaMismatch:
            # Who writes rows need not know that the topic was altered.
            for intake in self._earlier:
                with contextlib.suppress(SchemaMismatch):
                    return intake._batches(data, partition, expect, at_once=at_once, own=own)
            raise

    def _batches(
        self,
        data: Any,
        partition: int | None,
        expect: Mapping[int, int] | None,
        *,
        at_once: bool,
        own: bool,
    ) -> list[Batch]:
        if partition is not None:
            partition = partition_of(self._topic, partition)
        expected = offsets_of(self._topic, "expect", expect)
        prepared = []
        for batch in to_batches(data, self._layout.schema, max_rows=MAX_ROWS, to=self._to, trusted=own):
            parts = self._route(batch, partition)
            for (number, part), span in zip(parts, self._spans(parts), strict=True):
                for rows, message in self._messages(part, at_once=at_once, own=own):
                    times = self._times(rows) if span is None or rows is not part else span
                    # Only the first batch of a partition meets the end that the caller saw.
                    ends = expected.pop(number, None)
                    prepared.append(self._batch(number, message, rows.num_rows, times, ends))
        if expected:
            raise InvalidInput(
                f"topic {self._topic.name!r}: expect= names partition {min(expected)}, to which none of these "
                "rows go; name only partitions that are appended to"
            )
        return prepared

    def together(self, batches: Sequence[pa.RecordBatch], partition: int) -> list[Batch]:
        """The rows of several own batches of one schema, as if they were one."""
        gathering, message = self._gathering, None
        if gathering is not None and batches[0].schema.equals(self._layout.schema, check_metadata=True):
            message = gathering.message(batches)
        if message is None or message.length > MAX_BYTES:
            return self.batches(pa.concat_batches(batches), partition, own=True)
        partition = partition_of(self._topic, partition)
        for batch in batches:
            self._check_place(batch, partition)
        times = [found for batch in batches if (found := self._times(batch)) != _NO_TIMES]
        span = (min(low for low, _ in times), max(high for _, high in times)) if times else _NO_TIMES
        return [self._batch(partition, message, sum(batch.num_rows for batch in batches), span)]

    def _batch(
        self,
        partition: int,
        message: format.Message | format.Rows,
        rows: int,
        times: tuple[int, int],
        expect: int | None = None,
    ) -> Batch:
        low, high = times
        return Batch(
            topic=self._topic.id,
            partition=partition,
            message=message,
            rows=rows,
            min_time=low,
            max_time=high,
            schema=self._topic.schema,
            compressed=self._topic.compression != "none",
            internal=self._topic.internal,
            expect=expect,
        )

    @cached_property
    def _gathering(self) -> Gathering | None:
        return Gathering.of(self._layout) if self._topic.compression == "none" else None

    def _route(self, batch: pa.RecordBatch, partition: int | None) -> list[tuple[int, pa.RecordBatch]]:
        if partition is not None:
            self._check_place(batch, partition)
            return [(partition, batch)]
        if self._topic.partitions == 1:
            return [(0, batch)]
        if self._topic.key:
            return split_by_partition(batch, self._topic.key, self._topic.partitions)
        self._turn += 1
        return [(self._turn % self._topic.partitions, batch)]

    def _check_place(self, batch: pa.RecordBatch, partition: int) -> None:
        """Refuses rows that do not belong to a partition, where the topic's key is strict."""
        topic = self._topic
        if not topic.strict_key or topic.partitions == 1 or not batch.num_rows:
            return
        found = partitions_of(hash_keys([batch.column(name) for name in topic.key]), topic.partitions)
        wrong = np.flatnonzero(found != partition)
        if len(wrong):
            row = int(wrong[0])
            key = ", ".join(f"{name}={batch.column(name)[row].as_py()!r:.80}" for name in topic.key)
            raise InvalidInput(
                f"{self._to}: a row with {key} belongs to "
                f"partition {found[row]}, not {partition}, and the topic was created with strict_key=True: leave out "
                "partition=, and rows go where they belong"
            )

    def _messages(
        self, batch: pa.RecordBatch, *, at_once: bool, own: bool
    ) -> Iterator[tuple[pa.RecordBatch, format.Message | format.Rows]]:
        """The rows as messages: one, unless they are too many bytes."""
        # Not nbytes, which lets go of the lock that is not to be handed over.
        few = min(_FEW_BYTES, MAX_BYTES)
        if at_once and batch.num_rows <= _FEW_ROWS and (size := batch.get_total_buffer_size()) <= few:
            yield batch, format.Rows(batch, self._layout, self._topic.compression, size + _OVERHEAD)
            return
        gathering = self._gathering if own else None
        message = None if gathering is None else gathering.message([batch])
        # Rows that are encoded only to see that they are too many are copied again whenever they are halved.
        if message is None and not self._is_plainly_large(batch):
            message = format.encode(batch, self._layout, self._topic.compression)
        if message is not None and message.length <= MAX_BYTES:
            yield batch, message
        elif message is None or batch.num_rows > 1:
            half = batch.num_rows // 2
            yield from self._messages(batch.slice(0, half), at_once=False, own=own)
            yield from self._messages(batch.slice(half), at_once=False, own=own)
        elif message.length <= format.MAX_MESSAGE_BYTES:
            yield batch, message
        else:
            raise InvalidInput(
                f"topic {self._topic.name!r}: a row has {message.length} bytes, more than "
                f"{format.MAX_MESSAGE_BYTES}: split it, or store it elsewhere and append its address"
            )

    def _is_plainly_large(self, batch: pa.RecordBatch) -> bool:
        """Whether the rows are too many bytes for a message, as far as that can be told without encoding them."""
        return (
            batch.num_rows > 1
            and self._topic.compression == "none"
            and batch.get_total_buffer_size() > MAX_BYTES
            and batch.nbytes > MAX_BYTES
        )

    def _spans(
        self, parts: Sequence[tuple[int, pa.RecordBatch]]
    ) -> Sequence[tuple[int, int]] | Sequence[None]:
        """The times of parts that were routed by their key, all at once; ``None`` for each that is to be asked."""
        if self._time is None or len(parts) < _SEVERAL:
            return [None] * len(parts)
        columns = [part.column(self._time) for _, part in parts]
        if any(column.null_count for column in columns):
            return [None] * len(parts)
        # They lie one behind the other in one batch.
        first = columns[0].offset
        starts = [column.offset - first for column in columns]
        ticks = ticks_of(columns[0], starts[-1] + len(columns[-1]))
        lows, highs = (extreme.reduceat(ticks, starts).tolist() for extreme in (np.minimum, np.maximum))
        return list(zip(lows, highs, strict=True))

    def _times(self, batch: pa.RecordBatch) -> tuple[int, int]:
        if self._time is None:
            return _NO_TIMES
        column = batch.column(self._time)
        ticks = ticks_of(column.drop_null() if column.null_count else column)
        if not len(ticks):
            return _NO_TIMES
        if len(ticks) <= _FEW:
            few = ticks.tolist()
            return min(few), max(few)
        return int(ticks.min()), int(ticks.max())


def ticks_of(column: pa.Array, rows: int | None = None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A time column in its own ticks; what stands where it is null means nothing. Zero copy for timestamps.

    Args:
        column: The column.
        rows: So many from its first on, where it is part of a longer one.
    """
    width = np.int32 if pa.types.is_date32(column.type) else np.int64
    values = np.frombuffer(column.buffers()[1] or b"", dtype=width)
    end = column.offset + (len(column) if rows is None else rows)
    return values[column.offset : end].astype(np.int64, copy=False)


def running_time(before: int, column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """After each row, the greatest time so far; nulls do not count. ``before`` is that of earlier rows."""
    values = ticks_of(column).copy()
    if column.null_count:
        values[~column.is_valid().to_numpy(zero_copy_only=False)] = NO_TIME
    if len(values):
        values[0] = max(before, int(values[0]))
    return np.maximum.accumulate(values)
