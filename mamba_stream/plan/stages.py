"""A plan cut into stages: what one task does to its share of the rows, and where rows go to other tasks by their key.

A stage is a part of the plan that runs as one loop over the partitions of its inputs; a task is a stage on one of these
partitions. Stages are cut where rows with equal keys have to meet that may lie anywhere before: there rows go through
an *exchange*, an internal topic whose partitions are those of the stage behind it. The nodes are those of the plan
itself: a stage is a selection of them, so that what was found out about the plan holds for every stage of it.

Where aggregates decompose, partial results go through the exchange instead of rows: then the step is done in two
halves, one in each stage (:mod:`mamba_stream.plan.halves`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.halves import Halved, in_halves
from mamba_stream.plan.lying import Laid
from mamba_stream.plan.meeting import Meeting, key_behind, meeting_at, orders_anew, takes_whole_windows


@dataclass(frozen=True, eq=False, kw_only=True)
class Exchange(n.Node):
    """Where rows leave a stage, and enter another, which is the only one that reads there.

    Attributes:
        number: Tells it from the others of the plan.
        node: Whose rows they are.
        key: The columns that say to which task a row goes; none where all go to one.
        partitions: How many tasks there are to go to.
        partials: The step that takes them, where its partial results go instead of rows.
    """

    number: int
    node: n.Node
    key: tuple[str, ...]
    partitions: int
    partials: Halved | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a plan that runs as one loop.

    Attributes:
        number: Tells it from the others; those that its rows come from have lower ones.
        nodes: The steps that are done here, parents first, sources included.
        enters: The exchanges that rows come from, by the step that takes them and its input.
        leaves: The exchanges that rows go to.
        tasks: On how many partitions it runs.
        lie: The columns by whose hash rows lie in its tasks, by the step that takes them and its input, for steps whose
            rows have to meet.
    """

    number: int
    nodes: Sequence[n.Node]
    enters: Mapping[tuple[n.Node, int], Exchange]
    leaves: Sequence[Exchange]
    tasks: int
    lie: Mapping[tuple[n.Node, int], tuple[str, ...]] = field(default_factory=dict)

    @property
    def sources(self) -> list[n.AnySource]:
        """The sources that are read here."""
        return [node for node in self.nodes if isinstance(node, n.AnySource)]

    @property
    def exchanges(self) -> list[Exchange]:
        """The exchanges that are read here, each once."""
        return list(dict.fromkeys(self.enters.values()))

    def inputs(self, node: n.Node) -> Sequence[tuple[int, n.Node]]:
        """Where a step's rows come from in this stage, by input; other stages may have its other inputs."""
        return self._inputs[node]

    @cached_property
    def _inputs(self) -> Mapping[n.Node, Sequence[tuple[int, n.Node]]]:
        here = set(self.nodes)
        found: dict[n.Node, list[tuple[int, n.Node]]] = {node: [] for node in self.nodes}
        for node, inputs in found.items():
            for port, parent in enumerate(node.parents):
                inlet = self.enters.get((node, port))
                if inlet is not None or parent in here:
                    inputs.append((port, inlet or parent))
        return found


def whole(analysis: Analysis) -> Stage:
    """A plan as a single stage."""
    return Stage(0, analysis.nodes, {}, (), 1)


def stages(analysis: Analysis, partitions: int, lie: Mapping[n.Node, Laid]) -> list[Stage]:
    """Cuts a plan; one stage where it cannot be cut.

    Args:
        analysis: The plan.
        partitions: How many tasks a stage behind an exchange by key has.
        lie: How the rows of sources lie in partitions; of those that are not there, one task reads all.
    """
    if any(isinstance(node, n.Handover) for node in analysis.nodes):
        # What comes second is read when the first is over, which one loop alone can tell.
        return [whole(analysis)]
    together = _of_whole_windows(analysis)
    while True:
        cut = _Cut(analysis, partitions, lie, together)
        disordered = cut.disordered()
        if not disordered:
            return cut.stages()
        together |= disordered


