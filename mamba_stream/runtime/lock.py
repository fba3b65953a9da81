"""One live job of a name in a log: whoever holds the lock of its file is alive."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from mamba_stream.errors import DiskFull, JobRunning
from mamba_stream.log.directory import NO_ROOM

_DIRECTORY = "jobs"


class JobLock:
    """The lock of a job's name, which the kernel lets go when the process dies."""

    def __init__(self, log: Path, name: str) -> None:
        """Takes the lock.

        Raises:
            JobRunning: A live job has it; the message says where.
            DiskFull: There is no room for the lock's file.
        """
        path = log / _DIRECTORY / f"{name}.lock"
        try:
            path.parent.mkdir(exist_ok=True)
            self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(
                    f"{path}: {error.strerror}; job {name!r} was not started. Free some space and run it again"
                ) from error
            raise
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise JobRunning(
                f"job {name!r} runs already ({_named(path)}): stop it first, or give this pipeline another name"
            ) from None
        # Who has it is only told: a full disk is no reason not to run.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Lets go; the file stays, since removing it would let two hold locks of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def holder_of(log: Path, name: str) -> str | None:
    """Who runs the job of this name now, or ``None``."""
    path = log / _DIRECTORY / f"{name}.lock"
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(path)
    return None


def _named(path: Path) -> str:
    """What the holder of a lock wrote of itself."""
    return path.read_text().strip() or "another process"
