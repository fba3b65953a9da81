"""What a reader gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Rows of one partition that lie together.

    Attributes:
        topic: The topic's name.
        partition: The partition's number, from 0.
        offset: The offset from which on rows were looked for: that of the first row, or a smaller one.
        next_offset: Where to read on.
        data: The rows; their buffers are the file's own bytes, unless the topic is compressed or the batch small.
        append_time: When the last of them was appended, in microseconds since the epoch.
        kept: The offset of each row, where some of those that were there are not: left out by a predicate, or
            compacted away.
        appends: Where several appends were merged: the first offset of each, and when it was.
    """

    topic: str
    partition: int
    offset: int
    next_offset: int
    data: pa.RecordBatch
    append_time: int
    kept: Numbers | None = None
    appends: tuple[Numbers, Numbers] | None = None

    @property
    def offsets(self) -> Numbers:
        """The offset of every row, as int64."""
        if self.kept is not None:
            return self.kept
        return np.arange(self.offset, self.offset + self.data.num_rows, dtype=np.int64)

    @property
    def append_times(self) -> Numbers:
        """When every row was appended, as int64, in microseconds since the epoch."""
        if self.appends is None:
            return np.full(self.data.num_rows, self.append_time, np.int64)
        firsts, times = self.appends
        return times[np.searchsorted(firsts, self.offsets, side="right") - 1]

    def head(self, rows: int) -> LogBatch:
        """The first so many rows."""
        if rows >= self.data.num_rows:
            return self
        return self.between(self.offset, int(self.offsets[rows]))

    def between(self, first: int, following: int) -> LogBatch:
        """Its rows from one offset on and before another."""
        first, following = max(first, self.offset), min(following, self.next_offset)
        if (first, following) == (self.offset, self.next_offset):
            return self
        kept, append_time = self.kept, self.append_time
        if kept is None:
            data = self.data.slice(first - self.offset, following - first)
        else:
            start, stop = (int(at) for at in np.searchsorted(kept, [first, following]))
            data, kept = self.data.slice(start, stop - start), kept[start:stop]
        if self.appends is not None:
            firsts, times = self.appends
            append_time = int(times[np.searchsorted(firsts, following - 1, side="right") - 1])
        return replace(
            self, offset=first, next_offset=following, data=data, kept=kept, append_time=append_time
        )

    def appended(self) -> Iterator[LogBatch]:
        """Its rows as they were appended: batches that have one time each, and together cover what this one does."""
        if self.appends is None:
            yield self
            return
        firsts = self.appends[0]
        of_rows = np.searchsorted(firsts, self.offsets, side="right") - 1
        starts = firsts[np.unique(of_rows)].tolist()
        for start, following in zip([self.offset, *starts[1:]], [*starts[1:], self.next_offset], strict=True):
            part = self.between(start, following)
            # What was appended behind its rows is gone.
            time = int(part.append_times[-1]) if part.data.num_rows else part.append_time
            yield replace(part, append_time=time, appends=None)
