"""Reading a topic from a server: the batches of one stream after the other, each from where the last one ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import flight

from mamba_stream.errors import MambaStreamError
from mamba_stream.log.asked import check_bounds
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.positions import Positioned
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import naming
from mamba_stream.log.remote.protocol import Piece, Read, decode, encode
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.skipping import NOTHING, Skipped
from mamba_stream.log.storage import PartitionHead

WINDOW_BYTES: Final = 64 << 20
"""A stream gives about so much before the next one is asked for."""


class Pieces:
    """The batches of a read and what lies beside them, over as many streams as it takes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream: flight.FlightStreamReader | None = None

    def next(self, request: Callable[[], Read]) -> tuple[Piece, pa.RecordBatch] | None:
        """The next batch; ``None`` where a stream ends. The request is asked for when a stream begins.

        Raises:
            Lost: The connection failed; the next stream begins where this one came to.
        """
        self._connection.check()
        try:
            if self._stream is None:
                self._stream = self._connection.read(encode(request()))
            chunk = self._stream.read_chunk()
        except StopIteration:
            self._stream = None
            return None
        except pa.ArrowException as error:
            self._stream = None
            raise self._connection.failed(error) from error
        return decode(chunk.app_metadata, Piece), chunk.data

    @property
    def open(self) -> bool:
        """Whether a stream is under way."""
        return self._stream is not None

    def close(self) -> None:
        """Ends the stream, if there is one."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


class RemoteReader(Positioned):
    """Reads partitions of a server's topic from given offsets on, in the order of offsets within each."""

    def __init__(
        self,
        connection: Connection,
        topic: TopicRow,
        positions: Mapping[int, int],
        columns: list[str] | None,
        ends: Mapping[int, int],
        between: tuple[int | None, int | None],
        heads: Callable[[TopicRow, list[int]], Mapping[int, PartitionHead]],
        opened: Callable[[], object],
        predicate: bytes | None = None,
        *,
        skip_corrupt: bool = False,
    ) -> None:
        super().__init__(topic, positions, ends)
        self._skip_corrupt = skip_corrupt
        self._skipped = NOTHING
        self._connection = connection
        self._columns = columns
        self._between = between
        self._predicate = predicate
        self._heads_of = heads
        self._opened = opened
        self._pieces = Pieces(connection)
        self._turn = deque(sorted(self._positions))
        # What came of each partition and was not handed out, and in how many pieces that was.
        self._ready: dict[int, deque[LogBatch]] = {partition: deque() for partition in self._turn}
        self._held = dict.fromkeys(self._turn, 0)
        # How far the stream under way has come, which is further than what was handed out.
        self._ahead = dict(positions)

    @property
    def skipped(self) -> Skipped:
        """What was damaged or lost, and passed over, as far as the server has told."""
        return self._skipped

    def poll(self, *, max_rows: int = 65_536, max_bytes: int | None = None) -> list[LogBatch]:
        """The batches that come next, around ``max_rows`` rows together; none at the end.

        Raises:
            OffsetTrimmed: The rows to read next were trimmed away.
            DataCorrupted: Stored bytes are damaged; ``seek`` behind them to go on.
            ServerUnavailable: The server went away, and did not come back.
            InvalidInput: A bound is not a number.
        """
        check_bounds("poll", max_rows=max_rows, max_bytes=max_bytes)
        self._opened()
        batches: list[LogBatch] = []
        room, space = max_rows, max_bytes if max_bytes is not None else 1 << 62
        in_vain = 0
        try:
            # The partitions take turns, until none of them has anything.
            while room > 0 and space > 0 and (in_vain < len(self._turn) or any(self._ready.values())):
                partition = self._turn[0]
                in_vain += 1
                while room > 0 and space > 0 and (batch := self._next(partition, bool(batches))) is not None:
                    in_vain = 0
                    self._positions[partition] = batch.next_offset
                    room -= batch.data.num_rows
                    if max_bytes is not None:
                        space -= batch.data.nbytes
                    if batch.data.num_rows:
                        batches.append(batch)
                self._turn.rotate(-1)
        except MambaStreamError:
            if not batches:
                raise
            # What was read before is not lost: the next poll meets the error again.
        return batches

    def close(self) -> None:
        """Lets go of what was read ahead."""
        self._pieces.close()
        for partition, ready in self._ready.items():
            ready.clear()
            self._held[partition] = 0
        self._ahead = dict(self._positions)

    def _next(self, partition: int, gave: bool) -> LogBatch | None:
        """The partition's next batch, if there is one without reading far into what is the others'."""
        ready = self._ready[partition]
        if not ready and sum(self._held.values()) < len(self._turn):
            self._take_in(gave)
        if not ready:
            return None
        batch = ready.popleft()
        if not ready:
            self._held[partition] = 0
        return batch

    def _take_in(self, gave: bool) -> None:
        """Takes the next piece in; where a stream ends a new one is asked for, unless the last one ``gave`` some."""
        while True:
            began = self._pieces.open
            if not began and all(at >= self._ends.get(p, 1 << 63) for p, at in self._ahead.items()):
                # Nothing can come: that needs no call.
                return
            try:
                piece = self._connection.again(self._piece)
            except MambaStreamError:
                self.close()
                raise
            if piece:
                self._ready[piece[0].partition].extend(piece)
                self._held[piece[0].partition] += 1
                self._ahead[piece[0].partition] = piece[-1].next_offset
            if piece or gave or not began:
                return

    def _piece(self) -> list[LogBatch] | None:
        with naming(self._topic):
            found = self._pieces.next(self._request)
        if found is None:
            return None
        if found[0].skipped is not None:
            self._skipped += Skipped(*found[0].skipped)
        partition = found[0].partition
        # What only says how far was looked is nothing where that is not further.
        return [
            batch
            for batch in cut(self._topic.name, *found)
            if batch.data.num_rows or batch.next_offset > self._ahead[partition]
        ]

    def _request(self) -> Read:
        return Read(
            topic=self._topic.id,
            start=self._ahead,
            ends=self._ends,
            columns=self._columns,
            most_bytes=WINDOW_BYTES,
            low=self._between[0],
            high=self._between[1],
            predicate=self._predicate,
            offsets=True,
            schema=self._topic.schema,
            skip_corrupt=self._skip_corrupt,
        )

    def _forget(self, partition: int) -> None:
        # All partitions come by one stream.
        self.close()

    def _heads(self) -> Mapping[int, PartitionHead]:
        return self._heads_of(self._topic, sorted(self._positions))


def cut(topic: str, piece: Piece, data: pa.RecordBatch) -> Iterator[LogBatch]:
    """The rows as they were appended."""
    at = 0
    offsets = np.frombuffer(piece.offsets, "<i8").astype(np.int64) if piece.offsets else None
    for run in piece.runs:
        rows = data if run.rows == data.num_rows else data.slice(at, run.rows)
        kept = None if offsets is None else offsets[at : at + run.rows]
        at += run.rows
        yield LogBatch(topic, piece.partition, run.offset, run.next_offset, rows, run.append_time, kept)
