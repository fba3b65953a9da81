"""The facts of a topic on their way from a server: values of the topic's own types go as Arrow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import polars as pl
import pyarrow as pa

from mamba_stream.core.alterations import history
from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.schemas import polars_schema, schema_bytes, schema_from_bytes
from mamba_stream.log.description import PartitionFacts, TopicDescription, time_of
from mamba_stream.log.intake import ticks_of
from mamba_stream.log.remote.protocol import Description

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def packed(facts: TopicDescription) -> Description:
    """The facts as they travel."""
    times = None
    if facts.time is not None and facts.last_append is not None and facts.batches:
        times = _values(facts.schema, [facts.time, facts.time], [facts.first_time, facts.last_time])
    skew = None
    if facts.key_skew is not None:
        share, key = facts.key_skew
        skew = (share, _values(facts.schema, list(facts.key), list(key) if len(facts.key) > 1 else [key]))
    return Description(
        name=facts.name,
        partitions=facts.partitions,
        key=facts.key,
        time=facts.time,
        compression=facts.compression,
        ended=facts.ended,
        rows=facts.rows,
        size=facts.bytes,
        batches=facts.batches,
        last_append=None if facts.last_append is None else facts.last_append.timestamp(),
        times=times,
        disorder={quantile: delta.total_seconds() for quantile, delta in facts.disorder.items()},
        skew=skew,
        sampled=facts.sampled,
        columns=schema_bytes(facts.schema),
        settings=facts.settings,
        schemas=[(_micros(version.since), schema_bytes(version.schema)) for version in facts.schemas],
        parts={p: (part.rows, part.bytes, part.batches) for p, part in facts.by_partition.items()},
    )


def unpacked(told: Description) -> TopicDescription:
    """The facts as they were."""
    first, last = (None, None) if told.times is None else _times(told.times)
    skew = None
    if told.skew is not None:
        key = _row(told.skew[1])
        skew = (told.skew[0], key if len(told.key) > 1 else key[0])
    return TopicDescription(
        name=told.name,
        schema=schema_from_bytes(told.columns),
        partitions=told.partitions,
        key=told.key,
        time=told.time,
        compression=told.compression,
        ended=told.ended,
        rows=told.rows,
        bytes=told.size,
        batches=told.batches,
        last_append=None if told.last_append is None else datetime.fromtimestamp(told.last_append, UTC),
        first_time=first,
        last_time=last,
        disorder={quantile: timedelta(seconds=seconds) for quantile, seconds in told.disorder.items()},
        key_skew=skew,
        sampled=told.sampled,
        settings=told.settings,
        schemas=history((since, schema_from_bytes(columns)) for since, columns in told.schemas),
        # An earlier server tells nothing of them.
        by_partition={p: PartitionFacts(*part) for p, part in told.parts.items()},
    )


def _micros(when: datetime) -> int:
    return (when - _EPOCH) // timedelta(microseconds=1)


def _values(schema: pa.Schema, columns: list[str], values: list[Any]) -> bytes:
    types = polars_schema(schema)
    named = enumerate(zip(columns, values, strict=True))
    row = pl.DataFrame([pl.Series(str(i), [value], dtype=types[name]) for i, (name, value) in named])
    table = row.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _row(data: bytes) -> tuple[Any, ...]:
    return frame_from_batch(_batch(data)).row(0)


def _times(data: bytes) -> list[Any]:
    columns = _batch(data).columns
    return [
        None if column.null_count else time_of(int(ticks_of(column)[0]), column.type) for column in columns
    ]


def _batch(data: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as stream:
        return stream.read_next_batch()
