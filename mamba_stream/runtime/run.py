"""One run of a job: it begins where the last commit was, and commits what it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import ticks_per_day
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.errors import NotFound, PipelineRefused
from mamba_stream.log import Log
from mamba_stream.operators.retimed import Retimed
from mamba_stream.operators.tally import Tally
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.beside import Beside
from mamba_stream.runtime.budget import Budget
from mamba_stream.runtime.checkpoint import OWNED, Checkpoints, Saved, read_state, savepoints
from mamba_stream.runtime.connectors import ConnectorFeed, ConnectorFeeds, extent_of
from mamba_stream.runtime.deliveries import Deliveries
from mamba_stream.runtime.engine import Engine
from mamba_stream.runtime.extents import begin_of, ends_of, frame_end_of
from mamba_stream.runtime.facts import RunSummary, State
from mamba_stream.runtime.faults import DeadLetters, Faults
from mamba_stream.runtime.feeds import Feed, FrameFeed, TopicFeed
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import Outputs, make_topics
from mamba_stream.runtime.pace import Pace
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import PartitionProgress, Progress, SourceProgress, StepProgress

_PENDING_BYTES = 64 << 20
_LOOK = 0.02
"""Seconds between two looks whether a commit has come through; those who wait for the log hear of it as a rule."""
_SOON = 0.1
"""Seconds until the next turn where a partition was not asked in the last, since it had to wait for others; and until
a sink is asked that may want a commit by itself."""
_LONG = 60.0
"""Seconds until the next turn where whatever may come wakes whoever waits."""


class Run:
    """A pipeline over a log, from its last commit on."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        options: RunOptions,
        clock: Clock,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        """Checks everything that can be checked, takes the job over, and puts its state back.

        Args:
            pipeline: What to run.
            log: The log.
            options: How.
            clock: The clock.
            ring: Called from any thread when there is something to do for whoever waits.

        Raises:
            PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
            OffsetTrimmed: Rows that were to be read next are gone.
        """
        self.pipeline = pipeline
        self._options = options
        self._clock = clock
        self._ring = ring
        self._prepared = prepared = Prepared(pipeline, log)
        self.analysis, self._topics, self._names = prepared.analysis, prepared.topics, prepared.names
        for group in self._groups():
            check_name(group, "group")
        self._checkpoints = Checkpoints(log, pipeline.name, clock)
        saved = self._load(log)
        self._saved = saved.progress if saved is not None else Progress()
        self.upgrade = prepared.upgrade(self._saved)
        if saved is not None:
            self._check_resumable()
        self._outputs = Outputs()
        self._deliveries = Deliveries(pipeline.name, pipeline.sinks, self.analysis.shapes, self._saved.sinks)
        self._outside: dict[n.AnySource, ConnectorFeeds] = {}
        self.faults = Faults(pipeline.on_error)
        self._letters = DeadLetters(pipeline.name, log, self.analysis, self._topics, clock)
        feeds = {node: self._feeds(node) for node in self.analysis.sources}
        bounded = all(self._bounded(node) for node in feeds)
        self.engine = Engine(
            self.analysis,
            {
                **{output: partial(self._outputs.put, output) for output in pipeline.topics},
                **{output: partial(self._deliveries.put, output) for output in pipeline.sinks},
            },
            feeds,
            self._names,
            clock=clock,
            budget=Budget.within(options.memory, options.rows),
            follows=options.until == "stopped" or (options.until is None and not bounded),
            growing=[node for node, partitions in self._outside.items() if partitions.growing],
            faults=self.faults,
        )
        self._restore(saved)
        self._take_over(log)
        self._begun = clock.monotonic()
        self._committed = self._begun
        self._dirty = False
        self._pace = Pace(options.latency, self.engine.rows)
        self._unseen_since: float | None = None
        self._committing = Beside(f"mamba-stream {pipeline.name}: commit")
        self._taken: list[tuple[ConnectorFeed, Any]] = []
        self._shown: dict[str, dict[tuple[str, int], int]] = {}
        self._at_begin = (self.rows_in, self.rows_out, self.late, self.rejected, self.faults.rows)

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

    def summary(self, state: State) -> RunSummary:
        """What this run did."""
        counts = (self.rows_in, self.rows_out, self.late, self.rejected, self.faults.rows)
        judging = [step for step in self.analysis.steps if step.by_time]
        rows_in, rows_out, late, rejected, failed = (
            now - then for now, then in zip(counts, self._at_begin, strict=True)
        )
        return RunSummary(
            name=self.pipeline.name,
            state=state,
            rows_in=rows_in,
            rows_out=rows_out,
            late=late,
            rejected=rejected,
            failed=failed,
            seconds=self._clock.monotonic() - self._begun,
            lateness_for_999={step.name: self._enough_lateness(step) for step in judging},
            lateness={step.name: self._lateness(step) for step in judging},
        )

    def _lateness(self, step: n.Stateful) -> timedelta:
        before = n.walk([step])
        given = [node.lateness for node in before if isinstance(node, n.WithTime)]
        given = given or [node.lateness for node in self.analysis.sources_of(step)]
        return timedelta(microseconds=max(given))

    def _enough_lateness(self, step: n.Stateful) -> timedelta:
        counts = self.engine.flow.late[step]
        more = counts.short.covering(counts.rows / 1000)
        per_day = ticks_per_day(self.analysis.shapes[step.parents[0]].time_type)
        return self._lateness(step) + timedelta(microseconds=-(-more * 86_400_000_000 // per_day))

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
        for node, partitions in self._outside.items():
            for feed in partitions.look():
                self.engine.intakes[node].add(feed)
        begun = self._clock.monotonic()
        rows = self.engine.step(most or self._pace.rows)
        now = self._clock.monotonic()
        self._pace.took(rows, now - begun)
        waiting = self._outputs.waiting or self._deliveries.waiting
        self._dirty = self._dirty or rows > 0 or self.engine.acted or waiting
        if self._unseen_since is None and (self._outputs.waiting or self._deliveries.unseen):
            self._unseen_since = now
        return rows

    def rest(self) -> None:
        """Nothing came: does what was put off, so that what comes next is done the sooner."""
        self.engine.flow.rest()

    @property
    def commit_due(self) -> bool:
        """Whether it is time to commit."""
        if self._committing.busy:
            # Rows are held up where there are too many of them.
            return self._outputs.bytes > _PENDING_BYTES
        if not self._dirty and not self._deliveries.due:
            return False
        return self._seconds_to_commit() <= 0 or self._outputs.bytes > _PENDING_BYTES

    def _seconds_to_commit(self) -> float:
        due, patience = self._committed + self._options.commit, self._pace.patience
        if patience is not None and self._unseen_since is not None:
            due = min(due, self._unseen_since + patience)
        return due - self._clock.monotonic()

    def seconds_to_next(self) -> float:
        """How long there is nothing to do unless rows come."""
        idle = self.engine.seconds_to_idleness()
        due = self._seconds_to_commit() if self._dirty else None
        if self._committing.busy:
            due = _LOOK
        outside = min((found.seconds_to_reading for found in self._outside.values()), default=_LONG)
        # A connector that cannot tell when it has rows is asked.
        outside = max(outside, self._pace.ask)
        most = _SOON if self.engine.unasked or self._deliveries.rolling else _LONG
        timer = self.engine.seconds_to_timer()
        waits = (idle, due, timer, outside, most)
        return max(0.0, min(seconds for seconds in waits if seconds is not None))

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

    def _take(self, status: str) -> Callable[[], None]:
        """Takes what was done since the last commit; gives what commits it."""
        self._deliveries.prepare(self._checkpoints.next_epoch, last=status != "running")
        commit = self._checkpoints.take(
            outputs=[*self._outputs.drain(), *self._letters.of(self.faults.take())],
            offsets=self._moved(),
            progress=self._progress(),
            steps={node.name: step for node, step in self.engine.flow.steps.items()},
            status=status,
        )
        self._taken = [
            (feed, feed.place) for partitions in self._outside.values() for feed in partitions.feeds
        ]
        self._committed = self._clock.monotonic()
        self._unseen_since = None
        self._dirty = False
        return commit

    def _tell(self) -> None:
        """Tells those outside that what was taken is durable."""
        self._deliveries.commit()
        for feed, place in self._taken:
            feed.acknowledge(place)
        self._taken = []

    def keep(self, name: str) -> None:
        """Keeps what the last commit left under a name."""
        self._checkpoints.keep(name)

    def close(self) -> None:
        """Lets go of what is open outside; what was not committed is done again by the next run."""
        with contextlib.suppress(Exception):
            # The run is over without it, for a reason of its own.
            self._committing.finish()
        for partitions in self._outside.values():
            for feed in partitions.feeds:
                feed.close()
        self._deliveries.close()

    # -- beginning -------------------------------------------------------------------------------------------------

    def _feeds(self, node: n.AnySource) -> Sequence[Feed]:
        known = self._saved.sources.get(self._names[node])
        if isinstance(node, n.FrameSource):
            position = known.partitions[0].position if known is not None else 0
            stop = frame_end_of(node, self.analysis.shapes[node], self._options.until)
            return [FrameFeed(node.frame.select(self.analysis.needed[node]), position, stop)]
        if isinstance(node, n.ConnectorSource):
            until = self._options.until
            self._outside[node] = ConnectorFeeds(
                node,
                self.analysis.needed[node],
                known,
                extent_of(node, self.analysis.shapes[node], until),
                as_of_now=until not in {None, "stopped"},
                clock=self._clock,
                ring=self._ring,
            )
            return self._outside[node].feeds
        topic = self._topics[node.topic]
        begins = begin_of(node, topic, known, skip_gaps=self._options.skip_gaps)
        ends = ends_of(node, topic, self.analysis.shapes[node], self._options.until, begins, known)
        columns = self.analysis.read_from(node)
        return [
            TopicFeed(topic, p, offset, columns, stop=ends.get(p)) for p, offset in sorted(begins.items())
        ]

    def _bounded(self, node: n.AnySource) -> bool:
        """Whether a source comes to an end by itself."""
        if isinstance(node, n.ConnectorSource):
            return bool(node.source.bounded)
        return isinstance(node, n.FrameSource) or self._topics[node.topic].ended

    def _load(self, log: Log) -> Saved | None:
        """Where this run begins: at the last commit, at a savepoint, or from nothing."""
        if self._options.anew:
            return None
        name = self._options.savepoint
        if name is None:
            return self._checkpoints.load()
        there = savepoints(log, self.pipeline.name)
        if name not in there:
            raise NotFound(
                f"job {self.pipeline.name!r} has no savepoint {name!r}{did_you_mean(name, there)}; there are "
                f"{', '.join(there) or 'none'} (state= is 'resume', 'new', 'upgrade' or a savepoint's name)"
            )
        for output in self.pipeline.sinks:
            raise PipelineRefused(
                f"job {self.pipeline.name!r} cannot go back to savepoint {name!r}: sink {output.sink.name!r} (to at "
                f"{output.place}) has what came after it, and would get it again: give the pipeline another name"
            )
        return read_state(log, self.pipeline.name, there[name].base, there[name].end)

    def _check_resumable(self) -> None:
        upgrade = self.upgrade
        if upgrade.fits or (self._options.upgrade and upgrade.possible):
            return
        keep = (
            f", with state='upgrade' to keep the state of {', '.join(map(repr, upgrade.kept)) or 'no step'} and "
            "have the others begin without any from here on"
            if upgrade.possible
            else ""
        )
        raise PipelineRefused(
            f"pipeline {self.pipeline.name!r} does not fit the state of its job: {'; '.join(upgrade.problems())}. "
            f"Run it with state='new' to start over{keep}, or give it another name"
        )

    def _restore(self, saved: Saved | None) -> None:
        if saved is None:
            return
        steps = {node.name: step for node, step in self.engine.flow.steps.items()}
        for name, part, frame in saved.state:
            if name in self.upgrade.kept:
                steps[name].restore(part, frame)
        for node, step in self.engine.flow.steps.items():
            if node.name not in self.upgrade.kept:
                continue
            known = saved.progress.steps[node.name]
            step.restored(known.closed)
            counts = self.engine.flow.late[node]
            counts.rows, counts.by_watermark, counts.by_idleness = (
                known.rows,
                known.by_watermark,
                known.by_idleness,
            )
            counts.short = Tally(known.short)
        for intake in self.engine.intakes.values():
            source = saved.progress.sources.get(intake.settings.name)
            if source is None:
                continue
            intake.rows, intake.rejected = source.rows, dict(source.rejected)
            for partition, was in source.partitions.items():
                if partition in intake.times:
                    # Whether it is idle is asked anew: rows may have come while nobody looked.
                    intake.times[partition].greatest = was.greatest
        self._outputs.rows = dict(saved.progress.rows_out)
        self.faults.counts = dict(saved.progress.failed)

    def _take_over(self, log: Log) -> None:
        job = self.pipeline.name
        owned = {key.partition("/")[2] for key in log.records(OWNED) if key.startswith(f"{job}/")}
        anew = self._checkpoints.record is None or self._options.anew
        shapes = {output: self.analysis.shapes[output] for output in self.pipeline.topics}
        made = make_topics(log, self.pipeline.topics, shapes, replace=owned if self._options.anew else set())
        if self.faults.policy == "dead_letter":
            made += self._letters.make()
        empty = [name for name in owned if name in log] if self._options.anew else []
        # What the topic of state holds is not what this run begins with: it is written anew.
        replaces = not anew and (self._options.savepoint is not None or not self.upgrade.fits)
        self._checkpoints.claim(
            self._progress(),
            anew=anew,
            owned=[name for name in made if name not in owned],
            empty=empty,
            replaced={node.name: step for node, step in self.engine.flow.steps.items()} if replaces else None,
        )
        # Not before: from here on no other runner can commit.
        self._deliveries.recover(anew=self._options.anew or self._checkpoints.starts_over)

    # -- progress --------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        sources = {}
        for node, intake in self.engine.intakes.items():
            partitions = {
                feed.partition: PartitionProgress(
                    feed.position,
                    intake.times[feed.partition].greatest,
                    intake.times[feed.partition].ended,
                    feed.name,
                    feed.place,
                )
                for feed in intake.feeds
            }
            sources[intake.settings.name] = SourceProgress(
                partitions,
                intake.rows,
                intake.rejected,
                self._prepared.contents[node],
                self.analysis.shapes[node].time or "",
            )
        steps = {}
        for stateful, step in self.engine.flow.steps.items():
            late = self.engine.flow.late[stateful]
            steps[stateful.name] = StepProgress(
                step.closed,
                late.rows,
                late.by_watermark,
                late.by_idleness,
                late.short.counts,
                self._prepared.layouts[stateful.name],
            )
        return Progress(
            sources, steps, dict(self._outputs.rows), self._deliveries.progress(), dict(self.faults.counts)
        )

    def _moved(self) -> dict[str, dict[tuple[str, int], int]]:
        """What a group of the job's name has read since the last commit, for whoever looks at lag."""
        moved = {}
        for group, node in self._groups().items():
            positions = {
                (node.topic, feed.partition): feed.position for feed in self.engine.intakes[node].feeds
            }
            shown = self._shown.get(group, {})
            moved[group] = {place: at for place, at in positions.items() if shown.get(place) != at}
            self._shown[group] = positions
        return moved

    def _groups(self) -> dict[str, n.TopicSource]:
        """Sources by the name of the group that shows how far they are read."""
        return {
            f"job.{self.pipeline.name}{'.' * bool(node.name)}{node.name}": node
            for node in self.analysis.sources
            if isinstance(node, n.TopicSource)
        }
