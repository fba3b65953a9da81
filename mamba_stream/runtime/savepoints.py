"""Savepoints of jobs that do not run: made, listed, deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.errors import InvalidName, NotFound, PipelineRefused
from mamba_stream.log import Log
from mamba_stream.runtime.held import add_savepoint, remove_savepoint, savepoints
from mamba_stream.runtime.jobs import find_job
from mamba_stream.runtime.left import is_drained
from mamba_stream.runtime.lock import lock_job
from mamba_stream.runtime.options import STATES
from mamba_stream.runtime.progress import Savepoint, decode_record
from mamba_stream.runtime.standing import JOBS, state_topic, tasks_of


class SavepointFacts(msgspec.Struct, frozen=True):
    """A savepoint.

    Attributes:
        job: The job's name.
        name: Its name.
        created: When it was made.
    """

    job: str
    name: str
    created: datetime


def check_savepoint(name: str) -> None:
    """Refuses what cannot be the name of a savepoint.

    Raises:
        InvalidName: It is no name, or one that ``state=`` has another use for.
    """
    check_name(name, "savepoint")
    if name in STATES:
        raise InvalidName(f"savepoint {name!r}: state={name!r} means something else; choose another name")


def list_savepoints(log: Log, job: str) -> list[SavepointFacts]:
    """A job's savepoints, the oldest first.

    Raises:
        JobNotFound: The log knows no such job.
    """
    find_job(log, job)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    found = [
        SavepointFacts(job, name, epoch + timedelta(microseconds=savepoint.created))
        for name, savepoint in savepoints(log, job).items()
    ]
    return sorted(found, key=lambda facts: (facts.created, facts.name))


def make_savepoint(log: Log, job: str, name: str, clock: Clock | None = None) -> None:
    """Keeps what the last commit of a job that does not run left.

    Raises:
        JobNotFound: The log knows no such job.
        JobRunning: It runs: ask the job itself.
        AlreadyExists: It has a savepoint of this name.
        PipelineRefused: It is run by workers, and rows are on their way between them.
    """
    find_job(log, job)
    check_savepoint(name)
    lock = lock_job(log, job)
    try:
        data = log.record(JOBS, job)
        assert data is not None
        if log.records(tasks_of(job)) and not is_drained(decode_record(data)):
            raise PipelineRefused(
                f"job {job!r} was interrupted, and rows are on their way between its workers: run it until they have "
                "come through (until='now'), or stop it while it runs, and make the savepoint then"
            )
        kept = Savepoint(
            decode_record(data).base, log[state_topic(job)].offsets()[0][1], (clock or SystemClock()).now()
        )
        with log.transaction() as tx:
            tx.require_record(JOBS, job, data)
            add_savepoint(tx, log, job, name, kept)
    finally:
        lock.release()


def delete_savepoint(log: Log, job: str, name: str) -> None:
    """Lets go of a savepoint; what it held is freed when the job next writes its whole state.

    Raises:
        NotFound: The job has none of this name.
    """
    find_job(log, job)
    there = savepoints(log, job)
    if name not in there:
        raise NotFound(
            f"job {job!r} has no savepoint {name!r}{did_you_mean(name, there)}; there are {', '.join(there) or 'none'}"
        )
    with log.transaction() as tx:
        remove_savepoint(tx, log, job, name)
