"""A stage's share of a job's rows at work: it begins where its last commit was, and commits what it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import polars as pl

from mamba_stream.core.clock import Clock
from mamba_stream.core.durability import Durability
from mamba_stream.errors import JobFailed
from mamba_stream.log import Log
from mamba_stream.operators.retimed import Retimed
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import Exchange
from mamba_stream.runtime.beside import Beside
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.care import Care
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.commits import Commit, Committing
from mamba_stream.runtime.connectors import ConnectorFeed
from mamba_stream.runtime.counts import Counts, StepLateness, summary_of
from mamba_stream.runtime.deliveries import Deliveries
from mamba_stream.runtime.engine import Engine
from mamba_stream.runtime.exchanges import (
    as_exchanged,
    exchange_schema,
    exchange_topic,
)
from mamba_stream.runtime.facts import RunSummary, State
from mamba_stream.runtime.faults import DeadLetters, Faults
from mamba_stream.runtime.feeds import Feed
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import Outputs
from mamba_stream.runtime.pace import Pace
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import (
    MarkRecord,
    Progress,
)
from mamba_stream.runtime.remembering import progress_of, put_back
from mamba_stream.runtime.saved import Saved
from mamba_stream.runtime.share import Share
from mamba_stream.runtime.sources import Sources, groups_of

LOOK = 0.02
"""Seconds between two looks whether a commit has come through; those who wait for the log hear of it as a rule."""
_SOON = 0.1
"""Seconds until the next turn where a partition was not asked in the last, since it had to wait for others; and until
a sink is asked that may want a commit by itself."""
_ASKING = 4
"""Commits are so many times as far apart, at least, as the last of them waited for answers from outside."""
_FIRST = 0.1
"""So soon, as a share of the time between two, comes the first commit of a task that was taken over: it goes on."""
_LONG = 60.0
"""Seconds until the next turn where whatever may come wakes whoever waits."""


class Task:
    """A share of a job's rows at work."""

    def __init__(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        share: Share,
        log: Log,
        checkpoints: Checkpoints,
        saved: Saved | None,
        kept: Sequence[str],
        options: RunOptions,
        clock: Clock,
        committing: Committing | None = None,
        budget: Budget | None = None,
        ring: Callable[[], None] = lambda: None,
        care: Care | None = None,
    ) -> None:
        """Opens what is read and written, and puts the state back.

        Args:
            pipeline: The pipeline.
            prepared: The same, over the log.
            share: What the task does of it.
            log: The log.
            checkpoints: Where it commits.
            saved: What its last commit left, if there was one.
            kept: The steps whose state is taken over.
            options: How the job is run.
            clock: The clock.
            committing: Makes commits durable while the task goes on; a thread of the task's own, if left out.
            budget: How much it takes in; what suits the whole job's memory, if left out.
            ring: Called from any thread when there is something to do for whoever waits.
            care: Makes note of what steps are about to do, where that may end the process.

        Raises:
            OffsetTrimmed: Rows that were to be read next are gone.
        """
        self.pipeline = pipeline
        self.analysis = prepared.analysis
        self._prepared = prepared
        self._share, stage = share, share.stage
        self._options = options
        self._budget = budget or Budget.within(options.memory, options.rows)
        self._clock = clock
        self._checkpoints = checkpoints
        progress = saved.progress if saved is not None else Progress()
        self._outputs, self._leaving = Outputs(), Outputs()
        here = set(stage.nodes)
        topics = [output for output in pipeline.topics if output in here]
        sinks = [output for output in pipeline.sinks if output in here]
        self._deliveries = Deliveries(pipeline.name, sinks, self.analysis.shapes, progress.sinks)
        self.faults = Faults(pipeline.on_error)
        self._letters = DeadLetters(pipeline.name, log, self.analysis, prepared.topics, clock)
        self._sources = Sources(pipeline.name, prepared, share, log, progress, options, clock, ring)
        self.engine = Engine(
            self.analysis,
            {
                **{output: partial(self._outputs.put, output.topic) for output in topics},
                **{output: partial(self._deliveries.put, output) for output in sinks},
                **{exchange: self._leaves_by(exchange) for exchange in stage.leaves},
            },
            self._sources.feeds,
            prepared.names,
            clock=clock,
            budget=self._budget,
            follows=options.until == "stopped" or (options.until is None and not self._sources.bounded),
            growing=self._sources.growing,
            endless=self._sources.endless,
            faults=self.faults,
            stage=stage,
            entrances=self._sources.entrances,
            ring=ring,
            care=care,
        )
        if saved is not None:
            put_back(saved, kept, self.engine, self._outputs, self.faults)
        self._begun = clock.monotonic()
        self._committed = self._begun
        self._settled = 0.0
        self._dirty = False
        self._pace = Pace(options.latency, self.engine.rows)
        self._unseen_since: float | None = None
        self._told: dict[int, MarkRecord] = {}
        self._committing: Committing = committing or Beside(f"mamba-stream {pipeline.name}: commit")
        self._taken: list[tuple[ConnectorFeed, Any]] = []
        self._shown: dict[str, dict[tuple[str, int], int]] = {}
        self.at_begin = self.counts
        """What had been done when this run of the task began."""

    # -- what it did -----------------------------------------------------------------------------------------------

    @property
    def rows_in(self) -> int:
        return sum(intake.rows for intake in self.engine.intakes.values())

    @property
    def rows_out(self) -> int:
        return sum(self._outputs.rows.values()) + self._deliveries.rows

    @property
    def late(self) -> int:
        return sum(late.by_watermark + late.by_idleness for late in self.engine.flow.late.values())

    @property
    def rejected(self) -> int:
        at_sources = sum(sum(intake.rejected.values()) for intake in self.engine.intakes.values())
        retimed = [step for step in self.engine.flow.steps.values() if isinstance(step, Retimed)]
        return at_sources + sum(step.rejected for step in retimed)

    @property
    def commits(self) -> int:
        record = self._checkpoints.record
        return 0 if record is None else record.commits

    @property
    def lsn(self) -> int | None:
        return self._checkpoints.lsn

    @property
    def counts(self) -> Counts:
        """What was done since the job first began."""
        return Counts(self.rows_in, self.rows_out, self.late, self.rejected, self.faults.rows)

    @property
    def lateness(self) -> dict[str, StepLateness]:
        """How late rows were, by step."""
        late = self.engine.flow.late
        return {node.name: StepLateness(found.rows, found.short.counts) for node, found in late.items()}

    def summary(self, state: State) -> RunSummary:
        """What this run did."""
        done, seconds = self.counts.since(self.at_begin), self._clock.monotonic() - self._begun
        return summary_of(self.pipeline.name, self.analysis, state, done, seconds, self.lateness)

    # -- the loop --------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether everything is read as far as this run goes."""
        return self.engine.done

    @property
    def ended(self) -> bool:
        """Whether every source is over for good, and so all windows are closed."""
        return self.engine.ended

    def step(self, most: int | None = None) -> int:
        """Reads and works a little, on so many rows at most; the number of rows read."""
        for node, partitions in self._sources.outside.items():
            for feed in partitions.look():
                self.engine.intakes[node].add(feed)
        begun = self._clock.monotonic()
        rows = self.engine.step(most or self._pace.rows)
        now = self._clock.monotonic()
        self._pace.took(rows, now - begun)
        leaving = self._leaving.waiting or self.engine.flow.held > 0
        waiting = self._outputs.waiting or leaving or self._deliveries.waiting
        self._dirty = self._dirty or rows > 0 or self.engine.acted or waiting or self._marks() != self._told
        if self._unseen_since is None and (self._outputs.waiting or leaving or self._deliveries.unseen):
            self._unseen_since = now
        return rows

    @property
    def _pending(self) -> int:
        """Bytes that wait for the next commit."""
        return self._outputs.bytes + self._leaving.bytes + self.engine.flow.held

    def rest(self) -> None:
        """Nothing came: does what was put off, so that what comes next is done the sooner."""
        self.engine.flow.rest()

    @property
    def feeds(self) -> list[Feed]:
        """All that it reads."""
        return self.engine.feeds

    @property
    def commit_due(self) -> bool:
        """Whether it is time to commit."""
        return self.commit_due_within(0.0)

    def commit_due_within(self, seconds: float) -> bool:
        """Whether it is, or will be so soon, as things are."""
        if self._committing.busy:
            # Rows are held up where there are too many of them.
            return self._pending > self._budget.pending
        if not self._dirty and not self._deliveries.due:
            return False
        return self._seconds_to_commit() <= seconds or self._pending > self._budget.pending

    def _seconds_to_commit(self) -> float:
        due, patience = self._committed + self._options.commit, self._pace.patience
        if patience is not None and self._unseen_since is not None:
            due = min(due, self._unseen_since + patience)
        # Nothing is asked outside while a commit waits for answers: most of the time is to go into asking.
        return max(due, self._committed + _ASKING * self._settled) - self._clock.monotonic()

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless rows come."""
        return min(self.seconds_to_work(), self.seconds_to_commit())

    def seconds_to_work(self) -> float:
        """How long a step has nothing to do unless rows come."""
        idle = self.engine.seconds_to_idleness()
        outside = min((found.seconds_to_reading for found in self._sources.outside.values()), default=_LONG)
        # A connector that cannot tell when it has rows is asked.
        outside = max(outside, self._pace.ask)
        most = _SOON if self.engine.unasked else _LONG
        waits = (idle, self.engine.seconds_to_timer(), outside, most)
        return max(0.0, min(seconds for seconds in waits if seconds is not None))

    def seconds_to_commit(self) -> float:
        """How long there is no commit to begin, or to end."""
        if self._committing.busy:
            return LOOK
        most = _SOON if self._deliveries.rolling else _LONG
        return max(0.0, min(most, self._seconds_to_commit())) if self._dirty else most

    def commit(self, status: str) -> None:
        """Makes durable what was done since the last commit, and then tells those outside.

        Args:
            status: ``running``, or how the run ends.
        """
        self.end_commit()
        self._take(status)()
        self._tell()

    def begin_commit(self) -> None:
        """Takes what was done since the last commit; it is made durable while the run goes on."""
        if self._deliveries.follow:
            self.commit("running")
            return
        self.end_commit()
        self._committing.begin(self._take("running"))

    @property
    def committing(self) -> bool:
        """Whether a commit was begun and not yet ended."""
        return self._committing.busy

    @property
    def commit_done(self) -> bool:
        """Whether a commit that was begun has come through, or failed."""
        return self._committing.busy and self._committing.done

    def end_commit(self) -> None:
        """Waits for the commit that was begun, if there is one, and tells those outside of it.

        Raises:
            MambaStreamError: It failed.
        """
        if self._committing.busy:
            self._committing.finish()
            self._tell()

    def _take(self, status: str) -> Commit:
        """Takes what was done since the last commit."""
        self._settle()
        self.engine.flow.leave()
        marks = self._marks()
        self._deliveries.prepare(self._checkpoints.next_epoch, last=status != "running")
        commit = self._checkpoints.take(
            outputs=[*self._outputs.drain(), *self._leaving.drain(), *self._letters.of(self.faults.take())],
            offsets=self._moved(),
            progress=self._progress(),
            steps={node.name: step for node, step in self.engine.flow.steps.items()},
            status=status,
            read={
                exchange_topic(self.pipeline.name, exchange): entrance.feed.position
                for exchange, entrance in self.engine.entrances.items()
            },
            marks=marks,
            durability=self._durability(status),
        )
        self._told = marks
        self._taken = self._sources.places
        self._committed = self._clock.monotonic()
        self._unseen_since = None
        self._dirty = False
        return commit

    def _durability(self, status: str) -> Durability:
        """What has to be true of a commit before anybody goes by it."""
        if status != "running" or self._sources.outside or self._deliveries.follow:
            # Who is told of it outside forgets what a loss of power would have the log read again.
            return "commit"
        return self._options.durability

    def _settle(self) -> None:
        """Waits for answers from outside, so that what comes of all rows that were read is committed with them."""
        self._settled = 0.0
        if self.engine.flow.in_flight:
            begun = self._clock.monotonic()
            self.engine.settle()
            self._settled = self._clock.monotonic() - begun

    def _marks(self) -> dict[int, MarkRecord]:
        """How far time has come in the rows that go to other tasks, by exchange."""
        return {
            exchange.number: MarkRecord(mark.watermark, mark.idle, mark.greatest)
            for exchange in self._share.stage.leaves
            if (mark := self.engine.marks.get(exchange.node)) is not None
        }

    def _tell(self) -> None:
        """Tells those outside that what was taken is durable."""
        self._deliveries.commit()
        for feed, place in self._taken:
            feed.acknowledge(place)
        self._taken = []

    def claim(self) -> None:
        """Begins to take the task over."""
        anew = self._checkpoints.record is None
        self._committing.begin(self._checkpoints.claim(self._progress(), anew=anew, owned=(), empty=()))

    def claimed(self) -> bool:
        """Waits for that; from then on nobody else can commit the task.

        Returns:
            Whether it is taken over; otherwise somebody else has committed it meanwhile, or taken it over.
        """
        try:
            self._committing.finish()
        except JobFailed:
            return False
        return True

    def recover(self) -> None:
        """The task is taken over: brings sinks to where the commit was that it begins with."""
        self._deliveries.recover(anew=self._checkpoints.starts_over)
        self._committed = self._clock.monotonic() - (1 - _FIRST) * self._options.commit

    def keep(self, name: str) -> None:
        """Keeps what the last commit left under a name."""
        self._checkpoints.keep(name)

    def close(self) -> None:
        """Lets go of what is open outside; what was not committed is done again by the next run."""
        with contextlib.suppress(Exception):
            # The run is over without it, for a reason of its own.
            self._committing.finish()
        self.engine.flow.close()
        self._sources.close()
        self._deliveries.close()

    # -- what it reads and remembers -------------------------------------------------------------------------------

    def _leaves_by(self, exchange: Exchange) -> Callable[[pl.DataFrame], None]:
        topic = exchange_topic(self.pipeline.name, exchange)
        schema = exchange_schema(exchange, self.analysis)
        return lambda frame: self._leaving.put(topic, as_exchanged(frame, schema))

    # -- progress --------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        return progress_of(
            self.engine, self._prepared, self._outputs, self.faults, self._deliveries.progress()
        )

    def _moved(self) -> dict[str, dict[tuple[str, int], int]]:
        """What a group of the job's name has read since the last commit, for whoever looks at lag."""
        moved = {}
        for group, node in groups_of(self.pipeline.name, self._share.stage.sources).items():
            positions = {
                (node.topic, feed.partition): feed.position for feed in self.engine.intakes[node].feeds
            }
            shown = self._shown.get(group, {})
            moved[group] = {place: at for place, at in positions.items() if shown.get(place) != at}
            self._shown[group] = positions
        return moved
