"""A plan at work: its steps wired together, so that a frame pushed in at a source runs through all that follow.

Neighbouring row verbs are fused into one query. The flow reads and writes nothing and asks no clock: whoever
drives it pushes rows in, tells it how far time has come, and takes what arrives at the sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import polars as pl

from mamba_stream.errors import JobFailed, StepFailed
from mamba_stream.operators.lookup import Lookup
from mamba_stream.operators.mapping import Inspect, MapBatches
from mamba_stream.operators.rows import RowSteps
from mamba_stream.operators.tally import Tally
from mamba_stream.operators.union import Union
from mamba_stream.operators.window import LATE_REASON, WindowSettings, WindowStep
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.refusing import first_line
from mamba_stream.plan.verbs import present_after, row_verb
from mamba_stream.plan.windows import grid_of

T = TypeVar("T")
Sink = Callable[[pl.DataFrame], None]

_FAILURES = (Exception, pl.exceptions.PanicException)
"""What a step may raise; a panic inside Polars is no Exception."""


@dataclass(slots=True)
class LateCounts:
    """How many rows came too late for a window step.

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
        self.windows: dict[n.Window, WindowStep] = {}
        self.late: dict[n.Window, LateCounts] = {}
        self.reading = ""
        """What is being worked on, for messages: topic, partition and offsets."""
        self._present = {node: list(analysis.needed[node]) for node in analysis.nodes}
        for node, sink in sinks.items():
            self._next[node].append(sink)
        self._wire()

    def push(self, source: n.Node, frame: pl.DataFrame) -> None:
        """Rows of a source enter."""
        self._pass(source, frame)

    def reject(self, source: n.Node, frame: pl.DataFrame) -> None:
        """Rows of a source that were set aside enter their own stream."""
        for node in self._analysis.nodes:
            if isinstance(node, n.RejectedRows) and node.parent is source:
                self._pass(node, frame)

    def close(self, watermark: Callable[[n.Window], int]) -> None:
        """Lets every window step give out what its watermark closes, those first that feed others."""
        for node, step in self.windows.items():
            reached = watermark(node)
            while reached > step.closed:
                self.reading = "closing windows"
                frame = self._guarded(node, lambda: step.close(reached))  # noqa: B023 - runs at once
                if frame is not None:
                    self._pass(node, frame)

    def _pass(self, node: n.Node, frame: pl.DataFrame) -> None:
        if frame.height:
            for take in self._next[node]:
                take(frame)

    def _wire(self) -> None:
        consumers: dict[n.Node, list[n.Node]] = {node: [] for node in self._analysis.nodes}
        for node in self._analysis.nodes:
            for parent in node.parents:
                consumers[parent].append(node)
        fused: set[n.Node] = set()
        for node in self._analysis.nodes:
            self._note_present(node)
        for node in self._analysis.nodes:
            if isinstance(node, n.RowStep) and node not in fused:
                chain = _chain(node, consumers)
                fused.update(chain)
                self._connect(node.parent, self._rows(chain))
            elif isinstance(node, n.Window):
                self._connect(node.parent, self._window(node))
            elif isinstance(node, n.Concat):
                for number, parent in enumerate(node.parents):
                    self._connect(parent, self._union(node, number))
            elif isinstance(node, n.Output):
                self._connect(node.parent, self._output(node))
            elif isinstance(node, n.Lookup | n.MapBatches | n.Inspect):
                self._connect(node.parent, self._plain(node))

    def _connect(self, parent: n.Node, take: Sink) -> None:
        self._next[parent].append(take)

    def _note_present(self, node: n.Node) -> None:
        """Which columns a node's frames really have: those needed at the sources, and what steps made since."""
        shapes, present = self._analysis.shapes, self._present
        if isinstance(node, n.RowStep):
            before = present[node.parent]
            present[node] = present_after(node, shapes[node.parent], shapes[node], before)
        elif isinstance(node, n.Lookup):
            before = present[node.parent]
            absent = set(shapes[node.parent].schema) - set(before)
            present[node] = [name for name in shapes[node].schema if name not in absent]
        elif isinstance(node, n.Inspect | n.Output):
            present[node] = present[node.parent]
        elif not isinstance(node, n.Source | n.Concat):
            present[node] = shapes[node].schema.names()

    def _rows(self, chain: Sequence[n.RowStep]) -> Sink:
        shapes = self._analysis.shapes
        verbs = [row_verb(v, shapes[v.parent], shapes[v], self._present[v.parent]) for v in chain]
        steps, last = RowSteps(verbs), chain[-1]

        def take(frame: pl.DataFrame) -> None:
            try:
                result = steps(frame)
            except Exception as error:
                raise self._failed(chain[steps.culprit(frame)], error) from error
            self._pass(last, result)

        return take

    def _plain(self, node: n.Lookup | n.MapBatches | n.Inspect) -> Sink:
        step = self._operator(node)

        def take(frame: pl.DataFrame) -> None:
            self._pass(node, self._guarded(node, lambda: step(frame)))

        return take

    def _operator(self, node: n.Lookup | n.MapBatches | n.Inspect) -> Callable[[pl.DataFrame], pl.DataFrame]:
        match node:
            case n.Lookup():
                keys = node.table.select(node.right_on)
                return Lookup(
                    table=node.table,
                    left_on=node.left_on,
                    right_on=node.right_on,
                    how=node.how,
                    suffix=node.suffix,
                    multiplies=node.how in ("left", "inner") and bool(keys.is_duplicated().any()),
                )
            case n.MapBatches():
                shape = self._analysis.shapes[node]
                time = shape.time if node in self._analysis.timed else None
                return MapBatches(function=node.function, schema=shape.schema, time=time)
            case n.Inspect():
                return Inspect(node.function)

    def _union(self, node: n.Concat, number: int) -> Sink:
        union = Union(self._analysis.needed[node], number, len(node.parents))
        return lambda frame: self._pass(node, union(frame))

    def _output(self, node: n.Output) -> Sink:
        columns = self._analysis.shapes[node].schema.names()
        return lambda frame: self._pass(node, frame.select(columns))

    def _window(self, node: n.Window) -> Sink:
        analysis, before = self._analysis, self._analysis.shapes[node.parent]
        assert before.time is not None
        step = self.windows[node] = WindowStep(
            WindowSettings(
                keys=node.by,
                time=before.time,
                shift=before.shift,
                dtype=before.time_type,
                grid=grid_of(node.spec, before.time_type),
                aggregation=analysis.splits[node],
                number=analysis.numbers[node],
                with_origin=node in analysis.ordered,
            )
        )
        counts = self.late[node] = LateCounts()
        late_nodes = [late for late in analysis.nodes if isinstance(late, n.LateRows) and late.parent is node]

        def take(frame: pl.DataFrame) -> None:
            counts.rows += frame.height
            late = self._guarded(node, lambda: step.add(frame))
            if late is None:
                return
            idle = late.frame.get_column(LATE_REASON).eq("idle").to_numpy()
            counts.by_idleness += int(idle.sum())
            counts.by_watermark += int((~idle).sum())
            counts.short.add(late.by[~idle])
            for late_node in late_nodes:
                self._pass(late_node, late.frame)

        return take

    def _guarded(self, node: n.Node, work: Callable[[], T]) -> T:
        try:
            return work()
        except JobFailed:
            raise
        except _FAILURES as error:
            raise self._failed(node, error) from error

    def _failed(self, node: n.Node, error: Exception) -> StepFailed:
        name = f" {node.name!r}" if isinstance(node, n.Window) else ""
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
