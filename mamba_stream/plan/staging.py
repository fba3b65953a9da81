"""A plan's stages in words: what tasks do, and which rows go from one to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.alone import alone
from mamba_stream.plan.analysis import analyse
from mamba_stream.plan.explain import explain, words_of
from mamba_stream.plan.lying import Laid, in_words, laid, why_shuffled
from mamba_stream.plan.shapes import TopicFacts, known_shapes
from mamba_stream.plan.stages import Exchange, Stage, stages

PARTITIONS: Final = 32
"""How many tasks a stage behind a shuffle has, unless told otherwise."""


def explained(roots: Sequence[n.Node], style: str) -> str:
    """A plan for people: ``text``, ``mermaid`` for a picture, or ``stages`` for how it is cut for workers.

    Raises:
        InvalidInput: There is no such style.
        PipelineRefused: How it is cut is not known yet.
    """
    if style == "stages":
        return explain_stages(roots)
    return explain(roots, style=style, also=meetings(roots) if style == "text" else None)


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
    lie = laid(analysis.sources)
    cut = stages(analysis, PARTITIONS, lie)
    met = _meetings(cut, lie)
    lines = [line for stage in cut for line in _lines(stage, cut, numbers, met)]
    one = alone(cut)
    if one is not None:
        fewer = "" if one.enough is None else f" with workers= less than {one.enough}"
        lines.append(f"one worker{fewer}: {one.why}")
    return "\n".join(lines)


def meetings(roots: Sequence[n.Node]) -> Mapping[n.Node, str]:
    """By step whose rows have to meet, whether they do where they lie, or why not; of what is known already."""
    nodes = n.walk(roots)
    if not all(node in known_shapes(nodes) for node in nodes):
        return {}
    try:
        analysis = analyse(roots, _facts(nodes))
    except PipelineRefused:
        # It is refused where it is run.
        return {}
    lie = laid(analysis.sources)
    if all(one.partitions == 1 for one in lie.values()):
        return {}
    return _meetings(stages(analysis, PARTITIONS, lie), lie)


def _meetings(cut: Sequence[Stage], lie: Mapping[n.Node, Laid]) -> dict[n.Node, str]:
    found = {}
    for stage in cut:
        for node, port in stage.lie:
            if port or stage.tasks == 1:
                continue
            inlet = stage.enters.get((node, port))
            if inlet is not None:
                why = why_shuffled(_sources_of(node, cut), lie, inlet.key)
                found[node] = f"a shuffle by {', '.join(inlet.key)}{': ' * bool(why)}{why}"
            elif stage.sources:
                found[node] = f"no shuffle: {in_words(stage.sources, lie)}"
    return found


def _sources_of(node: n.Node, cut: Sequence[Stage]) -> list[n.AnySource]:
    """The sources that a step's rows come from, if they come from nothing but those."""
    before = n.walk(node.parents)
    shuffled = any(inlet in before for stage in cut for inlet, _ in stage.enters)
    return [] if shuffled else [other for other in before if isinstance(other, n.AnySource)]


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


def _lines(
    stage: Stage,
    all_stages: Sequence[Stage],
    numbers: Mapping[n.Node, int],
    met: Mapping[n.Node, str],
) -> Iterator[str]:
    yield f"stage {stage.number}: {_tasks(stage)}"
    for node in stage.nodes:
        yield f"{numbers[node]:>5}  {node.verb}: {words_of(node)}"
        if node in met:
            yield f"       {met[node]}"
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
