"""A server's topic as a Polars lazy frame: projections, and what of filters can travel, reach the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import polars as pl
import pyarrow as pa

from mamba_stream.core.predicates import encode, split
from mamba_stream.core.schemas import polars_schema
from mamba_stream.errors import OffsetTrimmed
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import naming
from mamba_stream.log.remote.protocol import Read
from mamba_stream.log.remote.reader import WINDOW_BYTES, Pieces
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.scanning import lazy_frame
from mamba_stream.log.storage import PartitionHead

_Heads = Callable[[], Mapping[int, PartitionHead]]


def scan(
    connection: Connection,
    topic: TopicRow,
    schema: pa.Schema,
    heads: _Heads,
) -> pl.LazyFrame:
    """The topic as a lazy frame; its ends are taken when it is collected."""
    types = polars_schema(schema)

    def batches(
        names: list[str] | None, low: int | None, high: int | None, predicate: pl.Expr | None
    ) -> tuple[Iterator[pa.RecordBatch], pl.Expr | None]:
        # What of the filter can travel is asked there; where nothing can, all rows come.
        asked, left = (None, None) if predicate is None else split(predicate, types)
        wanted = Read(
            topic=topic.id,
            columns=names,
            low=low,
            high=high,
            predicate=None if asked is None else encode(asked),
            most_bytes=WINDOW_BYTES,
            progress=True,
            schema=topic.schema,
        )
        return _rows(connection, topic, wanted, heads), left

    return lazy_frame(topic, schema, batches)


def _rows(connection: Connection, topic: TopicRow, wanted: Read, heads: _Heads) -> Iterator[pa.RecordBatch]:
    """The rows as they are now, one partition after the other, without those that are trimmed away meanwhile."""
    for partition, head in heads().items():
        yield from _partition(connection, topic, wanted, partition, head, heads)


def _partition(
    connection: Connection,
    topic: TopicRow,
    wanted: Read,
    partition: int,
    head: PartitionHead,
    heads: _Heads,
) -> Iterator[pa.RecordBatch]:
    """The rows between begin and end, by as many streams as it takes."""
    position = head.begin
    pieces = Pieces(connection)

    def request() -> Read:
        wanted.start, wanted.ends = {partition: position}, {partition: head.end}
        return wanted

    try:
        while position < head.end:
            try:
                with naming(topic):
                    found = connection.again(lambda: pieces.next(request))
            except OffsetTrimmed:
                position = max(position, heads()[partition].begin)
                continue
            if found is not None:
                piece, batch = found
                position = piece.runs[-1].next_offset
                if batch.num_rows:
                    yield batch
    finally:
        pieces.close()
