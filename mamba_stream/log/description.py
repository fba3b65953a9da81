"""What is in a topic: facts from the index, and a look at its recent rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa

from mamba_stream.core.alterations import SchemaVersion, history
from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.changes import TopicSettings
from mamba_stream.core.durations import ticks_per_day
from mamba_stream.log.intake import running_time, ticks_of
from mamba_stream.log.rows import NO_TIME, Head, TopicRow

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

_SAMPLED_ROWS = 1 << 20
_QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
_EPOCH = date(1970, 1, 1)
_FIRST_DAY, _LAST_DAY = (date.min - _EPOCH).days, (date.max - _EPOCH).days
"""Of Python's times; in some zones the first and the last of them are not whole."""


@dataclass(frozen=True)
class PartitionFacts:
    """What is in a partition.

    Attributes:
        rows: Rows that can be read.
        bytes: What they take on disk.
        batches: In how many batches they lie.
    """

    rows: int
    bytes: int
    batches: int


@dataclass(frozen=True)
class TopicDescription:
    """The facts of a topic.

    Attributes:
        name: Its name.
        schema: Its columns.
        partitions: ``{partition: (begin, end)}``.
        key: The columns that decide the partition.
        time: The time column.
        compression: How batches are compressed.
        ended: Whether it is closed to appends.
        rows: Rows that can be read.
        bytes: What they take on disk.
        batches: In how many batches they lie.
        last_append: When rows were last appended.
        first_time: The least time of any row; where Python has no such time, the number of ticks of its column.
        last_time: The greatest time of any row, likewise.
        disorder: ``{quantile: timedelta}``: how far rows lie behind the greatest time before them in
            their partition. A lateness of the 0.99 quantile keeps 99% of the rows.
        key_skew: The greatest share of rows that one key has, and that key.
        sampled: How many recent rows disorder and skew were taken from.
        settings: How it is kept; times are in microseconds.
        schemas: The schemas that it had, and last the one that it has.
        by_partition: Rows, bytes and batches of each partition; a server of an earlier version tells nothing of them.
    """

    name: str
    schema: pa.Schema
    partitions: dict[int, tuple[int, int]]
    key: tuple[str, ...]
    time: str | None
    compression: str
    ended: bool
    rows: int
    bytes: int
    batches: int
    last_append: datetime | None
    first_time: Any
    last_time: Any
    disorder: dict[float, timedelta]
    key_skew: tuple[float, Any] | None
    sampled: int
    settings: TopicSettings
    schemas: tuple[SchemaVersion, ...]
    by_partition: dict[int, PartitionFacts]


def describe(store: Store, topic: TopicRow, schema: pa.Schema) -> TopicDescription:
    """The facts of a topic as they are now."""
    heads = store.shelf.heads(topic)
    appended = max(head.append_time for head in heads.values())
    behind, keys, sampled = _sample(store, topic, schema, heads)
    first, last = _time_range(store, topic, schema, heads)
    parts = {
        p: PartitionFacts(min(head.end - head.begin, head.rows), head.size, head.entries)
        for p, head in heads.items()
    }
    return TopicDescription(
        name=topic.name,
        schema=schema,
        partitions={p: (head.begin, head.end) for p, head in heads.items()},
        key=topic.key,
        time=topic.time,
        compression=topic.compression,
        ended=heads[0].ended,
        rows=sum(part.rows for part in parts.values()),
        bytes=sum(part.bytes for part in parts.values()),
        batches=sum(part.batches for part in parts.values()),
        last_append=datetime.fromtimestamp(appended / 1e6, UTC) if appended else None,
        first_time=first,
        last_time=last,
        disorder=_disorder(behind, topic, schema),
        key_skew=_skew(keys, topic),
        sampled=sampled,
        settings=topic.settings,
        schemas=history((since, store.schema(number)) for number, since in topic.versions),
        by_partition=parts,
    )


