"""``mamba.stream``: where a pipeline begins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import polars as pl

from mamba_stream.connect import is_sink, is_source
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.schemas import canonical_schema, polars_schema
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.streams import Stream, extended
from mamba_stream.dsl.tables import as_table
from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Topic
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import known_shapes


class AppendTime:
    """When rows were appended, as the log has noted it: the same however often they are read."""

    def __repr__(self) -> str:
        return "mamba_stream.append_time"


append_time: Final = AppendTime()


def stream(
    source: Any,
    time: str | AppendTime | None = None,
    lateness: str | timedelta = "0s",
    idle: str | timedelta = "30s",
    ahead: str | timedelta | None = None,
    start: Any = "earliest",
    schema: Any = None,
    name: str | None = None,
) -> Stream:
    """Begins a stream; nothing is read until it runs.

    Args:
        source: The name of a topic, an open topic, a connector's source, a Polars or pandas frame, an Arrow table,
            a list of dicts.
        time: The column that holds a row's time; left out, that of the topic. ``mamba.append_time`` takes when rows
            were appended to a topic, and adds it as the column ``append_time``: processing time that does not change
            when rows are read again.
        lateness: How far behind the greatest time of its partition a row may come and still be counted.
        idle: How long a partition may be silent before time goes on without it, while the topic is followed.
        ahead: Reject rows whose time lies further than this after they were appended.
        start: Where a first run begins: ``"earliest"``, ``"latest"``, an offset, ``{partition: offset}``, a time.
        schema: The columns of a topic that is only named, to have mistakes found at once.
        name: Tells apart two sources that read the same topic differently.
    """
    place = caller()
    if name is not None:
        check_name(name, "source")
    by_append = isinstance(time, AppendTime)
    common: dict[str, Any] = {
        "place": place,
        "time": n.APPEND_TIME if by_append else time,
        "lateness": duration_us(lateness, what="lateness"),
        "idle": duration_us(idle, what="idle") / 1_000_000,
        "name": name or "",
    }
    if isinstance(source, str | Topic):
        topic = n.TopicSource(
            **common,
            topic=check_name(source) if isinstance(source, str) else source.name,
            bound=source if isinstance(source, Topic) else None,
            start=start,
            ahead=None if ahead is None else duration_us(ahead, what="ahead"),
            declared=None if schema is None else _declared(schema, place),
            by_append=by_append,
        )
        return _topic_stream(topic)
    if isinstance(source, Stream):
        raise PipelineRefused("this is a stream already: use its verbs")
    if is_sink(source):
        raise PipelineRefused(f"{source.name!r} is a sink: end a stream with .to(sink)")
    if by_append:
        raise PipelineRefused(
            "time=append_time is for topics: nobody noted when rows from elsewhere were appended"
        )
    if ahead is not None or start != "earliest" or schema is not None:
        raise PipelineRefused(
            "ahead=, start= and schema= are for topics: frames and sources have a schema, and no append times"
        )
    if is_source(source):
        outside = n.ConnectorSource(**common, source=source)
        return Stream(outside, known_shapes([outside]))
    frame = as_table(source, what="stream")
    node = n.FrameSource(**common, frame=frame)
    return Stream(node, known_shapes([node]))


def _declared(schema: Any, place: n.Place) -> pl.Schema:
    try:
        return polars_schema(canonical_schema(schema))
    except ValueError as error:
        raise PipelineRefused(f"schema=: {error} (stream at {place})") from error


def _topic_stream(node: n.TopicSource) -> Stream:
    return Stream(node, known_shapes([node]))


def sequence(history: Stream | Any, live: Stream | Any) -> Stream:
    """The rows of one stream to its end, and behind it those of another: files first, and then the topic.

    The second is not read before the first is over, and does not hold back time until then. Where it begins, its own
    ``start=`` says: a job that is resumed goes on in either.

    Args:
        history: A stream that comes to an end: of files, of a frame, of a topic that was ended; or what begins one.
        live: A stream of the same columns; or what begins one, such as the name of a topic.

    Raises:
        PipelineRefused: The first does not come to an end, or the columns differ.
    """
    place = caller()
    first, second = (part if isinstance(part, Stream) else stream(part) for part in (history, live))
    before, behind = (n.walk([part._node]) for part in (first, second))  # noqa: SLF001 - a stream of two streams
    for node in before:
        if isinstance(node, n.ConnectorSource) and not node.source.bounded:
            raise PipelineRefused(
                f"sequence reads its first stream to its end, and {node.source.name!r} has none "
                f"(stream at {node.place})"
            )
        if isinstance(node, n.Source) and node in behind:
            raise PipelineRefused(f"sequence: both streams read the same source (stream at {node.place})")
    handover = n.Handover(place=place, inputs=(first._node, second._node))  # noqa: SLF001
    return extended(handover, {**first._shapes, **second._shapes})  # noqa: SLF001
