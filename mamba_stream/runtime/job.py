"""A job: a pipeline at work under its name, in a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import threading
import weakref
from abc import ABC, abstractmethod
from functools import partial
from typing import Final

import polars as pl

from mamba_stream.core.clock import EVER, Clock
from mamba_stream.errors import JobFailed, MambaStreamError
from mamba_stream.log import Log
from mamba_stream.plan.analysis import Analysis
from mamba_stream.runtime.bell import Bell
from mamba_stream.runtime.describing import Inlets, JobDescription, describe, encode_description
from mamba_stream.runtime.facts import JobStatus, RunSummary, State
from mamba_stream.runtime.lock import lock_job
from mamba_stream.runtime.places import line_of
from mamba_stream.runtime.reception import Doing, Outcome, Reception
from mamba_stream.runtime.requests import Cancel, Describe, Rescale, Savepoint, Stop, What
from mamba_stream.runtime.savepoints import check_savepoint
from mamba_stream.runtime.viewing import view_state

_LEAVING: Final = 5.0
"""Seconds that a job has to end when its program does."""
_at_work: weakref.WeakSet[Job] = weakref.WeakSet()


class Asked:
    """Somebody waits for a commit, which may be wanted as a savepoint."""

    def __init__(self, savepoint: str | None = None) -> None:
        self.heard = threading.Event()
        self.lsn: int | None = None
        self.savepoint = savepoint
        self.refused: MambaStreamError | None = None


class Job(ABC):
    """A pipeline at work.

    Made by ``mamba.start``. What is committed stays whatever happens to the job; running it again goes on there.
    """

    def __init__(self, name: str, log: Log, clock: Clock) -> None:
        """Takes the job's name; it begins when its thread is started.

        Raises:
            JobRunning: A live job has this name.
        """
        self.name = name
        """The job's name, which is the pipeline's."""
        self.note = ""
        """What is worth knowing of how it runs: why by one worker, where several were asked for."""
        self._log = log
        self._clock = clock
        self._bell = Bell(log)
        self._lock = lock_job(log, name)
        self._state: State = "running"
        self._error: BaseException | None = None
        self._summary: RunSummary | None = None
        self._leave = threading.Event()
        self._drop = threading.Event()
        self._door = threading.Lock()
        self._asked: list[Asked] = []
        self._over = False
        self._ended = threading.Event()
        self._reception: Reception | None = None
        self._thread = threading.Thread(target=self._work, name=f"mamba-stream {name}", daemon=True)

    def __repr__(self) -> str:
        return f"Job({self.name!r}, {self._state})"

    @property
    @abstractmethod
    def status(self) -> JobStatus:
        """What the job is doing, and what it did since it first began."""

    @property
    @abstractmethod
    def workers(self) -> dict[int, int]:
        """The numbers of the processes that run it, by worker, as far as they are ready."""

    @abstractmethod
    def rescale(self, workers: int) -> None:
        """Has the job's tasks run by so many workers from now on; only what must move does.

        Raises:
            InvalidInput: There is no such number, or the job is a single task.
        """

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
        if not self._ends_within(timeout):
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

    def cancel(self, timeout: float | None = None) -> None:
        """Ends the job at once, without a commit: the next run does again what was not committed.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It has not ended: a function of the pipeline is at work, and cannot be ended from outside.
        """
        self._drop.set()
        self._bell.ring()
        if not self._ends_within(timeout):
            raise TimeoutError(f"job {self.name!r} has not ended within {timeout} s")

    def _ends_within(self, timeout: float | None) -> bool:
        # Not by `join`: a thread of which that is interrupted is taken for one that is over.
        ended = self._ended.wait(EVER if timeout is None else timeout)
        if ended:
            # It has nothing left to do.
            self._thread.join()
        return ended

    def describe(self) -> JobDescription:
        """What ``mamba-stream job describe`` shows of it: its status, who runs it, and how much is still to be read."""
        return describe(self._log, self.status, self.workers, self._inlets)

    def checkpoint(self, timeout: float | None = None) -> int:
        """Commits now, and has it on the disk; returns the number of the commit.

        Raises:
            TimeoutError: It did not come to it in time.
            JobFailed: The job is over.
        """
        lsn = self._ask(Asked(), timeout)
        self._log.flush()
        return lsn

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
        return self._ask(Asked(name), timeout)

    def state(self, step: str) -> pl.DataFrame:
        """What a step remembers as of the job's last commit, as a frame; the job may run or be over.

        Of a window step these are the windows that are open, as they would be given out now.

        Args:
            step: The step's name, as ``explain()`` and ``status.state_bytes`` have it.

        Raises:
            NotFound: The pipeline has no step of this name.
        """
        return view_state(self._log, self.name, self._analysis, step)

    def _ask(self, done: Asked, timeout: float | None) -> int:
        with self._door:
            if self._over:
                raise JobFailed(f"job {self.name!r} is over ({self._state}): there is nothing to commit")
            self._asked.append(done)
        self._bell.ring()
        if not done.heard.wait(EVER if timeout is None else timeout):
            raise TimeoutError(f"job {self.name!r} did not commit within {timeout} s")
        if done.refused is not None:
            raise done.refused
        if done.lsn is None:
            raise JobFailed(
                f"job {self.name!r} ended before it could commit ({self._state})"
            ) from self._error
        return done.lsn

    @property
    @abstractmethod
    def _scale(self) -> int:
        """How many workers it is to have."""

    @property
    @abstractmethod
    def _scaled(self) -> bool:
        """Whether it has them, and each its tasks."""

    @property
    @abstractmethod
    def _inlets(self) -> dict[int, Inlets]:
        """What each stage reads."""

    @property
    @abstractmethod
    def _analysis(self) -> Analysis:
        """The job's plan."""

    @abstractmethod
    def _loop(self) -> RunSummary:
        """Works until the job is over, and says in ``_state`` how that came."""

    @abstractmethod
    def _end(self) -> None:
        """Lets go of all that the loop worked with."""

    def _begin(self, run: int) -> None:
        """Has the job work in its thread, as a run of this number."""
        self._reception = Reception(self._log, self.name, run, self._clock, self._obey)
        self._thread.start()
        _at_work.add(self)

    def _work(self) -> None:
        assert self._reception is not None
        try:
            try:
                place = f"process {os.getpid()} on {platform.node()}"
                self._reception.begin(
                    self._scale, f"run over {self._log.place} by {place}: {self._as_begun()}"
                )
                with self._log.tended():
                    summary = self._loop()
            finally:
                self._end()
            self._summary = summary
        except BaseException as error:  # noqa: BLE001 - kept for whoever waits
            self._state, self._error = "failed", self._named(error)
        finally:
            with self._door:
                self._over = True
            # Before its name is free, so that nobody takes it for one that died.
            with contextlib.suppress(Exception):
                # Whatever may be wrong with the log by now: how it ended, `wait` says.
                self._reception.end(self._state, self._last_words())
            self._lock.release()
            with self._door:
                self._answer(None)
            self._ended.set()

    def _goes_on(self) -> bool:
        # In this order: whoever rings behind it ends the wait.
        self._bell.still()
        assert self._reception is not None
        self._reception.turn(self._scale)
        return not self._drop.is_set()

    def _wait(self, lsn: int, seconds: float) -> None:
        """Waits for the log, for a ring, and for what is asked of the job, so long at most."""
        assert self._reception is not None
        self._log.wait(lsn, min(seconds, self._reception.seconds()), self._bell.rung)

    def _as_begun(self) -> str:
        """How the run begins, in words."""
        return f"{self._scale} worker{'s' * (self._scale > 1)}"

    def _last_words(self) -> str:
        if self._error is None:
            return repr(self._summary)
        where = line_of(self._error.__cause__ or self._error)
        said = f"{type(self._error).__name__}: {self._error}"
        return said if where is None or where in said else f"{said}\n  raised at {where}"

    def _obey(self, what: What) -> Doing:
        """Begins to do what another process asks."""
        match what:
            case Stop():
                self._leave.set()
                return self._outcome
            case Cancel():
                self._drop.set()
                return self._outcome
            case Rescale(workers):
                self.rescale(workers)
                return lambda: (f"has {self._scale} workers", b"") if self._scaled else None
            case Savepoint(name):
                check_savepoint(name)
                asked = Asked(name)
                with self._door:
                    self._asked.append(asked)
                return partial(self._kept, asked)
            case Describe():
                described = self.describe()
                return lambda: ("", encode_description(described))

    def _outcome(self) -> Outcome | None:
        """How the job ended, once it has."""
        if not self._over:
            return None
        if self._error is not None:
            raise JobFailed(self._last_words())
        return repr(self._summary), b""

    def _kept(self, asked: Asked) -> Outcome | None:
        if asked.refused is not None:
            raise asked.refused
        return (f"kept with commit {asked.lsn}", b"") if asked.lsn is not None else None

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


@atexit.register
def _cancel_all() -> None:
    """Cancels the jobs that a program leaves behind as it ends.

    A thread that comes back from Arrow when the interpreter is no more ends the process by a signal.
    """
    # Twice: all are told before the first is waited for.
    for seconds in (0.0, _LEAVING):
        for job in list(_at_work):
            with contextlib.suppress(TimeoutError, MambaStreamError, OSError):
                job.cancel(seconds)
