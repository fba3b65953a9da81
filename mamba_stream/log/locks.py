"""Locks by name, one file each under the log: whoever holds the lock of the file is alive."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from mamba_stream.errors import DiskFull, LogUnavailable
from mamba_stream.log.directory import NO_ROOM


class FileLock:
    """A lock that the kernel lets go when the process dies."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def release(self) -> None:
        """Lets go; the file stays, since removing it would let two hold locks of one name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def this_process() -> str:
    """This process, as who looks for the holder of a lock is told of it."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def take(log: Path, space: str, name: str, holder: str) -> FileLock | None:
    """Takes the lock for this holder; ``None`` where somebody has it.

    Raises:
        DiskFull: There is no room for the lock's file.
        LogUnavailable: The file cannot be locked.
    """
    path = _path(log, space, name)
    fd = -1
    try:
        path.parent.mkdir(exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if isinstance(error, BlockingIOError):
            return None
        if error.errno in NO_ROOM:
            raise DiskFull(f"{path}: {error.strerror}; free some space and try again") from error
        raise LogUnavailable(
            f"{path} cannot be locked: {error.strerror}; try again, and look at the disk"
        ) from error
    # Who has it is only told: a full disk is no reason not to go on.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{holder}\n".encode(), 0)
    return FileLock(fd)


def holder(log: Path, space: str, name: str) -> str | None:
    """What the lock's holder wrote of itself; ``None`` where nobody has it."""
    path = _path(log, space, name)
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return path.read_text().strip() or "another process"
    return None


def _path(log: Path, space: str, name: str) -> Path:
    return log / space / f"{name}.lock"
