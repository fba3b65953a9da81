"""From what a user passes to rows on their way to a server, which sends each to its partition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from mamba_stream.core.batches import to_batches
from mamba_stream.errors import SchemaMismatch
from mamba_stream.log.asked import offsets_of, partition_of
from mamba_stream.log.rows import TopicRow

MOST_ROWS: Final = 1 << 18
_PLAIN: Final = pa.ipc.IpcWriteOptions()


class RowsOut(msgspec.Struct, frozen=True):
    """Rows of one topic, encoded: an uncompressed Arrow IPC stream."""

    topic: int
    partition: int | None
    expect: dict[int, int]
    data: pa.Buffer


class RemoteIntake:
    """Prepares rows for one topic of a server, in its schema, or in an earlier one of it whose columns they have.

    Args:
        topic: The topic.
        schema: Gives the columns of a schema's number.
    """

    def __init__(self, topic: TopicRow, schema: Callable[[int], pa.Schema]) -> None:
        self._topic = topic
        self._schema_of = schema
        self._schema = schema(topic.schema)
        self._to = f"topic {topic.name!r}"

    def batches(
        self,
        data: Any,
        partition: int | None = None,
        expect: Mapping[int, int] | None = None,
        *,
        at_once: bool = False,
        own: bool = False,
    ) -> list[RowsOut]:
        """The data encoded, all in one; raises before anything is sent."""
        if partition is not None:
            partition = partition_of(self._topic, partition)
        expected = offsets_of(self._topic, "expect", expect)
        schema, batches = self._fitting(data, own=own)
        if not batches and not expected:
            return []
        return [RowsOut(self._topic.id, partition, expected, encoded(batches, schema))]

    def _fitting(self, data: Any, *, own: bool) -> tuple[pa.Schema, list[pa.RecordBatch]]:
        """The latest of the topic's schemas that the data fits, and the data in it."""
        try:
            return self._schema, to_batches(data, self._schema, max_rows=MOST_ROWS, to=self._to, trusted=own)
        except SchemaMismatch:
            for number, _ in reversed(self._topic.versions):
                if number < self._topic.schema:
                    earlier = self._schema_of(number)
                    with contextlib.suppress(SchemaMismatch):
                        return earlier, to_batches(
                            data, earlier, max_rows=MOST_ROWS, to=self._to, trusted=own
                        )
            raise

    def together(self, batches: Sequence[pa.RecordBatch], partition: int) -> list[RowsOut]:
        """The rows of several own batches of one schema, as if they were one."""
        return self.batches(pa.concat_batches(batches), partition, own=True)


def encoded(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.Buffer:
    """Batches as an uncompressed Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=_PLAIN) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()
