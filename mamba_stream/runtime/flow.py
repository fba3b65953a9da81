"""A plan at work: its steps wired together, so that a frame pushed in at a source runs through all that follow.

Neighbouring row verbs are fused into one query. The flow reads and writes nothing and asks no clock: whoever
drives it pushes rows in, tells it how far time has come, and takes what arrives at the sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import polars as pl

from mamba_stream.errors import JobFailed, StepFailed
from mamba_stream.operators.lateness import FOREVER
from mamba_stream.operators.retimed import COUNTED, Retimed
from mamba_stream.operators.rows import RowSteps
from mamba_stream.operators.step import LATE_REASON, Late, Made, StatefulStep
from mamba_stream.operators.tally import Tally
from mamba_stream.operators.union import Union
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.refusing import first_line
from mamba_stream.plan.verbs import row_verb
from mamba_stream.runtime import changelog_steps as _registers  # noqa: F401 - verbs of a module of their own
from mamba_stream.runtime.steps import operator_of, step_of
from mamba_stream.runtime.watermarks import Mark, PartitionTime, combined, mark_of

T = TypeVar("T")
Sink = Callable[[pl.DataFrame], None]

_FAILURES = (Exception, pl.exceptions.PanicException)
"""What a step may raise; a panic inside Polars is no Exception."""


@dataclass(slots=True)
class LateCounts:
    """How many rows came too late for a step.

    Attributes:
        by_watermark: Too late for the watermark of their own partition.
        by_idleness: In time for it, but their partition had been silent for so long that time went on without it.
        short: By how many ticks the lateness fell short, for the former.
        rows: All rows that arrived at the step.
    """

    by_watermark: int = 0
    by_idleness: int = 0
    short: Tally = field(default_factory=Tally)
    rows: int = 0

    def count(self, late: Late) -> None:
        """Counts late rows."""
        idle = late.frame.get_column(LATE_REASON).eq("idle").to_numpy()
        self.by_idleness += int(idle.sum())
        self.by_watermark += int((~idle).sum())
        self.short.add(late.by[~idle])


class Flow:
    """The steps of a plan, wired."""

    def __init__(self, analysis: Analysis, sinks: Mapping[n.Node, Sink]) -> None:
        """Wires a plan.

        Args:
            analysis: The plan.
            sinks: What takes the rows of each of the plan's last nodes.
        """
        self._analysis = analysis
        self._next: dict[n.Node, list[Sink]] = {node: [] for node in analysis.nodes}
        self.steps: dict[n.Stateful, StatefulStep] = {}
        self.late: dict[n.Stateful, LateCounts] = {}
        self.reading = ""
        """What is being worked on, for messages: topic, partition and offsets."""
        for node, sink in sinks.items():
            self._next[node].append(sink)
        self._wire()
        self._retimed_from: dict[n.Node, list[Retimed]] = {}
        for node, step in self.steps.items():
            if isinstance(step, Retimed):
                for source in analysis.sources_of(node):
                    self._retimed_from.setdefault(source, []).append(step)

    def push(self, source: n.Node, frame: pl.DataFrame) -> None:
        """Rows of a source enter."""
        self._pass(source, frame)

    def reject(self, source: n.Node, frame: pl.DataFrame) -> None:
        """Rows that were set aside, of a source or where they get their time, enter their own stream."""
        for node in self._analysis.nodes:
            if isinstance(node, n.RejectedRows) and node.parent is source:
                self._pass(node, frame)

    def advance(self, sources: Mapping[n.Node, Mapping[int, PartitionTime]]) -> None:
        """Lets time advance through the plan: each step gives out what it can before those behind it hear of it.

        Args:
            sources: How far time has come in each partition of each source.
        """
        marks: dict[n.Node, Mark] = {}
        self.reading = "letting time advance"
        for node in self._analysis.nodes:
            if isinstance(node, n.Source):
                marks[node] = mark_of(sources[node].values())
            elif isinstance(node, n.WithTime):
                marks[node] = self._retimed(node, sources)
            elif isinstance(node, n.LateRows):
                marks[node] = marks[node.origin]
            elif isinstance(node, n.Handover) and marks[node.history].watermark < FOREVER:
                marks[node] = marks[node.history]
            elif isinstance(node, n.Handover):
                marks[node] = marks[node.live]
            else:
                mark = combined(marks[parent] for parent in node.parents)
                if isinstance(node, n.Stateful):
                    self._advance(node, mark.watermark)
                    mark = Mark(min(mark.watermark, self.steps[node].horizon), mark.idle)
                marks[node] = mark

    def _retimed(self, node: n.WithTime, sources: Mapping[n.Node, Mapping[int, PartitionTime]]) -> Mark:
        """How far the time has come that rows have from here on; whether they still come, the sources know."""
        step = self.steps[node]
        assert isinstance(step, Retimed)
        mark = mark_of(
            replace(
                time,
                lateness=step.lateness,
                greatest=step.greatest(self._analysis.numbers[source], partition),
            )
            for source in self._analysis.sources_of(node)
            for partition, time in sources[source].items()
        )
        step.come_to(mark.watermark)
        return mark

    def gives_time(self, source: n.Node) -> bool:
        """Whether rows of a source get another time than its own."""
        return source in self._retimed_from

    def watermark_of(self, source: n.Node, partition: int) -> int | None:
        """How far behind a partition's rows hold back time where that is another than its own; the slowest."""
        behind = self._retimed_from.get(source)
        if behind is None:
            return None
        number = self._analysis.numbers[source]
        return min(step.watermark(number, partition) for step in behind)

    def _advance(self, node: n.Stateful, watermark: int) -> None:
        step = self.steps[node]
        if watermark <= step.closed:
            return
        pieces = step.advance(watermark)
        while (made := self._guarded(node, lambda: next(pieces, None))) is not None:
            self._give(node, made)

    def _pass(self, node: n.Node, frame: pl.DataFrame) -> None:
        if frame.height:
            for take in self._next[node]:
                take(frame)

    def _give(self, node: n.Stateful, made: Made, port: int = 0) -> None:
        """Passes on what a step made; late rows, which are those of one port, to whoever wants these."""
        if made.rows is not None:
            self._pass(node, made.rows)
        if made.late is not None:
            self.late[node].count(made.late)
            for late in self._analysis.nodes:
                if isinstance(late, n.LateRows) and late.parent is node and late.port == port:
                    self._pass(late, made.late.frame)
        if isinstance(node, n.WithTime) and COUNTED in made.sides:
            self.reject(node, made.sides[COUNTED])

    def _wire(self) -> None:
        consumers: dict[n.Node, list[n.Node]] = {node: [] for node in self._analysis.nodes}
        for node in self._analysis.nodes:
            for parent in node.parents:
                consumers[parent].append(node)
        fused: set[n.Node] = set()
        for node in self._analysis.nodes:
            if node in fused or isinstance(node, n.Source | n.LateRows | n.RejectedRows):
                continue
            if isinstance(node, n.RowStep):
                chain = _chain(node, consumers)
                fused.update(chain)
                self._next[node.parent].append(self._rows(chain))
            elif isinstance(node, n.Stateful):
                self.steps[node], self.late[node] = step_of(node, self._analysis), LateCounts()
                for port, parent in enumerate(node.parents):
                    self._next[parent].append(self._stateful(node, port))
            elif isinstance(node, n.Concat):
                for number, parent in enumerate(node.parents):
                    self._next[parent].append(self._union(node, number))
            else:
                (parent,) = node.parents
                self._next[parent].append(self._plain(node))

    def _rows(self, chain: Sequence[n.RowStep]) -> Sink:
        shapes, present = self._analysis.shapes, self._analysis.present
        verbs = [row_verb(v, shapes[v.parent], shapes[v], present[v.parent]) for v in chain]
        steps, last = RowSteps(verbs), chain[-1]

        def take(frame: pl.DataFrame) -> None:
            try:
                result = steps(frame)
            except Exception as error:
                raise self._failed(chain[steps.culprit(frame)], error) from error
            self._pass(last, result)

        return take

    def _plain(self, node: n.Node) -> Sink:
        operator = operator_of(node, self._analysis)
        return lambda frame: self._pass(node, self._guarded(node, lambda: operator(frame)))

    def _union(self, node: n.Concat, number: int) -> Sink:
        changes = self._analysis.shapes[node].changelog is not None
        union = Union(self._analysis.needed[node], number, len(node.parents), changes)
        return lambda frame: self._pass(node, union(frame))

    def _stateful(self, node: n.Stateful, port: int) -> Sink:
        step, counts = self.steps[node], self.late[node]

        def take(frame: pl.DataFrame) -> None:
            counts.rows += frame.height
            self._give(node, self._guarded(node, lambda: step.add(frame, port)), port)

        return take

    def _guarded(self, node: n.Node, work: Callable[[], T]) -> T:
        try:
            return work()
        except JobFailed:
            raise
        except _FAILURES as error:
            raise self._failed(node, error) from error

    def _failed(self, node: n.Node, error: Exception) -> StepFailed:
        name = f" {node.name!r}" if isinstance(node, n.Stateful) else ""
        return StepFailed(
            f"step {node.verb}{name} at {node.place} failed on {self.reading}: "
            f"{type(error).__name__}: {first_line(error)}"
        )


def _chain(first: n.RowStep, consumers: Mapping[n.Node, Sequence[n.Node]]) -> list[n.RowStep]:
    """Row verbs that follow each other with no other branch in between."""
    chain = [first]
    while len(consumers[chain[-1]]) == 1 and isinstance(following := consumers[chain[-1]][0], n.RowStep):
        chain.append(following)
    return chain
