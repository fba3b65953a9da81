"""A job of many tasks, which workers run: this process gives them out and watches, and does none of the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Literal

from msgspec.structs import replace

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import AlreadyExists, InvalidInput
from mamba_stream.log import Log
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.staging import PARTITIONS
from mamba_stream.runtime.counts import added, added_lateness, summary_of
from mamba_stream.runtime.describing import Inlets, inlets_of
from mamba_stream.runtime.facts import JobStatus, RunSummary
from mamba_stream.runtime.job import Asked, Job
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.status import StatusOf
from mamba_stream.runtime.workers.beginning import Begun, begin
from mamba_stream.runtime.workers.executor import Executor
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.scaling import Scaling

_LOOK: Final = 1.0
"""Seconds until the pool is looked after when nothing is heard."""

Starting = Callable[[Begun], Executor]
"""Makes what starts the workers of a run."""


class PooledJob(Job):
    """A pipeline at work as many tasks."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        options: RunOptions,
        settings: PoolSettings,
        starting: Starting,
        *,
        partitions: int = PARTITIONS,
        clock: Clock | None = None,
    ) -> None:
        """Checks the pipeline against the log, takes the job's name and begins.

        Args:
            pipeline: The pipeline.
            log: The log.
            options: How it is run.
            settings: How many workers, and how they are watched.
            starting: Makes what starts the workers.
            partitions: How many tasks a stage behind a shuffle has, where the job has none yet.
            clock: The clock.

        Raises:
            JobRunning: A live job has this name.
            PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
        """
        super().__init__(pipeline.name, log, clock or SystemClock())
        self._pipeline, self._options, self._partitions = pipeline, options, partitions
        self._settings, self._starting = settings, starting
        try:
            self._begun = begun = begin(pipeline, log, options, partitions, self._clock)
            self._pool = self._new_pool(settings)
        except BaseException:
            self._lock.release()
            raise
        prepared = begun.prepared
        self._status = StatusOf(self.name, prepared.analysis, prepared.names, begun.layout.stages)
        self._since = self._clock.monotonic()
        self._wanted: int | None = None
        most = min(options.workers, len(begun.layout.tasks))
        self._scaling = None if options.least is None else Scaling(min(options.least, most), most)
        self._begin(begun.run)

    @property
    def status(self) -> JobStatus:
        pool = self._pool
        return self._status(self._state, dict(pool.facts), pool.owners, self._log.heard())

    @property
    def workers(self) -> dict[int, int]:
        return {number: process or os.getpid() for number, process in self._pool.workers.items()}

    def tasks_of(self, worker: int) -> frozenset[TaskName]:
        """The tasks of a worker."""
        return self._pool.tasks_of(worker)

    def rescale(self, workers: int) -> None:
        if not is_whole(workers) or workers < 1:
            raise InvalidInput(f"rescale({workers!r}): give a number of workers from 1 on")
        # From here on it is as many as somebody wanted.
        self._scaling = None
        self._wanted = workers
        self._bell.ring()

    @property
    def _scale(self) -> int:
        return self._pool.scale if self._wanted is None else self._wanted

    @property
    def _scaled(self) -> bool:
        return self._wanted is None and self._pool.settled

    @property
    def _inlets(self) -> dict[int, Inlets]:
        return inlets_of(self.name, self._begun.layout.stages, self._begun.prepared.names)

    def _as_begun(self) -> str:
        layout = self._begun.layout
        return f"{super()._as_begun()}, {len(layout.tasks)} tasks in {len(layout.stages)} stages"

    def _note_event(self, what: str, text: str) -> None:
        assert self._reception is not None
        self._reception.note(what, text)

    @property
    def _analysis(self) -> Analysis:
        return self._begun.prepared.analysis

    def _new_pool(self, settings: PoolSettings) -> Pool:
        executor = self._starting(self._begun)
        return Pool(self._begun.layout, executor, settings, self._clock, self._bell.ring, self._note_event)

    def _loop(self) -> RunSummary:
        pool = self._pool
        asked: int | None = None
        left = False
        while self._goes_on():
            lsn = self._log.heard()
            if not left and (self._leave.is_set() or self._wanted_savepoints()):
                # A savepoint holds what tasks remember, and nothing that is on its way between them.
                pool.leave()
                left = True
            if not left:
                self._scale_by_load()
            if self._wanted is not None:
                wanted, self._wanted = self._wanted, None
                pool.rescale(wanted)
            pool.turn()
            if pool.error is not None:
                raise pool.error
            if pool.over:
                ended: Literal["finished", "stopped"] = "finished" if pool.ended else "stopped"
                self._note(ended)
                if self._keep() and not (pool.ended or self._leave.is_set()):
                    pool, asked, left = self._go_on(), None, False
                    continue
                self._state = ended
                return self._summed()
            if asked is None and any(one.savepoint is None for one in self._asked):
                asked = pool.commit()
            if asked is not None and pool.committed(asked):
                asked = None
                self._committed()
            self._wait(lsn, min(_LOOK, pool.seconds_to_next()))
        self._state = "cancelled"
        return self._summed()

    def _scale_by_load(self) -> None:
        """Has as many workers as the load takes, where that is to be found out."""
        pool, scaling, now = self._pool, self._scaling, self._clock.monotonic()
        if scaling is None or not scaling.due(now):
            return
        waiting = sum(self.describe().lag.values())
        found = scaling.look(now, pool.scale, dict(pool.facts), waiting, settled=pool.settled)
        if found is not None:
            pool.rescale(found)

    def _wanted_savepoints(self) -> list[Asked]:
        with self._door:
            return [asked for asked in self._asked if asked.savepoint is not None]

    def _keep(self) -> bool:
        """Makes savepoints of what was left when all had come through, for those who want one; whether anybody did."""
        wanted = self._wanted_savepoints()
        for asked in wanted:
            assert asked.savepoint is not None
            try:
                self._begun.checkpoints.keep(asked.savepoint)
            except AlreadyExists as error:
                asked.refused = error
        if wanted:
            with self._door:
                self._answer(self._log.heard())
        return bool(wanted)

    def _go_on(self) -> Pool:
        """Begins anew where all had come to their end; what was said of this run's end counts for the next no more."""
        before = self._pool
        before.cancel()
        options = replace(self._options, anew=False, savepoint=None, upgrade=False)
        # With the columns of before: a topic that was altered meanwhile is for the next run.
        schemas = self._begun.prepared.schemas
        self._begun = begin(self._pipeline, self._log, options, self._partitions, self._clock, schemas)
        self._pool = pool = self._new_pool(replace(self._settings, workers=before.scale))
        pool.facts, pool.begun = dict(before.facts), dict(before.begun)
        return pool

    def _committed(self) -> None:
        """Answers those who wanted a commit and nothing else."""
        with self._door:
            kept = [asked for asked in self._asked if asked.savepoint is not None]
            self._asked = [asked for asked in self._asked if asked.savepoint is None]
            self._answer(self._log.heard())
            self._asked = kept

    def _note(self, status: str) -> None:
        """Says in the job's own record how the run ended."""
        checkpoints = self._begun.checkpoints
        saved = checkpoints.load()
        assert saved is not None
        checkpoints.take(outputs=[], offsets={}, progress=saved.progress, steps={}, status=status)()

    def _summed(self) -> RunSummary:
        facts, begun = self._pool.facts, self._pool.begun
        done = added(one.counts.since(begun[name]) for name, one in facts.items())
        steps = {name for one in facts.values() for name in one.lateness}
        lateness = {
            step: added_lateness(one.lateness[step] for one in facts.values() if step in one.lateness)
            for step in steps
        }
        seconds = self._clock.monotonic() - self._since
        return summary_of(self.name, self._analysis, self._state, done, seconds, lateness)

    def _end(self) -> None:
        self._pool.cancel()
