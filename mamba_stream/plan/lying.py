"""How the rows of sources lie in partitions: where those with equal keys share one, tasks need no shuffle for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mamba_stream.plan import nodes as n


class Laid(msgspec.Struct, frozen=True):
    """How a source's rows lie.

    Attributes:
        partitions: In how many partitions.
        key: The columns by whose hash they lie there, every row of them; none where nothing is known.
    """

    partitions: int = 1
    key: tuple[str, ...] = ()


def laid_in(topic: Any) -> Laid:
    """How a topic's rows lie: by its key, where no append can have put them elsewhere."""
    return Laid(topic.partitions, topic.key if topic.strict_key else ())


UNKNOWN: Final = Laid(2)
"""A topic that is not known yet: it has several partitions, as far as cutting goes."""


def laid(sources: Sequence[n.AnySource]) -> dict[n.Node, Laid]:
    """How the rows of sources lie, as far as that is known without a log."""
    return {
        node: UNKNOWN if node.bound is None else laid_in(node.bound)
        for node in sources
        if isinstance(node, n.TopicSource)
    }


def why_shuffled(sources: Sequence[n.AnySource], lie: Mapping[n.Node, Laid], key: Sequence[str]) -> str:
    """Why rows with equal keys do not lie together, in words; empty where there is nothing to say.

    Args:
        sources: Where the rows come from.
        lie: How they lie there.
        key: What has to be equal.
    """
    known = all(isinstance(node, n.TopicSource) and node.bound is not None for node in sources)
    if not (key and sources and known):
        return ""
    named = {node.topic: (lie[node], node.bound) for node in sources if isinstance(node, n.TopicSource)}
    for name, (one, topic) in named.items():
        if one.partitions == 1:
            return f"{name!r} has one partition, and behind a shuffle several tasks work at once"
        if not topic.key:
            return f"{name!r} has no key"
        if not one.key:
            return (
                f"{name!r} has the key {_listed(topic.key)}, and appends that name a partition may have put rows "
                "elsewhere: create it with strict_key=True"
            )
    counts = {one.partitions for one, _ in named.values()}
    if len(counts) > 1:
        return " and ".join(f"{name!r} has {one.partitions} partitions" for name, (one, _) in named.items())
    lying = " and ".join(f"{name!r} lies by {_listed(one.key)}" for name, (one, _) in named.items())
    return f"{lying}, which is not what has to be equal here"


def in_words(sources: Sequence[n.AnySource], lie: Mapping[n.Node, Laid]) -> str:
    """How sources lie by their keys.

    Example:
        >>> source = n.TopicSource(
        ...     place=n.Place("job.py", 1), topic="trades", time=None, lateness=0, idle=30.0, name=""
        ... )
        >>> in_words([source], {source: Laid(4, ("symbol",))})
        "'trades' lies by symbol in 4 partitions"
    """
    named = {node.topic: lie[node] for node in sources if isinstance(node, n.TopicSource)}
    counts = {one.partitions for one in named.values()}
    lying = " and ".join(f"{name!r} lies by {_listed(one.key)}" for name, one in named.items())
    return f"{lying} in {counts.pop()} partitions" if len(counts) == 1 else lying


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