@dataclass(eq=False)
class _Open:
    """A stage in the making. ``before`` are the stages that its rows come from, directly or not."""

    tasks: int
    nodes: list[n.Node] = field(default_factory=list)
    enters: dict[tuple[n.Node, int], Exchange] = field(default_factory=dict)
    before: set[_Open] = field(default_factory=set)


class _Cut:
    """One way of cutting a plan."""

    def __init__(
        self, analysis: Analysis, partitions: int, lie: Mapping[n.Node, Laid], together: set[n.Node]
    ) -> None:
        """Cuts it.

        Args:
            analysis: The plan.
            partitions: Tasks of a stage behind an exchange by key.
            lie: How the rows of sources lie: each partition is a task of the stage that reads it.
            together: Steps whose rows all have to be in one task, whatever their keys.
        """
        self._analysis = analysis
        self._shapes = analysis.shapes
        self._partitions = partitions
        self._laid = lie
        self._together = together
        self._at: dict[n.Node, list[_Open]] = {}
        self._key: dict[n.Node, Meeting] = {}
        self._lie: dict[tuple[n.Node, int], tuple[str, ...]] = {}
        self._exchanges: list[Exchange] = []
        for node in analysis.nodes:
            self._place(node)

    def stages(self) -> list[Stage]:
        """The stages, those before others first."""
        opened = list(dict.fromkeys(stage for node in self._analysis.nodes for stage in self._at[node]))
        opened.sort(key=lambda stage: len(stage.before))
        leaves: dict[_Open, list[Exchange]] = {stage: [] for stage in opened}
        for exchange in self._exchanges:
            for stage in self._at[exchange.node]:
                leaves[stage].append(exchange)
        return [
            Stage(
                number,
                tuple(stage.nodes),
                stage.enters,
                tuple(leaves[stage]),
                stage.tasks,
                {(node, port): key for (node, port), key in self._lie.items() if node in stage.nodes},
            )
            for number, stage in enumerate(opened)
        ]

    def disordered(self) -> set[n.Node]:
        """Steps over several tasks whose rows come to others that depend on the order among all of them."""
        found: set[n.Node] = set()
        for exchange in self._exchanges:
            if exchange.node in self._analysis.ordered:
                found |= {node for node in _ordering(exchange.node) if self._key[node] != ()}
        return found - self._together

    def _place(self, node: n.Node) -> None:
        if isinstance(node, n.Source):
            laid = self._laid.get(node, Laid())
            self._at[node] = [_Open(laid.partitions, [node])]
            self._key[node] = () if laid.partitions == 1 else laid.key or None
            return
        wanted = [self._meeting(node, port) for port in range(len(node.parents))]
        if not all(want is None or self._met(node, wanted) for want in wanted):
            self._behind_exchanges(node, wanted)
            return
        there = list(dict.fromkeys(stage for parent in node.parents for stage in self._at[parent]))
        if isinstance(node, n.Stateful) and len(there) > 1:
            there = [self._merged(there)]
        for stage in there:
            stage.nodes.append(node)
        self._at[node] = there
        for port, parent in enumerate(node.parents):
            if wanted[port] is not None:
                self._lie[node, port] = self._key[parent] or ()
        if len(there) == 1 and there[0].tasks == 1:
            self._key[node] = ()
            return
        # Inputs that have met lie alike, though their columns may have other names.
        keys = {self._key[parent] for parent in (node.parents[:1] if wanted[0] else node.parents)}
        key = keys.pop() if len(keys) == 1 else None
        self._key[node] = key_behind(node, key, self._shapes) if key else None

    def _meeting(self, node: n.Node, port: int) -> Meeting:
        """Which rows have to meet at an input; of keys that cannot be hashed, all."""
        want = () if node in self._together else meeting_at(node, port, self._shapes)
        schema = self._shapes[node.parents[port]].schema
        if want and any(schema[name].is_nested() or schema[name] == pl.Object for name in want):
            return ()
        return want

    def _met(self, node: n.Node, wanted: Sequence[Meeting]) -> bool:
        """Whether rows that have to meet do so already."""
        homes = list(dict.fromkeys(stage for parent in node.parents for stage in self._at[parent]))
        if len(homes) > 1 and any(one in other.before for one in homes for other in homes):
            return False
        if all(stage.tasks == 1 for stage in homes):
            # To read one partition is no reason to do by one task what several could.
            return len(homes) == 1 and (not any(wanted) or not _reads_source(homes[0]))
        if len({stage.tasks for stage in homes}) > 1:
            return False
        places = []
        for parent, want in zip(node.parents, wanted, strict=True):
            key = self._key[parent]
            if not key or want is None or not set(key) <= set(want):
                return False
            places.append(tuple(want.index(name) for name in key))
        return len(set(places)) == 1

    def _behind_exchanges(self, node: n.Node, wanted: Sequence[Meeting]) -> None:
        """A step begins, or joins, a stage that all its rows come to through exchanges."""
        partials = node if isinstance(node, Halved) and in_halves(node, self._analysis) else None
        carried = [(parent, want or (), partials) for parent, want in zip(node.parents, wanted, strict=True)]
        # In the order in which they were opened: whoever cuts the plan anew, as each worker does, is to find the same.
        for stage in dict.fromkeys(stage for stages in self._at.values() for stage in stages):
            inlets = {_carried(inlet): inlet for inlet in stage.enters.values()}
            if inlets.keys() == set(carried):
                break
        else:
            # Never one that another stage reads: whoever has read rows has them trimmed away.
            inlets = {one: self._exchange(node, *one) for one in dict.fromkeys(carried)}
            before = {stage for parent in node.parents for stage in self._at[parent]}
            stage = _Open(max(inlet.partitions for inlet in inlets.values()))
            stage.before = before.union(*(one.before for one in before))
        enters = {(node, port): inlets[one] for port, one in enumerate(carried)}
        stage.nodes.append(node)
        stage.enters.update(enters)
        self._lie.update({entry: inlet.key for entry, inlet in enters.items()})
        self._at[node] = [stage]
        self._key[node] = () if stage.tasks == 1 else key_behind(node, wanted[0] or (), self._shapes)

    def _exchange(
        self, taker: n.Node, node: n.Node, key: tuple[str, ...], partials: Halved | None
    ) -> Exchange:
        exchange = Exchange(
            place=taker.place,
            number=len(self._exchanges),
            node=node,
            key=key,
            partitions=self._partitions if key else 1,
            partials=partials,
        )
        self._exchanges.append(exchange)
        return exchange

    def _merged(self, stages: Sequence[_Open]) -> _Open:
        """Stages as one, since a step takes rows of all of them."""
        first, *others = stages
        for other in others:
            first.nodes += [node for node in other.nodes if node not in first.nodes]
            first.enters.update(other.enters)
            first.before |= other.before
            for node, there in self._at.items():
                if other in there:
                    self._at[node] = list(dict.fromkeys(first if one is other else one for one in there))
        order = {node: place for place, node in enumerate(self._analysis.nodes)}
        first.nodes.sort(key=order.__getitem__)
        every = {stage for there in self._at.values() for stage in there}
        for stage in every:
            if stage.before & set(others):
                stage.before = (stage.before - set(others)) | {first}
        return first


def _carried(exchange: Exchange) -> tuple[n.Node, tuple[str, ...], Halved | None]:
    """What goes through an exchange."""
    return exchange.node, exchange.key, exchange.partials


def _reads_source(stage: _Open) -> bool:
    return any(isinstance(node, n.Source) for node in stage.nodes)


def _of_whole_windows(analysis: Analysis) -> set[n.Node]:
    """Windows all of whose rows some later step wants together."""
    found: set[n.Node] = set()
    for node in analysis.nodes:
        if takes_whole_windows(node, analysis.shapes):
            found |= {before for before in n.walk(node.parents) if _makes_windows(before, node, analysis)}
    return found


def _makes_windows(before: n.Node, node: n.Node, analysis: Analysis) -> bool:
    return isinstance(before, n.Stateful) and analysis.shapes[before].start is not None


def _ordering(node: n.Node) -> set[n.Node]:
    """The steps that have given a node's rows their order."""
    if orders_anew(node):
        return {node}
    if isinstance(node, n.LateRows):
        return _ordering(node.origin)
    return set().union(*(_ordering(parent) for parent in node.parents))
