"""One live job of a name in a log: whoever holds the lock of its file is alive."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from mamba_stream.errors import JobRunning

_DIRECTORY = "jobs"


class JobLock:
    """The lock of a job's name, which the kernel lets go when the process dies."""

    def __init__(self, log: Path, name: str) -> None:
        """Takes the lock.

        Raises:
            JobRunning: A live job has it; the message says where.
        """
        directory = log / _DIRECTORY
        directory.mkdir(exist_ok=True)
        self._file: TextIO | None = (directory / f"{name}.lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise JobRunning(
                f"job {name!r} runs already ({holder}): stop it first, or give this pipeline another name"
            ) from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Lets go; the file stays, since removing it would let two hold locks of one name."""
        if self._file is not None:
            self._file.close()
            self._file = None


def holder_of(log: Path, name: str) -> str | None:
    """Who runs the job of this name now, or ``None``."""
    path = log / _DIRECTORY / f"{name}.lock"
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None
