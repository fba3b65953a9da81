"""Between which offsets a run reads its sources: from where the job has come to, or else its start, to ``until``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Literal

import polars as pl

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.durations import to_time
from mamba_stream.errors import OffsetTrimmed
from mamba_stream.log import Topic
from mamba_stream.operators.columns import ticks
from mamba_stream.plan import nodes as n
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Shape, need_time
from mamba_stream.runtime.progress import SourceProgress
from mamba_stream.runtime.topics import first_offsets

Until = Literal["stopped", "now"] | datetime | date | None


def begin_of(
    node: n.TopicSource,
    topic: Topic,
    known: SourceProgress | None,
    partitions: Sequence[int] | None = None,
    *,
    skip_gaps: bool,
) -> dict[int, int]:
    """The first offset to read, by partition.

    Args:
        node: The source.
        topic: Its topic.
        known: What was read so far.
        partitions: Of these only; of all, if left out.
        skip_gaps: Whether to go on behind rows that are gone.

    Raises:
        OffsetTrimmed: Rows that were to be read next are gone, and gaps are not to be skipped.
    """
    if known is None:
        wanted, remedy = first_offsets(topic, node.start, partitions), "begins there"
    else:
        mine = known.partitions if partitions is None else known.partitions.keys() & set(partitions)
        wanted = {partition: known.partitions[partition].position for partition in mine}
        remedy = "goes on there, state='new' starts over"
    there = topic.heads(list(wanted))
    positions = {}
    for partition, position in wanted.items():
        begin = there[partition].begin
        if position < begin and not skip_gaps:
            raise OffsetTrimmed(
                f"topic {topic.name!r}, partition {partition}: the job has to {'begin' if known is None else 'go on'} "
                f"at {position}, and rows before {begin} were trimmed away: on_gap='earliest' {remedy} "
                f"(stream at {node.place})"
            )
        positions[partition] = max(position, begin)
    return positions


def ends_of(
    node: n.TopicSource,
    topic: Topic,
    shape: Shape,
    until: Until,
    positions: Mapping[int, int],
    known: SourceProgress | None,
) -> Mapping[int, int]:
    """The offsets to stop before, by partition; none where the run goes on.

    Args:
        node: The source.
        topic: Its topic.
        shape: Its columns and time.
        until: Where the run is to stop.
        positions: Where it begins.
        known: What the job has read so far.

    Raises:
        PipelineRefused: A moment cannot be found in a stream without a time.
    """
    if until == "now":
        return {partition: head.end for partition, head in topic.heads(list(positions)).items()}
    if not isinstance(until, datetime | date):
        return {}
    with refusing(node):
        time = need_time(shape, f"until={until!s}")
        moment = to_time(until, shape.time_type, what="until")
    if node.by_append:
        return topic.offset_at(until, by="append")
    if time == topic.time:
        return topic.offset_at(until)
    passed = {
        partition
        for partition, saved in (known.partitions if known is not None else {}).items()
        if saved.greatest >= moment
    }
    return {
        partition: position if partition in passed else _reached(topic, partition, position, time, moment)
        for partition, position in positions.items()
    }


def _reached(topic: Topic, partition: int, position: int, time: str, moment: int) -> int:
    """Where a column that the topic knows nothing of first reaches a moment; the end if it does not."""
    end = topic.heads([partition])[partition].end
    rows = topic.read(
        start={partition: position}, partitions=[partition], columns=[time], end={partition: end}
    )
    for batch in rows:
        reached = first_at(frame_from_batch(batch.data), time, moment)
        if reached is not None:
            return int(batch.offsets[reached])
    return end


def frame_end_of(node: n.FrameSource, shape: Shape, until: Until) -> int | None:
    """The row of a frame to stop before; ``None`` reads it to its end."""
    if not isinstance(until, datetime | date) or shape.time is None:
        return None
    return first_at(node.frame, shape.time, to_time(until, shape.time_type, what="until"))


def first_at(frame: pl.DataFrame, time: str, moment: int) -> int | None:
    """The first row whose time has reached a moment."""
    reached = frame.select((ticks(time) >= moment).fill_null(value=False)).to_series()
    first = reached.arg_max()
    return first if first is not None and reached[first] else None
