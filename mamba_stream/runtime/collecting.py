"""Running a stream to the ends of its sources as they are, with private state, for its rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

import polars as pl

from mamba_stream.connect import Ending
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.log import Log, Topic
from mamba_stream.operators.changes import folded
from mamba_stream.operators.columns import OP
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis, analyse
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.connectors import ConnectorFeeds, Extent
from mamba_stream.runtime.engine import Engine
from mamba_stream.runtime.feeds import Feed, FrameFeed, TopicFeed
from mamba_stream.runtime.memory import memory_limit
from mamba_stream.runtime.topics import facts_of, first_offsets, topics_of

_FIRST_LOOK = 4_096
_BREATH = 0.01


def collect(
    node: n.Node, log: Log | None, *, limit: int | None = None, clock: Clock | None = None
) -> pl.DataFrame:
    """The rows that a stream gives when its sources end where they end now.

    Args:
        node: The stream's last step.
        log: Where its topics are; not needed for frames.
        limit: Stop as soon as there are so many rows.
        clock: The clock.

    Raises:
        PipelineRefused: The plan cannot be right.
        StepFailed: A step raised.
    """
    topics = topics_of(n.walk([node]), log)
    analysis = analyse([node], facts_of(topics))
    shape = analysis.shapes[node]
    columns = shape.schema.names()
    table = shape.changelog
    gathered: list[pl.DataFrame] = []
    # Of a table the first rows are known when all changes are.
    most = None if table is not None else limit
    kept = columns if table is None else [*columns, OP]
    clock = clock or SystemClock()
    woken = threading.Event()
    # Some rows can be had of what has no end; all of them cannot.
    feeds = {
        source: _feeds(analysis, source, topics, whole=limit is None, clock=clock, ring=woken.set)
        for source in analysis.sources
    }
    engine = Engine(
        analysis,
        {node: lambda frame: gathered.append(frame.select(kept))},
        feeds,
        source_names(analysis.sources),
        clock=clock,
        budget=Budget.within(memory_limit(None)),
        follows=False,
        ring=woken.set,
    )
    rows = _FIRST_LOOK if most is not None else engine.rows
    with closing(engine.flow):
        while not engine.done and (most is None or sum(frame.height for frame in gathered) < most):
            woken.clear()
            if not engine.step(rows) and not engine.done:
                woken.wait(_BREATH)  # a source of a connector may have nothing now, and more soon
            rows = min(4 * rows, engine.rows)
        if most is None or sum(frame.height for frame in gathered) < most:
            engine.advance()
            engine.settle()
    result = pl.concat(gathered) if gathered else pl.DataFrame(schema=shape.schema)
    if table is not None and gathered:
        result = folded(result, table.key, columns)
    return result if limit is None else result.head(limit)


def _feeds(
    analysis: Analysis,
    node: n.AnySource,
    topics: dict[str, Topic],
    *,
    whole: bool,
    clock: Clock,
    ring: Callable[[], None],
) -> Sequence[Feed]:
    columns = analysis.read_from(node)
    if isinstance(node, n.FrameSource):
        return [FrameFeed(node.frame.select(columns), 0)]
    if isinstance(node, n.ConnectorSource):
        now = whole or isinstance(node.source, Ending)
        extent = Extent(bounded=True)
        return ConnectorFeeds(node, columns, None, extent, as_of_now=now, clock=clock, ring=ring).feeds
    assert isinstance(node, n.TopicSource)
    topic = topics[node.topic]
    # Where a job begins that wants only what is new, there is nothing to look at yet.
    begins = first_offsets(topic, "earliest" if node.start == "latest" else node.start)
    ends = topic.offsets()
    return [
        TopicFeed(topic, partition, begin, columns, stop=ends[partition][1], bounded=True)
        for partition, begin in begins.items()
    ]


def source_names(sources: Sequence[n.AnySource]) -> dict[n.Node, str]:
    """What to call the sources: by their given names, else by topic, else by what a frame holds."""
    return {source: source.name or _source_name(source) for source in sources}


def _source_name(source: n.AnySource) -> str:
    if isinstance(source, n.ConnectorSource):
        return str(source.source.name)
    return source.topic if isinstance(source, n.TopicSource) else _frame_name(source.frame)


def _frame_name(frame: pl.DataFrame) -> str:
    return f"frame({', '.join(frame.columns[:3])}{', …' if frame.width > 3 else ''})"
