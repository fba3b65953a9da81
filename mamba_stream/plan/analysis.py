"""Everything that can be known of a plan before it runs: shapes, splits, columns to read, where order matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

import msgspec

from mamba_stream.plan import nodes as n
from mamba_stream.plan.aggregates import AggregatePlan
from mamba_stream.plan.columns import columns_read, present_columns
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Facts, Shape, shapes, split_window


class Analysis(msgspec.Struct, frozen=True, eq=False):
    """A plan with what follows from it.

    Attributes:
        nodes: All of them, parents first.
        shapes: The columns and the time of each.
        needed: The columns of each that some later step needs, in the order of its schema.
        present: The columns that the frames of each really have: those read at the sources, and what steps made since.
        splits: How each window step aggregates.
        ordered: Nodes whose rows must carry their origin, since a later step depends on the order of rows.
        by_sides: Nodes whose rows carry the origin of two rows that they are of, which says the order of these as well.
        timed: Nodes whose rows must carry the watermark that they met, since a later step depends on time.
        numbers: A number for every source and every step with state, for the origin of their rows.
    """

    nodes: Sequence[n.Node]
    shapes: Mapping[n.Node, Shape]
    needed: Mapping[n.Node, tuple[str, ...]]
    present: Mapping[n.Node, Sequence[str]]
    splits: Mapping[n.Window, AggregatePlan]
    ordered: frozenset[n.Node]
    by_sides: frozenset[n.Node]
    timed: frozenset[n.Node]
    numbers: Mapping[n.Node, int]

    @property
    def sources(self) -> list[n.AnySource]:
        """The sources, in the order of their numbers."""
        return [node for node in self.nodes if isinstance(node, n.AnySource)]

    def read_from(self, source: n.AnySource) -> Sequence[str]:
        """The columns to read from a source: one at least, or its rows could not be counted."""
        columns = self.needed[source]
        if not (isinstance(source, n.TopicSource) and source.by_append):
            return columns
        there = [name for name in columns if name != n.APPEND_TIME]
        return there or [name for name in self.shapes[source].schema if name != n.APPEND_TIME][:1]

    @property
    def steps(self) -> list[n.Stateful]:
        """The steps with state, in the order of their numbers."""
        return [node for node in self.nodes if isinstance(node, n.Stateful)]

    def takes_chunks(self, step: n.Stateful) -> bool:
        """Whether a step takes rows in chunks as they lie: it puts together what it keeps, or adds them up."""
        if isinstance(step, n.Window) and step.changing is None and step.spec.kind not in ("session", "rows"):
            split = self.splits[step]
            return split.partial_folds is not None and not split.kept
        return step.in_chunks

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
    steps = [node for node in nodes if isinstance(node, n.Stateful)]
    splits = {}
    for node in steps:
        if isinstance(node, n.Window):
            with refusing(node):
                splits[node] = split_window(node, found[node.parent])
    needed = _needed(nodes, roots, found)
    ordered = _before([step for step in steps if in_order(step, found)], through_kept=True)
    return Analysis(
        nodes=nodes,
        shapes=found,
        needed=needed,
        present=_present(nodes, found, needed),
        splits=splits,
        ordered=ordered,
        by_sides=_by_sides(nodes, ordered, found),
        timed=_before([step for step in steps if step.by_time], through_kept=False),
        numbers={
            node: number
            for number, node in enumerate([*(node for node in nodes if isinstance(node, n.Source)), *steps])
        },
    )


@singledispatch
def in_order(node: n.Stateful, found: Mapping[n.Node, Shape]) -> bool:
    """Whether what a step does depends on the order of the rows that it gets; verbs register theirs."""
    return True


@in_order.register
def _(node: n.Window, found: Mapping[n.Node, Shape]) -> bool:
    split = split_window(node, found[node.parent])
    return node.spec.kind == "rows" or split.needs_order or bool(split.kept)


def _before(steps: Sequence[n.Stateful], *, through_kept: bool) -> frozenset[n.Node]:
    """All nodes whose rows reach one of these steps as they are.

    Args:
        steps: The steps.
        through_kept: Go on before steps that give on rows that they got, as their origin goes on with them.
    """
    found: set[n.Node] = set()
    waiting: list[n.Node] = [parent for step in steps for parent in step.parents]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        if isinstance(node, n.LateRows):
            # Late rows are rows that went into the step.
            waiting.append(node.origin)
        elif not isinstance(node, n.Stateful) or (through_kept and node.keeps_rows):
            waiting.extend(node.parents)
    return frozenset(found)


_ROW_BY_ROW = (n.Filter, n.Select, n.WithColumns, n.Drop, n.Rename, n.Cast)
"""Steps that give a row for a row, or none, and leave alone where it is from."""


def _by_sides(
    nodes: Sequence[n.Node], ordered: frozenset[n.Node], found: Mapping[n.Node, Shape]
) -> frozenset[n.Node]:
    """Steps of whose rows only the order among few counts, so that they need not wait for it; and what lies between.

    To number the pairs of a join is to keep them until time has passed them, and to sort them with all that they hold.
    """
    after: dict[n.Node, list[n.Node]] = {node: [] for node in nodes}
    for node in nodes:
        for parent in node.parents:
            after[parent].append(node)

    def reached(node: n.Node) -> list[n.Node] | None:
        """The node and the rows of it that reach steps that take them so; ``None`` where others would."""
        rows = [node]
        for follower in after[node]:
            if isinstance(follower, _ROW_BY_ROW):
                more = reached(follower)
                if more is None:
                    return None
                rows += more
            elif not (
                isinstance(follower, n.Stateful) and follower.takes_sides and in_order(follower, found)
            ):
                return None
        return rows

    told = [node for node in nodes if isinstance(node, n.Stateful) and node.tells_sides and node in ordered]
    return frozenset(node for rows in map(reached, told) for node in rows or ())


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
        if shape.changelog is not None:
            need[node].update(shape.changelog.key)
        for port, parent in enumerate(node.parents):
            need[parent] |= columns_read(node, port, found, need[node])
        if isinstance(node, n.LateRows):
            need[node.origin].update(found[node.origin].schema)
    return {node: tuple(name for name in found[node].schema if name in need[node]) for node in nodes}


def _present(
    nodes: Sequence[n.Node], found: Mapping[n.Node, Shape], needed: Mapping[n.Node, tuple[str, ...]]
) -> dict[n.Node, Sequence[str]]:
    present: dict[n.Node, Sequence[str]] = {}
    for node in nodes:
        present[node] = present_columns(node, found, present, needed[node])
    return present
