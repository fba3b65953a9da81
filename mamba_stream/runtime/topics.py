"""What a plan needs from a log before it runs: the topics it reads, and where in them to begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from mamba_stream.errors import TopicNotFound
from mamba_stream.log import Log, Topic
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import TopicFacts


def topics_of(
    nodes: Sequence[n.Node], log: Log | None, schemas: Mapping[str, int] | None = None
) -> dict[str, Topic]:
    """The topics that a plan reads, by name.

    Args:
        nodes: The plan.
        log: The log; ``None`` where the plan reads no topic.
        schemas: By a topic's name the number of the schema whose columns it is to have; others have those of now.

    Raises:
        TopicNotFound: The log has none of that name; the message names the user's line.
    """
    found: dict[str, Topic] = {}
    for node in nodes:
        if isinstance(node, n.TopicSource):
            assert log is not None
            try:
                topic = log[node.topic]
                number = (schemas or {}).get(node.topic)
                found[node.topic] = topic if number is None else topic.in_schema(number)
            except TopicNotFound as error:
                raise TopicNotFound(f"{error} (stream at {node.place})") from None
    return found


def facts_of(topics: dict[str, Topic]) -> dict[str, TopicFacts]:
    """What the plan has to know about them."""
    return {name: TopicFacts(pl.Schema(topic.polars_schema), topic.time) for name, topic in topics.items()}


def identity_of(topic: Topic) -> str:
    """What no other topic of this log is called, one made later under the same name included."""
    return str(topic.number)


def first_offsets(topic: Topic, start: object, partitions: Sequence[int] | None = None) -> dict[int, int]:
    """Where a first run begins, by partition.

    Args:
        topic: The topic.
        start: Where to begin.
        partitions: In these only; in all, if left out.

    Raises:
        InvalidInput: It is not a start, or lies behind an end.
    """
    # Whatever the start is, the topic judges it.
    reader = topic.reader(start=start, partitions=partitions)  # type: ignore[arg-type]
    positions = reader.positions
    reader.close()
    return positions
