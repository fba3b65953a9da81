"""The topics that a pipeline writes: made from the plan, checked against what is there, filled at each commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mamba_stream.core.schemas import canonical_schema, describe_difference
from mamba_stream.errors import PipelineRefused, SchemaMismatch
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Shape


class Outputs:
    """Rows on their way to topics, between two commits."""

    def __init__(self) -> None:
        self._pending: dict[str, list[pl.DataFrame]] = {}
        self.bytes = 0
        self.rows: dict[str, int] = {}

    def put(self, topic: str, frame: pl.DataFrame) -> None:
        """Takes rows for a topic."""
        self._pending.setdefault(topic, []).append(frame)
        self.bytes += int(frame.estimated_size())
        self.rows[topic] = self.rows.get(topic, 0) + frame.height

    def drain(self) -> list[tuple[str, pl.DataFrame]]:
        """What has come since the last time, by topic."""
        drained = [(topic, pl.concat(frames)) for topic, frames in self._pending.items()]
        self._pending, self.bytes = {}, 0
        return drained

    @property
    def waiting(self) -> bool:
        """Whether there are rows to write."""
        return bool(self._pending)


def make_topics(
    log: Log, outputs: Sequence[n.Output], shapes: Mapping[n.Output, Shape], *, replace: set[str]
) -> list[str]:
    """Checks the topics that are there, then creates those that are not.

    Args:
        log: The log.
        outputs: The pipeline's outputs.
        shapes: What goes into them.
        replace: Topics to make anew where they have other columns.

    Returns:
        The topics that were created, or were there without ever having held a row.

    Raises:
        SchemaMismatch: A topic has other columns; the message names the user's line.
    """
    first: dict[str, n.Output] = {}
    outgrown = []
    for output in outputs:
        with refusing(output):
            _check_alike(first.setdefault(output.topic, output), output, shapes)
            if output.topic in log and not _fits(log, output, shapes[output], replace):
                outgrown.append(output.topic)
    # Nothing is made or removed unless everything can be.
    for name in dict.fromkeys(outgrown):
        log.delete_topic(name)
    for output in first.values():
        with refusing(output):
            if output.topic not in log:
                log.create_topic(
                    output.topic,
                    shapes[output].schema,
                    partitions=output.partitions or 1,
                    key=list(output.key) or None,
                    # Those that read it can count on its key.
                    strict_key=bool(output.key),
                    time=shapes[output].declared_time,
                    retention=output.retention,
                    exist_ok=True,
                )
    return [name for name in first if not any(end for _, end in log[name].offsets().values())]


def outputs_fit(log: Log, shapes: Mapping[n.Output, Shape]) -> bool:
    """Whether the topics that are there take the columns that go into them."""
    return not any(
        output.topic in log and log[output.topic].difference(canonical_schema(shape.schema))
        for output, shape in shapes.items()
    )


def _check_alike(first: n.Output, other: n.Output, shapes: Mapping[n.Output, Shape]) -> None:
    """Refuses two outputs of one topic that would make it differently."""
    difference = describe_difference(
        canonical_schema(shapes[other].schema), canonical_schema(shapes[first].schema)
    )
    if difference:
        raise SchemaMismatch(
            f"the output at {first.place} gives topic {first.topic!r} other columns: {difference}"
        )
    for what, asked, there in (
        ("key", other.key or None, first.key or None),
        ("partitions", other.partitions, first.partitions or 1),
        ("retention", other.retention, first.retention),
    ):
        if asked is not None and asked != there:
            raise PipelineRefused(
                f"the output at {first.place} makes topic {first.topic!r} with {what}={there!r}, not {asked!r}"
            )


def _fits(log: Log, output: n.Output, shape: Shape, replace: set[str]) -> bool:
    """Whether rows can go into a topic that is there; ``False`` where it may be made anew instead."""
    topic = log[output.topic]
    # A topic that was altered takes the rows that it took before.
    difference = topic.difference(canonical_schema(shape.schema))
    where = f"(to at {output.place})"
    if difference:
        if output.topic in replace:
            return False
        raise SchemaMismatch(
            f"topic {output.topic!r} exists and has other columns: {difference} {where}. Where it can be widened, "
            f"log.alter_topic({output.topic!r}, schema=...) does so; else write to another topic"
        )
    if topic.ended:
        raise PipelineRefused(f"topic {output.topic!r} was ended and takes no more rows {where}")
    for what, asked, there in (
        ("key", output.key or None, topic.key),
        ("partitions", output.partitions, topic.partitions),
    ):
        if asked is not None and asked != there:
            raise PipelineRefused(
                f"topic {output.topic!r} exists with {what}={there!r}, not {asked!r} {where}"
            )
    return True
