"""A pipeline held against a log: everything that a run needs to know before it begins, and nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import analyse
from mamba_stream.plan.layouts import layout_of
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.refusing import refusing
from mamba_stream.runtime.collecting import source_names
from mamba_stream.runtime.fingerprints import content_of
from mamba_stream.runtime.handover import check_handovers
from mamba_stream.runtime.progress import Progress, SourceProgress
from mamba_stream.runtime.topics import facts_of, identity_of, topics_of
from mamba_stream.runtime.upgrade import Upgrade, upgrade_of

_OUTSIDE = "a connector's"
"""The content of every connector's source: whether it holds what it held, it says itself."""


class Prepared:
    """A pipeline over a log.

    Attributes:
        analysis: The plan.
        topics: The topics it reads, by name.
        names: What its sources are called.
        contents: What identifies the rows of each source.
        layouts: What identifies the state of each step, by name.
        earlier: The topics of which it has earlier columns, since what a job left was made with those.
    """

    def __init__(self, pipeline: Pipeline, log: Log, schemas: Mapping[str, int] | None = None) -> None:
        """Checks everything that can be checked.

        Args:
            pipeline: The pipeline.
            log: The log.
            schemas: What :attr:`schemas` was when a run began that this belongs to; topics may have been altered since.

        Raises:
            PipelineRefused: The pipeline cannot be right.
            TopicNotFound: A topic is not there.
        """
        self._pipeline = pipeline
        self.earlier: tuple[str, ...] = ()
        self.topics = topics_of(pipeline.nodes, log, schemas)
        self.analysis = analyse(pipeline.outputs, facts_of(self.topics))
        self.names = source_names(self.analysis.sources)
        _check_distinct(self.analysis.sources, self.names)
        check_handovers(self.analysis.nodes, self.topics)
        self.contents: dict[n.Node, str] = {node: self._content(node) for node in self.analysis.sources}
        self.layouts = {step.name: layout_of(step, self.analysis) for step in self.analysis.steps}

    @property
    def schemas(self) -> dict[str, int]:
        """By name the numbers of the topics' schemas that the plan was made for."""
        return {name: topic.schema_number for name, topic in self.topics.items()}

    def schema_of(self, node: n.Node) -> int:
        """The number of the schema of a source that is a topic; 0 of others."""
        return self.topics[node.topic].schema_number if isinstance(node, n.TopicSource) else 0

    def upgrade(self, progress: Progress) -> Upgrade:
        """What the pipeline can keep of what a job left."""
        changes = []
        for node in self.analysis.sources:
            source = progress.sources.get(self.names[node])
            if source is not None:
                changes += self._changes(node, source, windowed=bool(progress.steps))
        return upgrade_of(self._pipeline.name, progress, self.layouts, changes, self.earlier)

    def _content(self, node: n.AnySource) -> str:
        """What tells a source's rows from others that it might have."""
        if isinstance(node, n.ConnectorSource):
            return _OUTSIDE
        if isinstance(node, n.TopicSource):
            return identity_of(self.topics[node.topic])
        with refusing(node):
            return content_of(node.frame)

    def _changes(self, node: n.AnySource, source: SourceProgress, *, windowed: bool) -> list[str]:
        """Why a source is not the one that the job has read."""
        name, time = self.names[node], self.analysis.shapes[node].time or ""
        if source.content != self.contents[node]:
            return [
                f"topic {node.topic!r} was made anew: it is another topic now"
                if isinstance(node, n.TopicSource)
                else f"{name!r} holds other rows"
            ]
        if windowed and source.time != time:
            return [f"{name!r} takes its time from {time!r}, and windows are open by {source.time!r}"]
        return []


def _check_distinct(sources: Sequence[n.AnySource], names: Mapping[n.Node, str]) -> None:
    seen: dict[str, n.Node] = {}
    for source in sources:
        if other := seen.get(names[source]):
            raise PipelineRefused(
                f"two sources are called {names[source]!r} (stream at {other.place} and at {source.place}): "
                "use one stream for both, or give one of them mamba.stream(..., name=)"
            )
        seen[names[source]] = source
