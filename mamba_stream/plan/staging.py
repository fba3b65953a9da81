"""A plan's stages in words: what tasks do, and which rows go from one to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import analyse
from mamba_stream.plan.explain import words_of
from mamba_stream.plan.shapes import TopicFacts, known_shapes
from mamba_stream.plan.stages import Exchange, Stage, stages

PARTITIONS: Final = 32
"""How many tasks a stage behind a shuffle has, unless told otherwise."""
_SOME: Final = 2
"""Partitions of a topic that is not known yet: it has several, as far as cutting goes."""


def explain_stages(roots: Sequence[n.Node]) -> str:
    """How a plan is cut for several workers.

    Args:
        roots: Its last nodes.

    Raises:
        PipelineRefused: A topic's columns are not known yet, so that nothing can be said.
    """
    nodes = n.walk(roots)
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    analysis = analyse(roots, _facts(nodes))
    spread: dict[n.Node, int] = {
        node: _SOME if node.bound is None else node.bound.partitions
        for node in analysis.sources
        if isinstance(node, n.TopicSource)
    }
    cut = stages(analysis, PARTITIONS, spread)
    return "\n".join(line for stage in cut for line in _lines(stage, cut, numbers))


def _facts(nodes: Sequence[n.Node]) -> dict[str, TopicFacts]:
    shapes = known_shapes(nodes)
    found = {}
    for node in nodes:
        if isinstance(node, n.TopicSource):
            if node not in shapes:
                raise PipelineRefused(
                    f"how topic {node.topic!r} is cut into stages depends on its columns, which are not known yet: use "
                    f"log[{node.topic!r}].stream(), or say schema= (stream at {node.place})"
                )
            time = node.bound.time if node.bound is not None else None
            found[node.topic] = TopicFacts(shapes[node].schema, time)
    return found


def _lines(stage: Stage, all_stages: Sequence[Stage], numbers: Mapping[n.Node, int]) -> Iterator[str]:
    yield f"stage {stage.number}: {_tasks(stage)}"
    for node in stage.nodes:
        yield f"{numbers[node]:>5}  {node.verb}: {words_of(node)}"
    for exchange in stage.leaves:
        [reader] = [other for other in all_stages if exchange in other.exchanges]
        yield f"       → stage {reader.number}: {_what(exchange, numbers)}"


def _tasks(stage: Stage) -> str:
    if stage.tasks == 1:
        return "one task"
    if stage.sources:
        return "a task for each partition"
    return f"{stage.tasks} tasks"


def _what(exchange: Exchange, numbers: Mapping[n.Node, int]) -> str:
    what = "rows" if exchange.partials is None else f"partial results of {numbers[exchange.partials]}"
    where = f"by {', '.join(exchange.key)}" if exchange.key else "all to one task"
    return f"{what} of {numbers[exchange.node]}, {where}"
