"""A job that is a single task, in this process."""

from __future__ import annotations

import logging
import os

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import AlreadyExists, InvalidInput
from mamba_stream.log import Log
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import whole
from mamba_stream.runtime.describing import Inlets, inlets_of
from mamba_stream.runtime.facts import JobStatus, RunSummary
from mamba_stream.runtime.job import Job
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.status import StatusOf
from mamba_stream.runtime.workers.facts import Spent, facts_of
from mamba_stream.runtime.workers.layout import TaskName

_TASK = TaskName(0, 0)

_logger = logging.getLogger(__name__)


class SingleJob(Job):
    """A pipeline at work as one task."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        options: RunOptions,
        clock: Clock | None = None,
        why_alone: str = "",
    ) -> None:
        """Checks the pipeline against the log, takes the job's name and begins.

        Args:
            pipeline: The pipeline.
            log: The log.
            options: How it is run.
            clock: The clock.
            why_alone: Why it is not run by the workers that were asked for.

        Raises:
            JobRunning: A live job has this name.
            PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
        """
        super().__init__(pipeline.name, log, clock or SystemClock())
        try:
            self._run = Run(pipeline, log, options, self._clock, self._bell.ring)
        except BaseException:
            self._lock.release()
            raise
        self._spent = Spent(self._clock.monotonic())
        self._status = StatusOf(self.name, self._run.analysis, self._run.names, [whole(self._run.analysis)])
        if why_alone:
            self.note = f"one worker is faster than several would be: {why_alone}"
            _logger.info("job %r: %s", self.name, self.note)
        self._begin(self._run.number)

    @property
    def status(self) -> JobStatus:
        facts = facts_of(self._run, self._spent, self._clock.monotonic())
        return self._status(self._state, {_TASK: facts}, {_TASK: 0}, self._run.lsn)

    @property
    def workers(self) -> dict[int, int]:
        return {0: os.getpid()}

    def rescale(self, workers: int) -> None:
        why, asked = (f" ({self.note})", f"'exactly:{workers}'") if self.note else ("", workers)
        raise InvalidInput(
            f"job {self.name!r} runs as one task in this process{why}: stop it, and run it with workers={asked}"
        )

    def _as_begun(self) -> str:
        return f"{super()._as_begun()}{f' ({self.note})' * bool(self.note)}"

    @property
    def _scale(self) -> int:
        return 1

    @property
    def _scaled(self) -> bool:
        return True

    @property
    def _inlets(self) -> dict[int, Inlets]:
        return inlets_of(self.name, [whole(self._run.analysis)], self._run.names)

    @property
    def _analysis(self) -> Analysis:
        return self._run.analysis

    def _loop(self) -> RunSummary:
        run = self._run
        while self._goes_on():
            lsn = self._log.heard()
            rows = self._step()
            if self._leave.is_set() or (rows == 0 and run.over):
                self._state = "finished" if run.ended else "stopped"
                run.commit("finished" if run.ended else "stopped")
                return run.summary(self._state)
            if self._asked:
                with self._door:
                    run.commit("running")
                    self._keep()
                    self._answer(run.lsn)
            elif run.commit_due:
                self._begin_commit()
            elif run.commit_done:
                run.end_commit()
            if rows == 0:
                run.rest()
                self._wait(lsn, run.seconds_to_next())
        self._state = "cancelled"
        return run.summary("cancelled")

    def _step(self) -> int:
        run, begun = self._run, self._clock.monotonic()
        rows = run.step()
        worked, held = rows > 0 or run.engine.acted, bool(run.engine.waiting)
        self._spent.turn(begun, self._clock.monotonic(), worked=worked, held=held)
        return rows

    def _begin_commit(self) -> None:
        begun = self._clock.monotonic()
        self._run.end_commit()
        free = self._clock.monotonic()
        self._run.begin_commit()
        self._spent.committed(begun, free, self._clock.monotonic())

    def _keep(self) -> None:
        """Makes savepoints of the commit just made, for those who want one."""
        for asked in self._asked:
            if asked.savepoint is not None:
                try:
                    self._run.keep(asked.savepoint)
                except AlreadyExists as error:
                    asked.refused = error

    def _end(self) -> None:
        self._run.close()
