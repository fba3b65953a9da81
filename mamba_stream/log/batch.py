"""What a reader gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Rows of one partition that lie together.

    Attributes:
        topic: The topic's name.
        partition: The partition's number, from 0.
        offset: The offset of the first row.
        next_offset: Where to read on.
        data: The rows; their buffers are the file's own bytes, unless the topic is compressed or the batch small.
        append_time: When they were appended, in microseconds since the epoch.
        kept: The offset of each row, where a predicate kept only some of those that lie together.
    """

    topic: str
    partition: int
    offset: int
    next_offset: int
    data: pa.RecordBatch
    append_time: int
    kept: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None

    @property
    def offsets(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The offset of every row, as int64."""
        if self.kept is not None:
            return self.kept
        return np.arange(self.offset, self.offset + self.data.num_rows, dtype=np.int64)

    def head(self, rows: int) -> LogBatch:
        """The first so many rows."""
        if rows >= self.data.num_rows:
            return self
        following = int(self.offsets[rows])
        kept = None if self.kept is None else self.kept[:rows]
        return replace(self, next_offset=following, data=self.data.slice(0, rows), kept=kept)