def _sample(
    store: Store, topic: TopicRow, schema: pa.Schema, heads: dict[int, Head]
) -> tuple[list[np.ndarray[Any, Any]], list[pl.DataFrame], int]:
    """How far rows lie behind, and the keys, of the last rows of each partition."""
    names = [*([topic.time] if topic.time else []), *topic.key]
    wanted = [schema.get_field_index(name) for name in dict.fromkeys(names)]
    if not wanted:
        return [], [], 0
    each = max(1, _SAMPLED_ROWS // len(heads))
    behind, keys, sampled = [], [], 0
    for partition, head in heads.items():
        start = max(head.begin, head.end - each)
        before = NO_TIME
        while start < head.end:
            entries = store.shelf.entries(topic, partition, start, 256)
            if not entries:
                break
            for placed in entries:
                if placed.entry.lost:
                    start = placed.next_offset
                    continue
                found = store.shelf.batch(topic, partition, placed, wanted)
                batch = found.between(head.begin, head.end).data
                sampled += batch.num_rows
                if topic.time:
                    column = batch.column(topic.time)
                    running = running_time(before, column)
                    valid = column.is_valid().to_numpy(zero_copy_only=False)
                    # Never negative, and up to what an int64 does not hold.
                    behind.append((running - ticks_of(column))[valid].view(np.uint64))
                    before = int(running[-1]) if len(running) else before
                if topic.key:
                    keys.append(frame_from_batch(batch.select(list(topic.key))))
                start = placed.next_offset
    return behind, keys, sampled


def _disorder(
    behind: list[np.ndarray[Any, Any]], topic: TopicRow, schema: pa.Schema
) -> dict[float, timedelta]:
    if not behind or not sum(map(len, behind)):
        return {}
    per_day = ticks_per_day(schema.field(topic.time).type)
    values = np.quantile(np.concatenate(behind), _QUANTILES, method="higher")
    return {
        q: timedelta(days=min(float(value) / per_day, timedelta.max.days))
        for q, value in zip(_QUANTILES, values, strict=True)
    }


def _skew(keys: list[pl.DataFrame], topic: TopicRow) -> tuple[float, Any] | None:
    if not keys:
        return None
    every = pl.concat(keys)
    if not every.height:
        return None
    top = (
        every.group_by(topic.key)
        .len("__rows")
        .sort("__rows", *topic.key, descending=[True, *(False for _ in topic.key)])
        .row(0)
    )
    key = top[:-1] if len(topic.key) > 1 else top[0]
    return top[-1] / every.height, key


def _time_range(store: Store, topic: TopicRow, schema: pa.Schema, heads: dict[int, Head]) -> tuple[Any, Any]:
    if topic.time is None:
        return None, None
    column = schema.get_field_index(topic.time)
    ticks: list[int] = []
    for partition, head in heads.items():
        position = head.begin
        while position < head.end:
            entries = store.shelf.entries(topic, partition, position, 4096)
            if not entries:
                break
            for placed in entries:
                position = placed.next_offset
                if placed.offset < head.begin and placed.entry.has_time:
                    # Its first rows were trimmed away, and the index knows of all of them.
                    batch = store.shelf.batch(topic, partition, placed, [column]).between(
                        head.begin, position
                    )
                    times = ticks_of(batch.data.column(0).drop_null())
                    ticks += [int(times.min()), int(times.max())] if len(times) else []
                elif placed.entry.has_time:
                    ticks += placed.entry.min_time, placed.entry.max_time
            ticks = [min(ticks), max(ticks)] if ticks else []
    kind = schema.field(column).type
    return (time_of(ticks[0], kind), time_of(ticks[-1], kind)) if ticks else (None, None)


def time_of(ticks: int, kind: pa.DataType) -> Any:
    """A time of a column of this type; as it is, in ticks, where Python has no such time.

    >>> time_of(5, pa.date32()), time_of(1 << 62, pa.timestamp("us"))
    (datetime.date(1970, 1, 6), 4611686018427387904)
    """
    if not _FIRST_DAY < ticks // ticks_per_day(kind) < _LAST_DAY:
        return ticks
    plain = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    return pl.Series(pa.array([ticks], plain).view(kind))[0]
