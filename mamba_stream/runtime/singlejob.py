"""A job that is a single task, in this process."""

from __future__ import annotations

import os

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import AlreadyExists, InvalidInput
from mamba_stream.log import Log
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.facts import JobStatus, RunSummary
from mamba_stream.runtime.job import Job
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.watermarks import mark_of, moment_of


class SingleJob(Job):
    """A pipeline at work as one task."""

    def __init__(self, pipeline: Pipeline, log: Log, options: RunOptions, clock: Clock | None = None) -> None:
        """Checks the pipeline against the log, takes the job's name and begins.

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
        self._thread.start()

    @property
    def status(self) -> JobStatus:
        run, engine = self._run, self._run.engine
        watermarks, positions = {}, {}
        for node, intake in engine.intakes.items():
            name = intake.settings.name
            positions[name] = {feed.partition: feed.position for feed in intake.feeds}
            mark = mark_of(intake.times.values()).watermark
            watermarks[name] = moment_of(mark, run.analysis.shapes[node])
        return JobStatus(
            name=self.name,
            state=self._state,
            rows_in=run.rows_in,
            rows_out=run.rows_out,
            late=run.late,
            rejected=run.rejected,
            failed=run.faults.rows,
            watermarks=watermarks,
            positions=positions,
            waiting=engine.waiting,
            state_bytes={node.name: step.bytes for node, step in engine.flow.steps.items()},
            commits=run.commits,
            lsn=run.lsn,
        )

    @property
    def workers(self) -> dict[int, int]:
        return {0: os.getpid()}

    def rescale(self, workers: int) -> None:
        raise InvalidInput(
            f"job {self.name!r} runs as one task in this process: stop it, and run it with workers={workers}"
        )

    @property
    def _analysis(self) -> Analysis:
        return self._run.analysis

    def _loop(self) -> RunSummary:
        run = self._run
        while self._goes_on():
            lsn = self._log.heard()
            rows = run.step()
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
                run.begin_commit()
            elif run.commit_done:
                run.end_commit()
            if rows == 0:
                run.rest()
                self._log.wait(lsn, run.seconds_to_next(), self._bell.rung)
        self._state = "cancelled"
        return run.summary("cancelled")

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
