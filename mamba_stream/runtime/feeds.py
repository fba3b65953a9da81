"""Partitions to read from: those of a topic, and the one of a frame, under the same few methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.batches import frame_from_batch, joined
from mamba_stream.errors import SchemaMismatch
from mamba_stream.log import LogBatch, Topic


class Portion(msgspec.Struct, frozen=True):
    """Rows of one partition in the order of their offsets.

    Attributes:
        frame: The rows, in chunks as they lay.
        offset: The offset of the first row.
        next_offset: Where to read on.
        batches: The batches of the log that they lay in; none for the rows of a frame.
    """

    frame: pl.DataFrame
    offset: int
    next_offset: int
    batches: Sequence[LogBatch] = ()

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """The offset of each row."""
        if not self.batches:
            return np.arange(self.offset, self.next_offset, dtype=np.int64)
        return np.concatenate([batch.offsets for batch in self.batches])

    @property
    def append_times(self) -> npt.NDArray[np.int64] | None:
        """When each row was appended, in microseconds; ``None`` for the rows of a frame."""
        if not self.batches:
            return None
        return np.concatenate([b.append_times for b in self.batches])


class Feed(Protocol):
    """One partition, read from where it was left."""

    partition: int
    name: str
    """What a connector calls it; nothing, for others."""

    @property
    def place(self) -> Any:
        """Where a connector goes on, as it understands it."""
        ...

    @property
    def position(self) -> int:
        """The next offset to read."""
        ...

    @property
    def done(self) -> bool:
        """Whether this run reads no further."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the source itself is over: no row will ever follow."""
        ...

    def read(self, max_rows: int, max_bytes: int) -> Portion | None:
        """The rows that come next; ``None`` where there are none now. Never waits."""
        ...


class FrameFeed:
    """The rows of a frame; an offset is a row's number."""

    partition = 0
    name = ""
    place = None

    def __init__(self, frame: pl.DataFrame, position: int, stop: int | None = None) -> None:
        self._frame = frame
        self._position = position
        self._stop = frame.height if stop is None else stop

    @property
    def position(self) -> int:
        return self._position

    @property
    def done(self) -> bool:
        return self._position >= self._stop

    @property
    def ended(self) -> bool:
        return self._position >= self._frame.height

    def read(self, max_rows: int, max_bytes: int) -> Portion | None:
        first = self._position
        rows = min(max_rows, self._stop - first)
        if rows <= 0:
            return None
        self._position += rows
        return Portion(self._frame.slice(first, rows), first, self._position)


class TopicFeed:
    """A partition of a topic."""

    name = ""
    place = None

    def __init__(
        self,
        topic: Topic,
        partition: int,
        position: int,
        columns: Sequence[str],
        *,
        stop: int | None = None,
        bounded: bool = False,
    ) -> None:
        """A feed from ``position`` on.

        Args:
            topic: The topic.
            partition: The partition's number.
            position: The first offset to read.
            columns: The columns to read.
            stop: Where this run stops; ``None`` goes on to the topic's end, or for ever.
            bounded: Takes ``stop`` for the end of the source.
        """
        self.partition = partition
        self._topic = topic
        end = None if stop is None else {partition: max(stop, position)}
        self._reader = topic.reader(
            start={partition: position}, partitions=[partition], columns=columns, end=end
        )
        self._stop = stop
        self._bounded = bounded
        self._position = position
        self._ended = False
        self.notice_end()

    @property
    def topic(self) -> Topic:
        """The topic."""
        return self._topic

    @property
    def position(self) -> int:
        return self._position

    @property
    def done(self) -> bool:
        return self._ended or (self._stop is not None and self._position >= self._stop)

    @property
    def ended(self) -> bool:
        return self._ended or (self._bounded and self.done)

    def read(self, max_rows: int, max_bytes: int) -> Portion | None:
        if self.done:
            return None
        try:
            batches = self._reader.poll(max_rows=max_rows, max_bytes=max_bytes)
        except SchemaMismatch as error:
            raise SchemaMismatch(
                f"{error}. A job goes on with the columns that its state is of: with state='upgrade' the steps that "
                "remember values of this one begin anew with the columns of now, and with state='new' all do"
            ) from None
        # Offsets may have gaps: where the next row is only the reader knows.
        self._position = self._reader.positions[self.partition]
        if not batches or self.done:
            self.notice_end()
        if not batches:
            return None
        frames = [frame_from_batch(batch) for batch in joined([batch.data for batch in batches])]
        frame = frames[0] if len(frames) == 1 else pl.concat(frames)
        return Portion(frame, batches[0].offset, self._position, batches)

    def notice_end(self) -> None:
        """Looks whether the topic was ended and is read to its end."""
        if self._stop is None:
            self._ended = self._reader.exhausted
        elif self.done and not self._ended and self._topic.ended:
            # In this order: what was appended before the topic was ended is seen by the second look.
            self._ended = self._position >= self._topic.heads([self.partition])[self.partition].end
