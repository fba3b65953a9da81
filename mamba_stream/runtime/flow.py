"""A stage of a plan at work: its steps wired together; a frame pushed in at an inlet runs through all behind it.

Neighbouring row verbs are fused into one query. The flow reads and writes nothing and asks no clock: whoever
drives it pushes rows in, tells it how far time has come, and takes what arrives at the sinks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Final, TypeVar

import polars as pl
from msgspec.structs import replace

from mamba_stream.core.single import written_out
from mamba_stream.operators.failures import (
    FAILURES,
    RowsFailed,
)
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.retimed import COUNTED, Retimed
from mamba_stream.operators.rows import RowSteps
from mamba_stream.operators.step import (
    Atomic,
    Made,
    Resting,
    StatefulStep,
    Ticking,
    Tolerant,
)
from mamba_stream.operators.union import Union
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.asynchronous import MapAsync
from mamba_stream.plan.halves import Halved
from mamba_stream.plan.process import SideRows
from mamba_stream.plan.stages import Exchange, Stage, whole
from mamba_stream.plan.verbs import row_verb
from mamba_stream.runtime.attempts import Attempts
from mamba_stream.runtime.care import Care
from mamba_stream.runtime.faults import Faults
from mamba_stream.runtime.halves import Reducing, first_half_of, second_half_of
from mamba_stream.runtime.inflight import InFlight
from mamba_stream.runtime.latecounts import LateCounts
from mamba_stream.runtime.steps import calls_of, operator_of, step_of
from mamba_stream.runtime.watermarks import Mark, PartitionTime, combined, mark_of

T = TypeVar("T")
Sink = Callable[[pl.DataFrame], None]
_Context = tuple[tuple[n.Node, Callable[[], pl.DataFrame]] | None, int, str]
"""What has to be known about rows that come back later."""
NONE: Final[Mapping[n.Node, Mark]] = MappingProxyType({})


class Flow:
    """The steps of a plan, wired."""

    def __init__(
        self,
        analysis: Analysis,
        sinks: Mapping[n.Node, Sink],
        faults: Faults | None = None,
        stage: Stage | None = None,
        ring: Callable[[], None] = lambda: None,
        care: Care | None = None,
    ) -> None:
        """Wires a stage.

        Args:
            analysis: The plan.
            sinks: What takes the rows of each of the last nodes, and those that leave by an exchange.
            faults: What becomes of rows over which a step raises; left out, that is the end.
            stage: The part of the plan; left out, it is the whole plan.
            ring: Called, in any thread, when there are answers from outside to go on with.
            care: Makes note of what steps are about to do, where that may end the process.
        """
        self._analysis = analysis
        self._stage = stage = stage or whole(analysis)
        self._attempts = Attempts(analysis, faults or Faults("fail"), care)
        self._pushed_bytes = 0
        self._ring = ring
        self._flights: dict[MapAsync, InFlight] = {}
        self._next: dict[n.Node, list[Sink]] = {node: [] for node in (*stage.exchanges, *stage.nodes)}
        self.steps: dict[n.Stateful, StatefulStep] = {}
        self.late: dict[n.Stateful, LateCounts] = {}
        self._in_chunks: set[n.Node] = set()
        """Nodes whose rows may go on in chunks: nothing is computed of them any more, or who takes them can do so."""
        self._reducing: dict[Halved, tuple[Reducing, Sink]] = {}
        for outlet, sink in sinks.items():
            if (partials := _partials_at(outlet)) is not None:
                self._reduce(partials, sink)
            else:
                self._next[outlet.node if isinstance(outlet, Exchange) else outlet].append(sink)
        self._wire()
        self._retimed_from: dict[n.Node, list[Retimed]] = {}
        for node, step in self.steps.items():
            if isinstance(step, Retimed):
                for source in analysis.sources_of(node):
                    self._retimed_from.setdefault(source, []).append(step)
        for step in self.steps.values():
            if isinstance(step, Tolerant):
                step.tolerates = self._attempts.faults.policy != "fail"
        self._resting = {node: step for node, step in self.steps.items() if isinstance(step, Resting)}
        self._ticking = {node: step for node, step in self.steps.items() if isinstance(step, Ticking)}

    @property
    def reading(self) -> str:
        """What is being worked on, for messages: topic, partition and offsets."""
        return self._attempts.reading

    @reading.setter
    def reading(self, words: str) -> None:
        self._attempts.reading = words

    def push(
        self, inlet: n.Node, frame: pl.DataFrame, read: Callable[[], pl.DataFrame] | None = None
    ) -> None:
        """Rows of a source, or of another stage, enter, in any chunks.

        Args:
            inlet: The source, or the exchange.
            frame: The rows.
            read: Gives them with their origin, where it has to be known; those of an exchange have it if they need it.
        """
        self._attempts.begin(None if read is None or isinstance(inlet, Exchange) else (inlet, read))
        self._pushed_bytes = int(frame.estimated_size()) if self._flights else 0
        self._pass(inlet, frame if inlet in self._in_chunks else written_out(frame))
        self._attempts.pushed, self._pushed_bytes = None, 0

    def reject(self, source: n.Node, frame: pl.DataFrame) -> None:
        """Rows that were set aside, of a source or where they get their time, enter their own stream."""
        for node in self._stage.nodes:
            if isinstance(node, n.RejectedRows) and node.parent is source:
                self._pass(node, frame)

    def advance(
        self, sources: Mapping[n.Node, Mapping[int, PartitionTime]], entered: Mapping[n.Node, Mark] = NONE
    ) -> dict[n.Node, Mark]:
        """Lets time advance through the stage: each step gives out what it can before those behind it hear of it.

        Args:
            sources: How far time has come in each partition of each source.
            entered: How far it has come in the rows of other stages.

        Returns:
            How far it has come behind each step.
        """
        marks: dict[n.Node, Mark] = {**entered}
        self.reading = "letting time advance"
        for node in self._stage.nodes:
            if isinstance(node, n.Source):
                marks[node] = mark_of(sources[node].values())
            elif isinstance(node, n.WithTime):
                marks[node] = self._retimed(node, sources)
            elif isinstance(node, n.LateRows):
                marks[node] = marks[dict(self._stage.inputs(node.parent))[node.port]]
            elif isinstance(node, n.Handover) and marks[node.history].watermark < FOREVER:
                marks[node] = marks[node.history]
            elif isinstance(node, n.Handover):
                marks[node] = marks[node.live]
            else:
                mark = combined(marks[inlet] for _, inlet in self._stage.inputs(node))
                if isinstance(node, MapAsync):
                    # What has an end is waited for there: nothing comes that could be asked about meanwhile.
                    self._come_back(node, wait=mark.watermark == FOREVER)
                    mark = self._flights[node].pass_mark(mark)
                if isinstance(node, n.Stateful):
                    if mark.watermark == FOREVER and NEVER < mark.greatest < FOREVER:
                        # However time came to its end, to where the last row is it came before.
                        self._advance(node, mark.greatest + 1)
                    self._advance(node, mark.watermark)
                    horizon = min(mark.watermark, self.steps[node].horizon)
                    mark = Mark(horizon, mark.idle, mark.greatest)
                marks[node] = mark
        return marks

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

    def tick(self, now: int) -> bool:
        """The wall clock has come to ``now``, in microseconds since the epoch: tells the steps that go by it.

        Returns:
            Whether any of them did something.
        """
        acted = sum(self._come_back(node) for node in self._flights) > 0
        for node, step in self._ticking.items():
            self.reading = "timers of the wall clock"
            pieces = step.tick(now)
            while (made := self._attempts.guarded(node, lambda: next(pieces, None))) is not None:  # noqa: B023
                acted = True
                self._give(node, made)
        return acted

    def settle(self) -> bool:
        """Waits for all answers from outside, and goes on with them; says whether there was anything to wait for.

        Time goes on behind these rows when it is next let advance.
        """
        return sum(self._come_back(node, wait=True) for node in self._flights) > 0

    @property
    def in_flight(self) -> bool:
        """Whether rows wait for answers from outside."""
        return any(flight.waits for flight in self._flights.values())

    def close(self) -> None:
        """Nobody wants what may still come."""
        for flight in self._flights.values():
            flight.cancel()

    def rest(self) -> None:
        """There are no rows at present: steps may do what they put off."""
        for node, step in self._resting.items():
            self.reading = "what was put off"
            self._attempts.guarded(node, step.rest)

    @property
    def held(self) -> int:
        """The bytes of partial results that are to leave with the next commit."""
        return sum(half.bytes for half, _ in self._reducing.values())

    def leave(self) -> None:
        """Partial results go their way to other stages."""
        for node, (half, sink) in self._reducing.items():
            self.reading = "partial results"
            partials = self._attempts.guarded(node, half.take)
            if partials is not None:
                sink(partials)

    @property
    def due(self) -> int | None:
        """When the next of them has something to do; ``None`` if none has."""
        return min((due for step in self._ticking.values() if (due := step.due) is not None), default=None)

    def _advance(self, node: n.Stateful, watermark: int) -> None:
        step = self.steps[node]
        if watermark <= step.closed:
            return
        pieces = step.advance(watermark)
        while (made := self._attempts.guarded(node, lambda: next(pieces, None))) is not None:
            self._give(node, made)

    def _pass(self, node: n.Node, frame: pl.DataFrame) -> None:
        if frame.height:
            # Once for all that follow.
            together = frame if node in self._in_chunks else frame.rechunk()
            for take in self._next[node]:
                take(together)

    def _give(self, node: n.Stateful, made: Made, port: int = 0) -> None:
        """Passes on what a step made; late rows, which are those of one port, to whoever wants these."""
        if made.rows is not None:
            self._pass(node, made.rows)
        for failed in made.failed:
            self._attempts.note(node, failed)
        for name, frame in made.sides.items():
            for side in self._stage.nodes:
                if isinstance(side, SideRows) and side.parent is node and side.side == name:
                    self._pass(side, frame)
        if made.late is not None:
            self.late[node].count(made.late)
            for late in self._stage.nodes:
                if isinstance(late, n.LateRows) and late.parent is node and late.port == port:
                    self._pass(late, made.late.frame)
        if isinstance(node, n.WithTime) and COUNTED in made.sides:
            self.reject(node, made.sides[COUNTED])

    def _reduce(self, node: Halved, sink: Sink) -> None:
        """A step's rows leave as partial results: its first half is done here."""
        half = first_half_of(node, self._analysis)
        self.steps[node], self.late[node] = half, LateCounts()
        self._reducing[node] = half, sink
        self._next[node.parent].append(self._stateful(node, 0))

    def _wire(self) -> None:
        analysis = self._analysis
        inputs = {node: self._stage.inputs(node) for node in self._stage.nodes}
        consumers: dict[n.Node, list[n.Node]] = {inlet: [] for inlet in self._next}
        for node, before in inputs.items():
            for _, inlet in before:
                consumers[inlet].append(node)
        computed = {node.parent for node in self._reducing}
        for node in reversed(self._next):
            if node not in computed and all(self._takes_chunks(consumer) for consumer in consumers[node]):
                self._in_chunks.add(node)
        # Rows that go elsewhere from the middle of a chain are the end of it.
        last = {node for node, sinks in self._next.items() if sinks}
        fused: set[n.Node] = set()
        for node, before in inputs.items():
            if node in fused or isinstance(node, n.Source | n.Beside):
                continue
            if isinstance(node, n.RowStep):
                # With care, each verb by itself: so it is known which one it was.
                chain = [node] if self._attempts.careful else _chain(node, consumers, last)
                fused.update(chain)
                takes = [self._rows(chain)]
            elif isinstance(node, n.Stateful):
                partials = next((step for _, inlet in before if (step := _partials_at(inlet))), None)
                self.late[node] = LateCounts()
                self.steps[node] = (
                    step_of(node, analysis) if partials is None else second_half_of(partials, analysis)
                )
                takes = [self._stateful(node, port, counted=partials is None) for port, _ in before]
            elif isinstance(node, n.Concat):
                takes = [self._union(node, port) for port, _ in before]
            elif isinstance(node, MapAsync):
                takes = [self._asking_now(node) if self._attempts.careful else self._asking(node)]
            else:
                takes = [self._plain(node)]
            for (_, inlet), take in zip(before, takes, strict=True):
                self._next[inlet].append(take)

    def _takes_chunks(self, node: n.Node) -> bool:
        """Whether a node takes rows that lie in chunks without putting them together."""
        if isinstance(node, n.RowStep):
            return isinstance(node, n.Filter) or (
                node in self._in_chunks and self._row_steps([node]).only_picks
            )
        if isinstance(node, n.Stateful):
            return self._analysis.takes_chunks(node)
        return isinstance(node, n.Output)

    def _row_steps(self, chain: Sequence[n.RowStep]) -> RowSteps:
        shapes, present = self._analysis.shapes, self._analysis.present
        verbs = [row_verb(v, shapes[v.parent], shapes[v], present[v.parent]) for v in chain]
        return RowSteps(verbs, in_chunks=chain[-1] in self._in_chunks)

    def _rows(self, chain: Sequence[n.RowStep]) -> Sink:
        steps, first, last = self._row_steps(chain), chain[0], chain[-1]
        whole = steps.whole
        work = self._attempts.with_care(first, steps, whole)

        def culprit_of(rows: pl.DataFrame) -> n.Node:
            return chain[steps.culprit(rows)] if len(chain) > 1 else first

        def take(frame: pl.DataFrame) -> None:
            try:
                result = work(frame)
            except FAILURES as error:
                for left in self._attempts.left(culprit_of, first.parent, work, frame, error, whole):
                    self._pass(last, left)
            else:
                self._pass(last, result)

        return take

    def _plain(self, node: n.Node) -> Sink:
        return self._apart(node, operator_of(node, self._analysis))

    def _asking_now(self, node: MapAsync) -> Sink:
        """Waits for all answers before anything else is done."""
        flight = self._flights[node] = InFlight(*calls_of(node, self._analysis), self._ring)
        return self._apart(node, flight.operator)

    def _apart(self, node: n.Node, does: Callable[[pl.DataFrame], pl.DataFrame]) -> Sink:
        operator = self._attempts.with_care(node, does)

        def take(frame: pl.DataFrame) -> None:
            try:
                result = operator(frame)
            except FAILURES as error:
                for left in self._attempts.left(
                    lambda _: node, node.parents[0], operator, frame, error, None
                ):
                    self._pass(node, left)
            else:
                self._pass(node, result)

        return take

    def _asking(self, node: MapAsync) -> Sink:
        flight = self._flights[node] = InFlight(*calls_of(node, self._analysis), self._ring)

        def take(frame: pl.DataFrame) -> None:
            # What was read is held with it, to tell where its rows came from.
            size = max(int(frame.estimated_size()), self._pushed_bytes)
            while flight.full(size):
                self._come_back(node, most=1, wait=True)
            flight.begin(frame, self._context(), size)
            self._come_back(node)

        return take

    def _come_back(self, node: MapAsync, *, wait: bool = False, most: int | None = None) -> bool:
        """Goes on with rows that have their answers, as if they had just been read; says whether there were any."""
        flight, before, came = self._flights[node], self._context(), False
        for back in islice(flight.come_back(wait=wait), most):
            came = True
            self._set(back.context)
            try:
                result = flight.result(back)
            except FAILURES as error:
                operator = flight.operator
                for left in self._attempts.left(
                    lambda _: node, node.parents[0], operator, back.frame, error, None
                ):
                    self._pass(node, left)
            else:
                self._pass(node, result)
        self._set(before)
        return came

    def _context(self) -> _Context:
        return self._attempts.pushed, self._pushed_bytes, self.reading

    def _set(self, context: _Context) -> None:
        self._attempts.pushed, self._pushed_bytes, self.reading = context

    def _union(self, node: n.Concat, number: int) -> Sink:
        changes = self._analysis.shapes[node].changelog is not None
        union = Union(self._analysis.needed[node], number, len(node.parents), changes)
        return lambda frame: self._pass(node, union(frame))

    def _stateful(self, node: n.Stateful, port: int, *, counted: bool = True) -> Sink:
        """What gives rows to a step; those of a second half were counted before the first."""
        step, counts = self.steps[node], self.late[node]

        def add(frame: pl.DataFrame) -> Made:
            try:
                return step.add(frame, port)
            except RowsFailed as error:
                raise self._attempts.failed_over(node, error.failed) from error.failed.error
            except FAILURES as error:
                if isinstance(step, Atomic) and step.adds_whole:
                    raise
                # What was half done must not be done again, nor be taken for done.
                raise self._attempts.failed(node, error) from error

        adding = self._attempts.with_care(node, add)

        def take(frame: pl.DataFrame) -> None:
            counts.rows += frame.height if counted else 0
            try:
                made = adding(frame)
            except FAILURES as error:
                for left in self._attempts.left(lambda _: node, node.parents[port], adding, frame, error):
                    self._give(node, left, port)
            else:
                self._give(node, made, port)

        return take


def _partials_at(inlet: n.Node) -> Halved | None:
    """The step whose partial results come in there."""
    return inlet.partials if isinstance(inlet, Exchange) else None


def _chain(
    first: n.RowStep, consumers: Mapping[n.Node, Sequence[n.Node]], last: Collection[n.Node]
) -> list[n.RowStep]:
    """Row verbs that follow each other with no other branch in between."""
    chain = [first]
    while chain[-1] not in last and len(consumers[chain[-1]]) == 1:
        [following] = consumers[chain[-1]]
        if not isinstance(following, n.RowStep):
            break
        chain.append(following)
    return chain
