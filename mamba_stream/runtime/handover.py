"""Streams that follow another: their sources are not read before those of the other are over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Topic
from mamba_stream.plan import nodes as n


def sources_before(nodes: Sequence[n.Node]) -> dict[n.Node, list[n.AnySource]]:
    """For each source that waits for others, those others."""
    found: dict[n.Node, list[n.AnySource]] = {}
    for node in nodes:
        if isinstance(node, n.Handover):
            for source in _sources(node.live):
                found.setdefault(source, []).extend(_sources(node.history))
    return found


def check_handovers(nodes: Sequence[n.Node], topics: Mapping[str, Topic]) -> None:
    """Refuses to wait for the end of a topic that has none.

    Raises:
        PipelineRefused: It names the topic.
    """
    for node in nodes:
        if isinstance(node, n.Handover):
            for source in _sources(node.history):
                if isinstance(source, n.TopicSource) and not topics[source.topic].ended:
                    raise PipelineRefused(
                        f"sequence reads topic {source.topic!r} to its end, and the topic was not ended: end it "
                        f"with .end(), or read it second (sequence at {node.place})"
                    )


def _sources(node: n.Node) -> list[n.AnySource]:
    return [found for found in n.walk([node]) if isinstance(found, n.AnySource)]
