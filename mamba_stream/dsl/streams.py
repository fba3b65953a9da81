"""A stream: rows with a time, and the verbs that make other streams of it.

A method that a Polars ``LazyFrame`` also has means the same here. Every verb adds a node to a plan and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import polars as pl

from mamba_stream.connect import AnySink, is_sink
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name, plain_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.dsl.arguments import names
from mamba_stream.dsl.codeverbs import CodeVerbs
from mamba_stream.dsl.elsewhere import words_for
from mamba_stream.dsl.joinverbs import JoinVerbs
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.planned import Planned
from mamba_stream.dsl.rowverbs import RowVerbs
from mamba_stream.dsl.tableverbs import TableVerbs
from mamba_stream.dsl.windowverbs import WindowVerbs
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import Shape, infer_known
from mamba_stream.plan.staging import explained


class Stream(RowVerbs, CodeVerbs, WindowVerbs, JoinVerbs, TableVerbs):
    """Rows with a time, and what is to be done with them; made by ``mamba.stream(...)`` and by verbs.

    A stream is immutable and holds no rows: the same one may go into several others.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shape = self._shapes.get(self._node)
        columns = "columns known when it runs" if shape is None else ", ".join(shape.schema.names()[:8])
        return f"Stream({self._node.verb}: {columns})"

    if not TYPE_CHECKING:
        # Who checks types is told by them.
        def __getattr__(self, name: str) -> NoReturn:
            words = words_for(name)
            raise AttributeError(
                f"a stream has no {name!r}{': ' + words if words else ''}", name=name, obj=self
            )

    @property
    def schema(self) -> pl.Schema | None:
        """The columns; ``None`` while they are not known, as of a topic that was only named."""
        shape = self._shapes.get(self._node)
        return None if shape is None else shape.schema

    # -- what else came of rows ------------------------------------------------------------------------------------

    @property
    def late(self) -> Stream:
        """The rows that came too late for the last step of this stream that goes by time, as they were before it.

        That is a join too, with another stream or with a table as it was at each row's time: the rows that were too
        late for a window before it are those of the window's own stream.

        Two columns are added: ``late_by`` is how much more lateness would have kept the row, and ``late_reason`` is
        ``watermark``, or ``idle`` where time went on without a partition that had been silent.
        """
        return self._late_rows(caller(), port=0)

    @property
    def late_other(self) -> Stream:
        """As ``late``: the rows of the other stream of a join, the one that it was given, that came too late."""
        return self._late_rows(caller(), port=1)

    def _late_rows(self, place: n.Place, port: int) -> Stream:
        node = self._node
        while isinstance(node, n.Step) and not (isinstance(node, n.Stateful) and node.by_time):
            node = node.parent
        if not isinstance(node, n.Stateful) or not node.by_time:
            raise PipelineRefused(
                "late belongs to the result of a verb that goes by time, such as .window(...).agg(...)"
            )
        if port >= len(node.parents):
            raise PipelineRefused(
                f"late_other belongs to a join of two streams, and {node.verb} has one: use .late"
            )
        return self._then(n.LateRows(place=place, parent=node, port=port))

    @property
    def rejected(self) -> Stream:
        """The rows that have no time, or one too far ahead; ``rejected_reason`` says which.

        They are those of this stream's source, or of ``with_time`` where it was called.
        """
        place, node = caller(), self._node
        while isinstance(node, n.Step) and not isinstance(node, n.WithTime):
            node = node.parent
        if not isinstance(node, n.Source | n.WithTime):
            raise PipelineRefused(
                "rejected belongs to one source: take it from the stream that mamba.stream() gave"
            )
        return self._then(n.RejectedRows(place=place, parent=node))

    def changes(self) -> Stream:
        """A changelog as rows, with ``_op``: ``+I`` and ``+U`` bring a row, ``-U`` and ``-D`` take it back."""
        return self._then(n.Changes(place=caller(), parent=self._node))

    # -- ends ------------------------------------------------------------------------------------------------------

    @overload
    def to(
        self,
        target: str,
        *,
        key: Any = None,
        partitions: int | None = None,
        retention: str | timedelta | None = None,
    ) -> n.Output: ...

    @overload
    def to(self, target: AnySink, *, name: str | None = None) -> n.SinkOutput: ...

    def to(
        self,
        target: str | AnySink,
        *,
        key: Any = None,
        partitions: int | None = None,
        retention: str | timedelta | None = None,
        name: str | None = None,
    ) -> n.AnyOutput:
        """Ends the stream in a topic, which is created from the plan when the pipeline starts, or in a sink.

        Args:
            target: A topic's name; an existing one must have these columns. Or a connector's sink.
            key: Columns whose equal values go to one partition of the topic.
            partitions: How many, if the topic is created; 1 if left out.
            retention: For how long rows are kept, as ``"7d"``, if the topic is created; for ever if left out.
            name: Tells apart two sinks of one name; the job's progress, and the sink itself, know the output by it.
        """
        place = caller()
        if is_sink(target):
            if key is not None or partitions is not None or retention is not None:
                raise PipelineRefused(
                    "key=, partitions= and retention= are for topics: a sink is told when it is made"
                )
            return self._into(target, name, place)
        if not isinstance(target, str):
            raise PipelineRefused(f"to takes the name of a topic, or a connector's sink, not {target!r:.80}")
        check_name(target)
        if name is not None:
            raise PipelineRefused("name= is for sinks: a topic has one")
        if partitions is not None and (not is_whole(partitions) or partitions < 1):
            raise PipelineRefused(f"to({target!r}, partitions={partitions!r}): give a number from 1 on")
        if retention is not None:
            retention = timedelta(microseconds=duration_us(retention, what="retention=", zero=False))
        output = n.Output(
            place=place,
            parent=self._node,
            topic=target,
            key=names(key, what="key="),
            partitions=partitions,
            retention=retention,
        )
        infer_known(output, self._shapes)
        return output

    def _into(self, sink: AnySink, name: str | None, place: n.Place) -> n.SinkOutput:
        called = check_name(name, "sink") if name is not None else plain_name(sink.name)
        output = n.SinkOutput(place=place, parent=self._node, sink=sink, name=called)
        infer_known(output, self._shapes)
        return output

    def collect(self, log: Any = None) -> pl.DataFrame:
        """The rows that come out if the sources end where they end now: private state, nothing is written.

        Args:
            log: Where the topics are.
        """
        from mamba_stream.dsl.running import collect_stream

        return collect_stream(self._node, log, limit=None)

    def head(self, n: int = 5, log: Any = None) -> pl.DataFrame:
        """The first rows that come out; reads no further than it must, and always returns."""
        from mamba_stream.dsl.running import collect_stream

        return collect_stream(self._node, log, limit=n)

    def explain(
        self,
        *,
        format: Literal["text", "mermaid", "stages"] = "text",  # noqa: A002 - as in Polars
    ) -> str:
        """What the stream does, in words; a picture as Mermaid text; or how it is cut into stages for workers."""
        return explained([self._node], format)

    def _then(self, node: n.Node, *others: Planned) -> Stream:
        shapes = dict(self._shapes)
        for other in others:
            shapes.update(other._shapes)  # noqa: SLF001 - a stream of ours
        return extended(node, shapes)


def extended(node: n.Node, shapes: Mapping[n.Node, Shape]) -> Stream:
    """The stream of a node, whose shape is found at once where its inputs' are known."""
    shape = infer_known(node, shapes)
    return Stream(node, shapes if shape is None else {**shapes, node: shape})


def united(streams: Iterable[Any]) -> Stream:
    """The rows of several streams as one."""
    place = caller()
    streams = [] if isinstance(streams, Stream) else list(streams)
    if not streams or not all(isinstance(stream, Stream) for stream in streams):
        raise PipelineRefused("concat takes a list of streams")
    node = n.Concat(place=place, inputs=tuple(stream._node for stream in streams))  # noqa: SLF001
    first, *others = streams
    made: Stream = first._then(node, *others)  # noqa: SLF001
    return made
