"""What a task reads, opened where its last commit left off: topics, frames, connectors, other stages' rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mamba_stream.core.clock import Clock
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.stages import Exchange
from mamba_stream.runtime.connectors import ConnectorFeed, ConnectorFeeds, extent_of
from mamba_stream.runtime.exchanges import Entrance, ExchangeFeed, exchange_schema, exchange_topic
from mamba_stream.runtime.extents import begin_of, ends_of, frame_end_of
from mamba_stream.runtime.feeds import Feed, FrameFeed, TopicFeed
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import EntranceProgress, Progress
from mamba_stream.runtime.share import Share


class Sources:
    """The sources of a task."""

    def __init__(
        self,
        job: str,
        prepared: Prepared,
        share: Share,
        log: Log,
        saved: Progress,
        options: RunOptions,
        clock: Clock,
        ring: Callable[[], None],
    ) -> None:
        """Opens them.

        Args:
            job: The job's name.
            prepared: The plan, over the log.
            share: What the task does of it.
            log: The log.
            saved: How far its last commit had come.
            options: How the job is run.
            clock: The clock.
            ring: Called from any thread when there is something to do for whoever waits.

        Raises:
            OffsetTrimmed: Rows that were to be read next are gone.
        """
        self._job = job
        self._prepared = prepared
        self._share = share
        self._log = log
        self._saved = saved
        self._options = options
        self._clock = clock
        self._ring = ring
        self.outside: dict[n.AnySource, ConnectorFeeds] = {}
        """Those of connectors."""
        self.feeds = {node: self._opened(node) for node in share.stage.sources}
        """Their partitions."""
        self.entrances = {exchange: self._entrance(exchange) for exchange in share.stage.exchanges}
        """Where rows of other stages come in."""

    @property
    def bounded(self) -> bool:
        """Whether all sources of the plan come to an end by themselves."""
        return all(self._bounded(node) for node in self._prepared.analysis.sources)

    @property
    def places(self) -> list[tuple[ConnectorFeed, Any]]:
        """Where each partition of a connector is."""
        return [(feed, feed.place) for partitions in self.outside.values() for feed in partitions.feeds]

    @property
    def growing(self) -> list[n.AnySource]:
        """Those that further partitions may come to in this run."""
        return [node for node, partitions in self.outside.items() if partitions.growing]

    @property
    def endless(self) -> list[n.AnySource]:
        """Those that further partitions may come to, in this run or a later one."""
        return [node for node, partitions in self.outside.items() if partitions.endless]

    def close(self) -> None:
        """Lets go of what is open outside."""
        for partitions in self.outside.values():
            for feed in partitions.feeds:
                feed.close()

    def _opened(self, node: n.AnySource) -> Sequence[Feed]:
        known = self._saved.sources.get(self._prepared.names[node])
        if isinstance(node, n.FrameSource):
            position = known.partitions[0].position if known is not None else 0
            stop = frame_end_of(node, self._prepared.analysis.shapes[node], self._options.until)
            return [FrameFeed(node.frame.select(self._prepared.analysis.needed[node]), position, stop)]
        if isinstance(node, n.ConnectorSource):
            until = self._options.until
            self.outside[node] = ConnectorFeeds(
                node,
                self._prepared.analysis.needed[node],
                known,
                extent_of(node, self._prepared.analysis.shapes[node], until),
                as_of_now=until not in {None, "stopped"},
                clock=self._clock,
                ring=self._ring,
            )
            return self.outside[node].feeds
        topic = self._prepared.topics[node.topic]
        mine = None if self._share.stage.tasks == 1 else [self._share.number]
        begins = begin_of(node, topic, known, mine, skip_gaps=self._options.skip_gaps)
        ends = ends_of(node, topic, self._prepared.analysis.shapes[node], self._options.until, begins, known)
        columns = self._prepared.analysis.read_from(node)
        return [
            TopicFeed(topic, p, offset, columns, stop=ends.get(p)) for p, offset in sorted(begins.items())
        ]

    def _bounded(self, node: n.AnySource) -> bool:
        """Whether a source comes to an end by itself."""
        if isinstance(node, n.ConnectorSource):
            return bool(node.source.bounded)
        return isinstance(node, n.FrameSource) or self._prepared.topics[node.topic].ended

    def _entrance(self, exchange: Exchange) -> Entrance:
        topic = self._log[exchange_topic(self._job, exchange)]
        begin = topic.heads([self._share.number])[self._share.number].begin
        known = self._saved.entered.get(exchange.number, EntranceProgress(begin, 0))
        schema = exchange_schema(exchange, self._prepared.analysis)
        feed = ExchangeFeed(topic, self._share.number, known.position, schema, self._share.words[exchange])
        return Entrance(str(exchange.number), feed, known.rows)


def groups_of(job: str, sources: Sequence[n.AnySource]) -> dict[str, n.TopicSource]:
    """Sources by the name of the group that shows how far they are read."""
    return {
        f"job.{job}{'.' * bool(node.name)}{node.name}": node
        for node in sources
        if isinstance(node, n.TopicSource)
    }
