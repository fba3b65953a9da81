"""A job: a pipeline at work under its name, in a thread of its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import ticks_per_day
from mamba_stream.errors import AlreadyExists, JobFailed, MambaStreamError
from mamba_stream.log import Log
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.bell import Bell
from mamba_stream.runtime.facts import JobStatus, RunSummary, State
from mamba_stream.runtime.lock import lock_job
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.savepoints import check_savepoint
from mamba_stream.runtime.viewing import view_state
from mamba_stream.runtime.watermarks import mark_of


class _Asked:
    """Somebody waits for a commit, which may be wanted as a savepoint."""

    def __init__(self, savepoint: str | None = None) -> None:
        self.heard = threading.Event()
        self.lsn: int | None = None
        self.savepoint = savepoint
        self.refused: MambaStreamError | None = None


class Job:
    """A pipeline at work.

    Made by ``mamba.start``. What is committed stays whatever happens to the job; running it again goes on there.
    """

    def __init__(self, pipeline: Pipeline, log: Log, options: RunOptions, clock: Clock | None = None) -> None:
        """Checks the pipeline against the log, takes the job's name and begins.

        Raises:
            JobRunning: A live job has this name.
            PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
        """
        self._clock = clock or SystemClock()
        self._log = log
        self._options = options
        self._bell = Bell(log)
        self._lock = lock_job(log, pipeline.name)
        try:
            self._run = Run(pipeline, log, options, self._clock, self._bell.ring)
        except BaseException:
            self._lock.release()
            raise
        self._state: State = "running"
        self._error: BaseException | None = None
        self._summary: RunSummary | None = None
        self._leave = threading.Event()
        self._drop = threading.Event()
        self._door = threading.Lock()
        self._asked: list[_Asked] = []
        self._over = False
        self._thread = threading.Thread(target=self._work, name=f"mamba-stream {pipeline.name}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self._state})"

    @property
    def name(self) -> str:
        """The job's name, which is the pipeline's."""
        return self._run.pipeline.name

    @property
    def status(self) -> JobStatus:
        """What the job is doing, and what it did since it first began."""
        engine = self._run.engine
        watermarks: dict[str, datetime | None] = {}
        positions = {}
        for node, intake in engine.intakes.items():
            name = intake.settings.name
            positions[name] = {feed.partition: feed.position for feed in intake.feeds}
            mark = mark_of(intake.times.values()).watermark
            shape = self._run.analysis.shapes[node]
            known = shape.time is not None and NEVER < mark < FOREVER
            watermarks[name] = _moment(mark, ticks_per_day(shape.time_type)) if known else None
        return JobStatus(
            name=self.name,
            state=self._state,
            rows_in=self._run.rows_in,
            rows_out=self._run.rows_out,
            late=self._run.late,
            rejected=self._run.rejected,
            failed=self._run.faults.rows,
            watermarks=watermarks,
            positions=positions,
            waiting=engine.waiting,
            state_bytes={node.name: step.bytes for node, step in engine.flow.steps.items()},
            commits=self._run.commits,
            lsn=self._run.lsn,
        )

    def wait(self, timeout: float | None = None) -> RunSummary:
        """Waits until the job is over.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            What the run did.

        Raises:
            TimeoutError: It is still running.
            JobFailed: It failed; ``__cause__`` says why.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"job {self.name!r} is still running after {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._summary is not None
        return self._summary

    def stop(self, timeout: float | None = None) -> RunSummary:
        """Lets the job finish what it has in hand, commit, and end; windows stay open for the next run."""
        self._leave.set()
        self._bell.ring()
        return self.wait(timeout)

    def cancel(self) -> None:
        """Ends the job at once, without a commit: the next run does again what was not committed."""
        self._drop.set()
        self._bell.ring()
        self._thread.join()

    def checkpoint(self, timeout: float | None = None) -> int:
        """Commits now; returns the number of the commit.

        Raises:
            TimeoutError: It did not come to it in time.
            JobFailed: The job is over.
        """
        return self._ask(_Asked(), timeout)

    def savepoint(self, name: str, timeout: float | None = None) -> int:
        """Commits now, and keeps what the job remembers under a name until it is deleted.

        ``mamba.run(pipeline, state=name)`` goes back to it: the job reads on from where it was then. What it had put
        out since stays in the topics, and comes again.

        Args:
            name: The savepoint's name.
            timeout: Seconds to wait at most.

        Returns:
            The number of the commit.

        Raises:
            AlreadyExists: The job has a savepoint of this name.
            InvalidName: It cannot be a name.
            TimeoutError: It did not come to it in time.
            JobFailed: The job is over: ``mamba-stream job savepoint`` does it for a job that does not run.
        """
        check_savepoint(name)
        return self._ask(_Asked(name), timeout)

    def state(self, step: str) -> pl.DataFrame:
        """What a step remembers as of the job's last commit, as a frame; the job may run or be over.

        Of a window step these are the windows that are open, as they would be given out now.

        Args:
            step: The step's name, as ``explain()`` and ``status.state_bytes`` have it.

        Raises:
            NotFound: The pipeline has no step of this name.
        """
        return view_state(self._log, self.name, self._run.analysis, step)

    def _ask(self, done: _Asked, timeout: float | None) -> int:
        with self._door:
            if self._over:
                raise JobFailed(f"job {self.name!r} is over ({self._state}): there is nothing to commit")
            self._asked.append(done)
        self._bell.ring()
        if not done.heard.wait(timeout):
            raise TimeoutError(f"job {self.name!r} did not commit within {timeout} s")
        if done.refused is not None:
            raise done.refused
        if done.lsn is None:
            raise JobFailed(
                f"job {self.name!r} ended before it could commit ({self._state})"
            ) from self._error
        return done.lsn

    def _work(self) -> None:
        try:
            try:
                self._loop()
            finally:
                self._run.close()
            self._summary = self._run.summary(self._state)
        except BaseException as error:  # noqa: BLE001 - kept for whoever waits
            self._state, self._error = "failed", self._named(error)
        finally:
            self._lock.release()
            with self._door:
                self._over = True
                self._answer(None)

    def _loop(self) -> None:
        run = self._run
        while self._goes_on():
            lsn = self._log.heard()
            rows = run.step()
            if self._leave.is_set() or (rows == 0 and run.over):
                self._state = "finished" if run.ended else "stopped"
                run.commit("finished" if run.ended else "stopped")
                return
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
        self._summary = replace(run.summary("cancelled"))

    def _goes_on(self) -> bool:
        # In this order: whoever rings behind it ends the wait.
        self._bell.still()
        return not self._drop.is_set()

    def _keep(self) -> None:
        """Makes savepoints of the commit just made, for those who want one."""
        for asked in self._asked:
            if asked.savepoint is not None:
                try:
                    self._run.keep(asked.savepoint)
                except AlreadyExists as error:
                    asked.refused = error

    def _answer(self, lsn: int | None) -> None:
        for done in self._asked:
            done.lsn = lsn
            done.heard.set()
        self._asked = []

    def _named(self, error: BaseException) -> BaseException:
        if isinstance(error, MambaStreamError):
            error.add_note(
                f"in job {self.name!r}; what it committed stays, and running it again goes on there"
            )
            return error
        failed = JobFailed(f"job {self.name!r} failed: {type(error).__name__}: {error}")
        failed.__cause__ = error
        return failed


def _moment(ticks: int, per_day: int) -> datetime | None:
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks * 86_400_000_000 // per_day)
    except OverflowError:
        return None
