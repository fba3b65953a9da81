"""Everything that can be known of a plan before it runs: shapes, splits, columns to read, where order matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mamba_stream.core.trees import columns
from mamba_stream.plan import nodes as n
from mamba_stream.plan.aggregates import AggregatePlan
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Facts, Shape, shapes, split_window


@dataclass(frozen=True, eq=False)
class Analysis:
    """A plan with what follows from it.

    Attributes:
        nodes: All of them, parents first.
        shapes: The columns and the time of each.
        needed: The columns of each that some later step needs, in the order of its schema.
        splits: How each window step aggregates.
        ordered: Nodes whose rows must carry their origin, since a later step depends on the order of rows.
        timed: Nodes whose rows must carry the watermark that they met, since a later step depends on time.
        numbers: A number for every source and window step, for the origin of their rows.
    """

    nodes: Sequence[n.Node]
    shapes: Mapping[n.Node, Shape]
    needed: Mapping[n.Node, tuple[str, ...]]
    splits: Mapping[n.Window, AggregatePlan]
    ordered: frozenset[n.Node]
    timed: frozenset[n.Node]
    numbers: Mapping[n.Node, int]

    @property
    def sources(self) -> list[n.AnySource]:
        """The sources, in the order of their numbers."""
        return [node for node in self.nodes if isinstance(node, n.AnySource)]

    @property
    def windows(self) -> list[n.Window]:
        """The window steps, in the order of their numbers."""
        return [node for node in self.nodes if isinstance(node, n.Window)]

    def sources_of(self, node: n.Node) -> list[n.AnySource]:
        """The sources that a node's rows come from, directly or through other steps."""
        return [found for found in n.walk([node]) if isinstance(found, n.AnySource)]


def analyse(roots: Sequence[n.Node], topics: Facts) -> Analysis:
    """What follows from a plan whose topics are known.

    Raises:
        PipelineRefused: A step cannot be right; the message names the user's line.
    """
    nodes = n.walk(roots)
    found = shapes(nodes, topics)
    windows = [node for node in nodes if isinstance(node, n.Window)]
    splits = {}
    for window in windows:
        with refusing(window):
            splits[window] = split_window(window, found[window.parent])
    in_order = [window for window in windows if splits[window].needs_order or splits[window].kept]
    numbered = [*(node for node in nodes if isinstance(node, n.Source)), *windows]
    return Analysis(
        nodes=nodes,
        shapes=found,
        needed=_needed(nodes, roots, found),
        splits=splits,
        ordered=_before(in_order),
        timed=_before(windows),
        numbers={node: number for number, node in enumerate(numbered)},
    )


def _before(windows: Sequence[n.Window]) -> frozenset[n.Node]:
    """All nodes whose rows reach one of these steps without passing another window step."""
    found: set[n.Node] = set()
    waiting: list[n.Node] = [window.parent for window in windows]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if isinstance(node, n.LateRows):
                # Late rows are the rows that went into the window step.
                waiting.append(node.parent.parent)
            elif not isinstance(node, n.Window):
                waiting.extend(node.parents)
    return frozenset(found)


def _needed(
    nodes: Sequence[n.Node], roots: Sequence[n.Node], found: Mapping[n.Node, Shape]
) -> dict[n.Node, tuple[str, ...]]:
    need: dict[n.Node, set[str]] = {node: set() for node in nodes}
    for root in roots:
        need[root].update(found[root].schema)
    for node in reversed(nodes):
        shape = found[node]
        if isinstance(node, n.Source) and shape.time is not None:
            need[node].add(shape.time)
        for parent in node.parents:
            need[parent] |= _read(node, found[parent], shape, need[node])
        if isinstance(node, n.LateRows):
            need[node.parent.parent].update(found[node.parent.parent].schema)
    return {node: tuple(name for name in found[node].schema if name in need[node]) for node in nodes}


def _read(node: n.Node, before: Shape, after: Shape, need: set[str]) -> set[str]:
    """The columns of its input that a node reads, for those of its own that are needed."""
    match node:
        case n.Filter():
            return need | _columns(node.predicates, before)
        case n.Select():
            return _columns(node.exprs, before)
        case n.WithColumns():
            return {name for name in need if name in before.schema} | _columns(node.exprs, before)
        case n.Rename():
            return {old for old, new in zip(before.schema, after.schema, strict=True) if new in need}
        case n.Drop() | n.Cast() | n.Concat():
            return {name for name in need if name in before.schema}
        case n.Lookup():
            # A column of the table gets its suffix only where the stream has one of its name.
            same = {name for name in node.table.columns if name in before.schema}
            return {name for name in need if name in before.schema} | same | set(node.left_on)
        case n.Window():
            assert before.time is not None
            return {*node.by, before.time} | _columns(tuple(node.aggregates.values()), before)
        case n.LateRows():
            return set()
        case _:
            return set(before.schema)


def _columns(exprs: Sequence[object], before: Shape) -> set[str]:
    return set().union(*(columns(expr, before.schema) for expr in exprs))  # type: ignore[arg-type]
