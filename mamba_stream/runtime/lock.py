"""One live job of a name in a log."""

from __future__ import annotations

from mamba_stream.errors import JobRunning
from mamba_stream.log import Lock, Log

_SPACE = "jobs"


def lock_job(log: Log, name: str) -> Lock:
    """Takes the lock of a job's name, which is let go when the process dies.

    Raises:
        JobRunning: A live job has it; the message says where.
        DiskFull: There is no room for the lock.
    """
    lock = log.lock(_SPACE, name)
    if lock is None:
        raise JobRunning(
            f"job {name!r} runs already ({holder_of(log, name) or 'another process'}): stop it first, or give this "
            "pipeline another name"
        )
    return lock


def holder_of(log: Log, name: str) -> str | None:
    """Who runs the job of this name now, or ``None``."""
    return log.lock_holder(_SPACE, name)
