"""From what a user passes to encoded batches on their way to partitions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from mamba_stream.core import batches as columns
from mamba_stream.core.keys import hash_keys, partitions_of, split_by_partition
from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.log import format
from mamba_stream.log.asked import offsets_of, partition_of
from mamba_stream.log.committer import Batch, Rows
from mamba_stream.log.gathering import Gathering
from mamba_stream.log.rows import NO_TIME

if TYPE_CHECKING:
    from mamba_stream.log.rows import TopicRow

MAX_ROWS = 1 << 18
MAX_BYTES = 64 << 20
"""A batch larger than either is cut: readers skip and verify whole batches."""
_FEW_ROWS, _FEW_BYTES = 256, 16 << 10
"""Up to here all that is done with rows costs less than handing the interpreter's lock to another thread and getting it
back, for which those who wait get the chance whenever Arrow lets go of it."""
_OVERHEAD = 320
"""About what a message takes beside its rows."""

_NO_TIMES = (0, -1)
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
        self._columns = columns.Intake(layout.schema, to=self._to)

    def batches(
        self,
        data: Any,
        partition: int | None = None,
        expect: Mapping[int, int] | None = None,
        *,
        at_once: bool = False,
        own: bool = False,
    ) -> list[Batch] | list[Rows]:
        """The data as batches, in order; raises before anything is written.

        They are encoded before the caller may change what it passed. A few rows that are to be committed ``at_once``
        are left to whoever commits them, once they have the topic's schema. Where rows are ``own``, they are taken to
        be sound, and batches may point into them.
        """
        try:
            return self._taken(data, partition, expect, at_once=at_once, own=own)
        except SchemaMismatch:
            # Who writes rows need not know that the topic was altered.
            for intake in self._earlier:
                with contextlib.suppress(SchemaMismatch):
                    return intake._taken(data, partition, expect, at_once=at_once, own=own)
            raise

    def _taken(
        self,
        data: Any,
        partition: int | None,
        expect: Mapping[int, int] | None,
        *,
        at_once: bool,
        own: bool,
    ) -> list[Batch] | list[Rows]:
        if partition is not None:
            partition = partition_of(self._topic, partition)
        expected = None if expect is None else offsets_of(self._topic, "expect", expect)
        if at_once and isinstance(data, pa.RecordBatch):
            later = self._later(data, partition, expected, sound=own)
            if later is not None:
                return [later]
        batches = self._columns.batches(data, max_rows=MAX_ROWS, trusted=own)
        if at_once and len(batches) == 1:
            later = self._later(batches[0], partition, expected, sound=True)
            if later is not None:
                return [later]
        return self._prepared(batches, partition, expected, own=own)

    def _later(
        self, batch: pa.RecordBatch, partition: int | None, expected: dict[int, int] | None, *, sound: bool
    ) -> Rows | None:
        """The rows for whoever commits them; ``None`` where they are too many, or do not have the topic's schema."""
        if not 0 < batch.num_rows <= _FEW_ROWS:
            return None
        # Not nbytes, which lets go of the lock that is not to be handed over.
        size = batch.get_total_buffer_size()
        if size > min(_FEW_BYTES, MAX_BYTES):
            return None
        if not batch.schema.equals(self._layout.schema, check_metadata=True):
            return None

        def made() -> list[Batch]:
            if not sound:
                columns.check_buffers(batch)
            return self._prepared([batch], partition, expected, own=False)

        return Rows(made, size + _OVERHEAD)

    def _prepared(
        self,
        batches: Sequence[pa.RecordBatch],
        partition: int | None,
        expected: dict[int, int] | None,
        *,
        own: bool,
    ) -> list[Batch]:
        prepared = []
        for batch in batches:
            parts = self._route(batch, partition)
            spans = self._spans(parts) if len(parts) >= _SEVERAL else {}
            for number, part in parts:
                # What was gathered by its partition is nobody else's.
                for rows, message in self._messages(part, own=own or part is not batch):
                    times = spans[number] if number in spans and rows is part else self._times(rows)
                    # Only the first batch of a partition meets the end that the caller saw.
                    end = expected.pop(number, None) if expected else None
                    prepared.append(self._batch(number, message, rows.num_rows, times, end))
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
            return cast("list[Batch]", self.batches(pa.concat_batches(batches), partition, own=True))
        partition = partition_of(self._topic, partition)
        for batch in batches:
            self._check_place(batch, partition)
        times = [found for batch in batches if (found := self._times(batch)) != _NO_TIMES]
        span = (min(low for low, _ in times), max(high for _, high in times)) if times else _NO_TIMES
        return [self._batch(partition, message, sum(batch.num_rows for batch in batches), span)]

    def _batch(
        self,
        partition: int,
        message: format.Message,
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

    def _messages(self, batch: pa.RecordBatch, *, own: bool) -> list[tuple[pa.RecordBatch, format.Message]]:
        """The rows as messages: one, unless they are too many bytes."""
        gathering = self._gathering if own else None
        message = None if gathering is None else gathering.message([batch])
        # Rows that are encoded only to see that they are too many are copied again whenever they are halved.
        if message is None and not self._is_plainly_large(batch):
            message = format.encode(batch, self._layout, self._topic.compression)
        if message is not None and message.length <= MAX_BYTES:
            return [(batch, message)]
        if message is None or batch.num_rows > 1:
            half = batch.num_rows // 2
            first, second = batch.slice(0, half), batch.slice(half)
            return self._messages(first, own=own) + self._messages(second, own=own)
        if message.length <= format.MAX_MESSAGE_BYTES:
            return [(batch, message)]
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

    def _spans(self, parts: Sequence[tuple[int, pa.RecordBatch]]) -> dict[int, tuple[int, int]]:
        """By partition: the times of parts that were routed by their key, all at once; of none that is to be asked."""
        if self._time is None:
            return {}
        times = [part.column(self._time) for _, part in parts]
        first = times[0].offset
        # Slices of one batch lie one behind the other; large parts are not.
        if times[1].offset == first or any(column.null_count for column in times):
            return {}
        starts = [column.offset - first for column in times]
        ticks = ticks_of(times[0], starts[-1] + len(times[-1]))
        lows, highs = (extreme.reduceat(ticks, starts).tolist() for extreme in (np.minimum, np.maximum))
        return dict(zip([number for number, _ in parts], zip(lows, highs, strict=True), strict=True))

    def _times(self, batch: pa.RecordBatch) -> tuple[int, int]:
        if self._time is None:
            return _NO_TIMES
        column = batch.column(self._time)
        ticks = ticks_of(column.drop_null() if column.null_count else column)
        if not len(ticks):
            return _NO_TIMES
        # Their places are found in a third of the time that the least and the greatest take, when there are few.
        return ticks.item(ticks.argmin()), ticks.item(ticks.argmax())


def ticks_of(column: pa.Array, rows: int | None = None) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A time column in its own ticks; what stands where it is null means nothing. Zero copy for timestamps.

    Args:
        column: The column.
        rows: So many from its first on, where it is part of a longer one.
    """
    count = len(column) if rows is None else rows
    if not count:
        return np.empty(0, np.int64)
    if pa.types.is_date32(column.type):
        return np.frombuffer(column.buffers()[1], np.int32, count, 4 * column.offset).astype(np.int64)
    return np.frombuffer(column.buffers()[1], np.int64, count, 8 * column.offset)


def running_time(before: int, column: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """After each row, the greatest time so far; nulls do not count. ``before`` is that of earlier rows."""
    values = ticks_of(column).copy()
    if column.null_count:
        values[~column.is_valid().to_numpy(zero_copy_only=False)] = NO_TIME
    if len(values):
        values[0] = max(before, int(values[0]))
    return np.maximum.accumulate(values)
