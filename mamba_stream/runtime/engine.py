"""The loop of a run without its durability: choose a partition, read, push through the steps, let time advance.

The partition whose time is furthest behind is read first, so that replaying a long history holds little state,
however unevenly the partitions are filled. One :meth:`Engine.step` does bounded work; the caller owns the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import Final

import polars as pl

from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_in, ticks_per_day
from mamba_stream.errors import StateTooLarge
from mamba_stream.operators.columns import BEHIND
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.stages import Exchange, Stage, whole
from mamba_stream.runtime.alignment import Company, Standing, companies
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.care import Care
from mamba_stream.runtime.exchanges import Entrance
from mamba_stream.runtime.faults import Faults
from mamba_stream.runtime.feeds import Feed, Portion
from mamba_stream.runtime.flow import Flow, Sink
from mamba_stream.runtime.handover import sources_before
from mamba_stream.runtime.intake import Intake, IntakeSettings, joined
from mamba_stream.runtime.memory import in_words
from mamba_stream.runtime.watermarks import Mark, PartitionTime

_DAY_US = 86_400_000_000
_NONE: Final[Mapping[Exchange, Entrance]] = MappingProxyType({})
_KINDS = {n.TopicSource: "topic", n.FrameSource: "frame", n.ConnectorSource: "source"}


class Engine:
    """A stage of a plan, what it reads, and how far each of that has come."""

    def __init__(
        self,
        analysis: Analysis,
        sinks: Mapping[n.Node, Sink],
        feeds: Mapping[n.AnySource, Sequence[Feed]],
        names: Mapping[n.Node, str],
        *,
        clock: Clock,
        budget: Budget,
        follows: bool,
        growing: Collection[n.AnySource] = (),
        endless: Collection[n.AnySource] = (),
        faults: Faults | None = None,
        stage: Stage | None = None,
        entrances: Mapping[Exchange, Entrance] = _NONE,
        ring: Callable[[], None] = lambda: None,
        care: Care | None = None,
    ) -> None:
        """Puts a stage over its sources.

        Args:
            analysis: The plan.
            sinks: What takes the rows of its last nodes, and those that leave by an exchange.
            feeds: The partitions to read, by source.
            names: What the sources are called, for progress and messages.
            clock: Tells how long a partition has been silent.
            budget: How much a step may take in.
            follows: Whether the run goes on at the ends of topics; only then does silence count.
            growing: Sources that further partitions may come to in this run, even when all there are have ended.
            endless: Those that they may come to in this run or a later one.
            faults: What becomes of rows over which a step raises; left out, that is the end.
            stage: The part of the plan; left out, it is the whole plan.
            entrances: Where rows of other stages come in.
            ring: Called, in any thread, when there is something to do though no rows came.
            care: Makes note of what steps are about to do, where that may end the process.
        """
        self.analysis = analysis
        stage = stage or whole(analysis)
        self.flow = Flow(analysis, sinks, faults, stage, ring, care)
        self.entrances = entrances
        self.marks: Mapping[n.Node, Mark] = {}
        """How far time has come behind each step."""
        self.intakes: dict[n.Node, Intake] = {
            node: Intake(
                settings := _settings(analysis, node, names[node]),
                list(feeds[node]),
                {feed.partition: PartitionTime(settings.lateness) for feed in feeds[node]},
            )
            for node in stage.sources
        }
        self._clock = clock
        self._budget = budget
        self._follows = follows
        self._steps = 0
        self.acted = False
        """Whether the last step did something that rows did not ask for: timers of the wall clock."""
        self._held_back: set[int] = set()
        """The partitions that had to wait for the time of others at the last step."""
        self._read_in: dict[int, int] = {}
        self._growing = frozenset(growing)
        self._endless = frozenset(endless)
        timed = [
            node
            for node, intake in self.intakes.items()
            if intake.settings.time is not None or self.flow.gives_time(node)
        ]
        self._companies = [
            company
            for company in companies(stage, [*timed, *entrances])
            if company.inlets & self._growing
            or sum(1 for inlet in company.inlets for _ in self._feeds_of(inlet)) > 1
        ]
        self._before = sources_before(stage.nodes)

    @property
    def done(self) -> bool:
        """Whether every source is read as far as this run goes."""
        return not self._growing and all(
            feed.done or self._waits(inlet) for inlet in self._inlets for feed in self._feeds_of(inlet)
        )

    @property
    def ended(self) -> bool:
        """Whether every source is over for good."""
        return not self._endless and all(
            feed.ended for inlet in self._inlets for feed in self._feeds_of(inlet)
        )

    @property
    def _inlets(self) -> Iterator[n.Node]:
        """Everything that rows are read from."""
        yield from self.intakes
        yield from self.entrances

    def _feeds_of(self, inlet: n.Node) -> Sequence[Feed]:
        """The partitions that are read of it."""
        return [self.entrances[inlet].feed] if isinstance(inlet, Exchange) else self.intakes[inlet].feeds

    @property
    def feeds(self) -> list[Feed]:
        """All that is read."""
        return [feed for inlet in self._inlets for feed in self._feeds_of(inlet)]

    @property
    def unasked(self) -> bool:
        """Whether there are partitions that were not looked at in the last step, though this run goes on there."""
        return any(
            not feed.done and self._read_in.get(id(feed)) != self._steps
            for inlet in self._inlets
            for feed in self._feeds_of(inlet)
        )

    @property
    def waiting(self) -> dict[str, tuple[int, ...]]:
        """By source, the partitions that are not read at present, though they may have rows."""
        found = {}
        for source, intake in self.intakes.items():
            behind = self._waits(source)
            found[intake.settings.name] = tuple(
                feed.partition
                for feed in intake.feeds
                if not feed.done and (behind or id(feed) in self._held_back)
            )
        return {name: partitions for name, partitions in found.items() if partitions}

    @property
    def rows(self) -> int:
        """How many rows a step reads at most."""
        return self._budget.rows

    def step(self, most: int | None = None) -> int:
        """Reads a bounded number of rows, runs them through, lets time advance.

        Args:
            most: How many rows; what the budget says if left out.

        Returns:
            How many rows were read; 0 if there are none now.

        Raises:
            StepFailed: A step raised.
            StateTooLarge: The state of a step alone exceeds the limit.
        """
        self._steps += 1
        self.acted = self.flow.tick(self._clock.now())
        allowed = rows = most or self._budget.rows
        space = self._budget.bytes
        taken: dict[n.Node, list[pl.DataFrame]] = {}
        portions: dict[n.Node, list[tuple[pl.DataFrame, Feed, Portion]]] = {}
        places: list[str] = []
        read: dict[n.Node, int] = {}
        waiting = self._held_back = self._ahead()
        for inlet, feed in self._in_turn():
            if id(feed) in waiting:
                continue
            self._read_in[id(feed)] = self._steps
            portion = feed.read(rows, space)
            if portion is None:
                self._nothing_came(inlet, feed)
                continue
            places.append(
                f"{self._what(inlet)}, partition {feed.partition}, "
                f"offsets {portion.offset} to {portion.next_offset - 1}"
            )
            self.flow.reading = places[-1]
            taken.setdefault(inlet, []).append(self._came_in(inlet, feed, portion, portions))
            rows -= portion.frame.height
            size = int(portion.frame.estimated_size())
            space -= size
            read[inlet] = read.get(inlet, 0) + size
            if rows <= 0 or space <= 0:
                break
        self.flow.reading = "; ".join(places[:4]) + (" …" if len(places) > 4 else "")
        for inlet, frames in taken.items():
            origins = partial(self._with_origin, inlet, portions[inlet]) if inlet in portions else None
            self.flow.push(inlet, joined(frames), origins)
        for company in self._companies:
            company.came(sum(read.get(inlet, 0) for inlet in company.inlets), self._standings(company))
        self._check_memory()
        self.advance()
        return allowed - rows

    def _came_in(
        self,
        inlet: n.Node,
        feed: Feed,
        portion: Portion,
        portions: dict[n.Node, list[tuple[pl.DataFrame, Feed, Portion]]],
    ) -> pl.DataFrame:
        """The rows of a portion that go on; those of a source are noted, since their origin may be asked for."""
        if isinstance(inlet, Exchange):
            self.entrances[inlet].rows += portion.frame.height
            return portion.frame
        frame, rejected = self.intakes[inlet].take(feed, portion)
        portions.setdefault(inlet, []).append((frame, feed, portion))
        if rejected is not None:
            self.flow.reject(inlet, rejected)
        return frame

    def _what(self, inlet: n.Node) -> str:
        return (
            self.entrances[inlet].what if isinstance(inlet, Exchange) else self.intakes[inlet].settings.what
        )

    def settle(self) -> None:
        """Waits for all answers from outside, and does what follows from them."""
        while self.flow.settle():
            self.advance()

    def advance(self) -> None:
        """Lets steps act as far as time has come; where a source is over, that is to its very end."""
        for source, intake in self.intakes.items():
            for feed in intake.feeds:
                time = intake.times[feed.partition]
                # Where others may come behind it, the end of a partition is no end of time.
                time.ended = feed.ended and source not in self._endless
                time.idle = time.idle or (feed.ended and not time.ended)
        self.marks = self.flow.advance(
            {source: intake.times for source, intake in self.intakes.items()},
            {exchange: entrance.feed.mark for exchange, entrance in self.entrances.items()},
        )

    def _waits(self, source: n.Node) -> bool:
        """Whether a source comes behind another one that is not over."""
        return not all(
            feed.ended for other in self._before.get(source, ()) for feed in self.intakes[other].feeds
        )

    def _with_origin(
        self, source: n.Node, portions: Sequence[tuple[pl.DataFrame, Feed, Portion]]
    ) -> pl.DataFrame:
        """Rows that were read, with their origin."""
        intake = self.intakes[source]
        frames = [intake.with_origin(frame, feed, portion) for frame, feed, portion in portions]
        return pl.concat(frame.drop(BEHIND, strict=False) for frame in frames)

    def _in_turn(self) -> list[tuple[n.Node, Feed]]:
        """The partitions to read from, those whose time is furthest behind first."""
        waiting = [
            (self._time_of(inlet, feed), self._read_in.get(id(feed), 0), inlet, feed)
            for inlet in self._inlets
            if not self._waits(inlet)
            for feed in self._feeds_of(inlet)
            if not feed.done
        ]
        # Among those that are equally far, as all are without a time column, the one that waited longest.
        waiting.sort(key=lambda item: item[:2])
        return [(inlet, feed) for _, _, inlet, feed in waiting]

    def _standings(self, company: Company) -> list[Standing]:
        return [
            Standing(
                self._time_of(inlet, feed),
                not (feed.done or self._is_idle(inlet, feed) or self._waits(inlet)),
            )
            for inlet in company.inlets
            for feed in self._feeds_of(inlet)
        ]

    def _ahead(self) -> set[int]:
        """The partitions that have to wait for the time of others."""
        waiting = set()
        for company in self._companies:
            if company.read > self._budget.ahead:
                standings = self._standings(company)
                waiting |= {
                    id(feed)
                    for inlet in company.inlets
                    for feed in self._feeds_of(inlet)
                    if company.is_ahead(self._time_of(inlet, feed), standings, self._budget.ahead)
                }
        return waiting

    def _time_of(self, inlet: n.Node, feed: Feed) -> int:
        """How far a partition's time has come: its own, or what its rows get later."""
        if isinstance(inlet, Exchange):
            return self.entrances[inlet].feed.mark.watermark
        later = self.flow.watermark_of(inlet, feed.partition)
        return self.intakes[inlet].times[feed.partition].watermark if later is None else later

    def _is_idle(self, inlet: n.Node, feed: Feed) -> bool:
        if isinstance(inlet, Exchange):
            return self.entrances[inlet].feed.mark.idle
        return self.intakes[inlet].times[feed.partition].idle

    def _nothing_came(self, inlet: n.Node, feed: Feed) -> None:
        if self._follows and not feed.ended and not isinstance(inlet, Exchange):
            intake = self.intakes[inlet]
            intake.times[feed.partition].was_silent(self._clock.monotonic(), intake.settings.patience)

    def seconds_to_idleness(self) -> float | None:
        """How long until a silent partition may be called idle; ``None`` if none will be."""
        now = self._clock.monotonic()
        left = [
            time.silent_since + intake.settings.patience - now
            for intake in self.intakes.values()
            for time in intake.times.values()
            if time.silent_since is not None and not time.idle and not time.ended
        ]
        return max(0.0, min(left)) if left else None

    def seconds_to_timer(self) -> float | None:
        """How long until a step has something to do by the wall clock; ``None`` if none will."""
        due = self.flow.due
        return None if due is None else max(0.0, (due - self._clock.now()) / 1_000_000)

    def _check_memory(self) -> None:
        # Merging runs needs their size once more.
        for node, step in self.flow.steps.items():
            if 2 * step.bytes > self._budget.memory:
                raise StateTooLarge(
                    f"the state of step {node.name!r} ({node.verb} at {node.place}) is {in_words(step.bytes)} in "
                    f"{step.rows:,} rows, and with room to merge it exceeds memory={in_words(self._budget.memory)}: "
                    "give the job more memory=, fewer keys, a shorter window or lateness, or aggregates that "
                    "explain() calls partial"
                )


def _settings(analysis: Analysis, node: n.AnySource, name: str) -> IntakeSettings:
    shape = analysis.shapes[node]
    lateness, ahead, scale = 0, None, (1, 1)
    with refusing(node):
        if shape.time is not None:
            lateness = duration_in(node.lateness, shape.time_type, what="lateness")
            scale = Fraction(ticks_per_day(shape.time_type), _DAY_US).as_integer_ratio()
            if isinstance(node, n.TopicSource) and node.ahead is not None:
                ahead = duration_in(node.ahead, shape.time_type, what="ahead")
    return IntakeSettings(
        number=analysis.numbers[node],
        name=name,
        what=f"{_KINDS[type(node)]} {node.topic if isinstance(node, n.TopicSource) else name!r}",
        time=shape.time,
        lateness=lateness,
        patience=node.idle,
        ahead=ahead,
        append_scale=scale,
        judged=node in analysis.timed,
        ordered=node in analysis.ordered,
        columns=analysis.needed[node] if isinstance(node, n.TopicSource) and node.by_append else None,
    )
