"""Asking something of a job that another process runs, over the log that both have."""

from __future__ import annotations

import getpass
import os
import platform
from typing import Final

from mamba_stream import errors
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import JobFailed, JobNotRunning, PreconditionFailed
from mamba_stream.log import Log
from mamba_stream.runtime.jobs import find_job
from mamba_stream.runtime.lock import holder_of
from mamba_stream.runtime.progress import decode_record
from mamba_stream.runtime.requests import (
    ANSWERS,
    REQUESTS,
    RUNS,
    Answer,
    Request,
    What,
    decode_answer,
    decode_run,
    encode,
    in_words,
    joined,
)
from mamba_stream.runtime.standing import JOBS

PATIENCE: Final = 30.0
"""Seconds that an answer is waited for, unless told otherwise."""
_LOOK: Final = 0.5
"""Seconds between two looks whether the job still runs; of an answer the log tells by itself."""


def ask(
    log: Log, job: str, what: What, timeout: float = PATIENCE, clock: Clock | None = None
) -> tuple[str, bytes]:
    """Asks a job for something, and waits until it is done.

    Only the run that is at work now can obey; what it has not taken when the time is over is withdrawn.

    Args:
        log: The log.
        job: The job's name.
        what: What is asked.
        timeout: Seconds to wait.
        clock: The clock.

    Returns:
        What the job says, and what belongs to it.

    Raises:
        JobNotFound: The log knows none of this name.
        JobNotRunning: It does not run, or ended before it came to that.
        TimeoutError: There was no answer in time; the message says what became of the request.
        MambaStreamError: The job refuses, and says why; the error is of the class that it named.
    """
    found = find_job(log, job)
    if not found.where:
        raise JobNotRunning(
            f"job {job!r} does not run ({found.state}): nobody is there to {in_words(what)}; mamba-stream run starts it"
        )
    data = log.record(JOBS, job)
    assert data is not None
    return _Asking(log, job, what, decode_record(data).epoch, clock or SystemClock()).wait(timeout)


class _Asking:
    """One request, from when it is made until it is answered."""

    def __init__(self, log: Log, job: str, what: What, run: int, clock: Clock) -> None:
        """Puts the request where the run finds it."""
        self._log = log
        self._job = job
        self._what = what
        self._run = run
        self._clock = clock
        self._number = os.urandom(16).hex()
        self._request = encode(Request(run, what, _who()))
        self._requests, self._answers = f"{REQUESTS}/{job}", f"{ANSWERS}/{job}"
        with log.transaction() as tx:
            tx.put_record(self._requests, self._number, self._request)

    def wait(self, timeout: float) -> tuple[str, bytes]:
        """Waits for the answer."""
        begun = self._clock.monotonic()
        try:
            while (left := begun + timeout - self._clock.monotonic()) > 0:
                lsn = self._log.heard()
                # In this order: a job answers before its name is free.
                runs = self._runs()
                answer = self._answer()
                if answer is not None and answer.state != "taken":
                    return self._said(answer)
                if not runs:
                    raise self._gone(answer)
                self._log.wait(lsn, min(left, _LOOK))
        except BaseException:
            self._withdraw()
            raise
        raise self._late(timeout, taken=not self._withdraw())

    def _answer(self) -> Answer | None:
        data = self._log.record(self._answers, self._number)
        return None if data is None else decode_answer(data)

    def _runs(self) -> bool:
        """Whether the run that is asked may still be at work: behind a savepoint it goes on under a later number."""
        if holder_of(self._log, self._job) is None:
            return False
        hears = self._log.record(RUNS, self._job)
        return hears is None or decode_run(hears).run <= self._run

    def _said(self, answer: Answer) -> tuple[str, bytes]:
        records = self._log.records(self._answers) if answer.pieces else {}
        data = joined(self._number, answer, records)
        with self._log.transaction() as tx:
            tx.delete_record(self._answers, self._number)
            for key in records:
                if key.startswith(f"{self._number}/"):
                    tx.delete_record(self._answers, key)
        if answer.state == "refused":
            raise getattr(errors, answer.error, JobFailed)(answer.text)
        return answer.text, data

    def _withdraw(self) -> bool:
        """Takes the request back; whether that was possible: a job may have taken it."""
        try:
            with self._log.transaction() as tx:
                tx.require_record(self._requests, self._number, self._request)
                tx.delete_record(self._requests, self._number)
        except PreconditionFailed:
            return False
        return True

    def _gone(self, answer: Answer | None) -> JobNotRunning:
        what = "before it heard of that" if answer is None else "in the middle of that, without a word"
        return JobNotRunning(
            f"the run of job {self._job!r} that was asked to {in_words(self._what)} ended {what}; what it had "
            f"committed stays, and running it again goes on there (mamba-stream job logs {self._job} says more)"
        )

    def _late(self, timeout: float, *, taken: bool) -> TimeoutError:
        if taken:
            return TimeoutError(
                f"job {self._job!r} was asked to {in_words(self._what)}, and is at it, but not done within "
                f"{timeout:g} s: it goes on (mamba-stream job describe {self._job} says how far it is)"
            )
        where = holder_of(self._log, self._job) or "nobody knows where"
        return TimeoutError(
            f"job {self._job!r} ({where}) did not answer within {timeout:g} s: it was asked to "
            f"{in_words(self._what)}, which is withdrawn. A function of its pipeline may hang: ask again with a longer "
            "timeout, or end that process, which loses nothing that is committed"
        )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user} (process {os.getpid()} on {platform.node()})"
