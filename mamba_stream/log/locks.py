"""Locks by name, one file each under the log: whoever holds the lock of the file is alive."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from pathlib import Path
from typing import Final

from mamba_stream.errors import DiskFull, LogUnavailable
from mamba_stream.log.directory import NO_ROOM

_LOOKS: Final = 1_000
_MOMENT: Final = 0.001
"""Seconds until it is tried again; so often at most, for one who looks may be stopped."""


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
        locked = _locked(fd)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if error.errno in NO_ROOM:
            raise DiskFull(f"{path}: {error.strerror}; free some space and try again") from error
        raise LogUnavailable(
            f"{path} cannot be locked: {error.strerror}; try again, and look at the disk"
        ) from error
    if not locked:
        os.close(fd)
        return None
    # Who has it is only told: a full disk is no reason not to go on.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{holder}\n".encode(), 0)
    return FileLock(fd)


def _locked(fd: int) -> bool:
    """Whether the lock is ours now. Who only looks who has it shares it for a moment, and is waited for."""
    for _ in range(_LOOKS):
        if _flock(fd, fcntl.LOCK_EX):
            return True
        if not _flock(fd, fcntl.LOCK_SH):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        threading.Event().wait(_MOMENT)
    return False


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(log: Path, space: str, name: str) -> str | None:
    """What the lock's holder wrote of itself; ``None`` where nobody has it.

    Raises:
        LogUnavailable: That cannot be told now.
    """
    path = _path(log, space, name)
    try:
        file = path.open()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LogUnavailable(f"{path} cannot be looked at: {error.strerror}; try again") from error
    with file:
        if _flock(file.fileno(), fcntl.LOCK_SH):
            return None
        return path.read_text().strip() or "another process"


def _path(log: Path, space: str, name: str) -> Path:
    return log / space / f"{name}.lock"
