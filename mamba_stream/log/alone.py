"""Having a log for oneself: nobody has it open, and who opens it meanwhile waits.

LMDB itself tells: every process that has the index open holds a lock on the first byte of its table of readers, from
before it looks at the index until it closes it. Whoever holds that lock alone may put another index into its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mamba_stream.errors import LogInUse
from mamba_stream.log import directory

LOCKS: Final = "lock.mdb"
_FLOCK: Final = struct.Struct("=hh4xqqi4x")
"""Of Linux on 64 bits: kind, from where, start, length, the holder's process."""


@contextmanager
def alone(log: Path) -> Iterator[None]:
    """Nobody else has the index of this log open, or opens it, as long as the block lasts.

    The index is not to be opened by this process within, but with ``lock=False``, or last of all.

    Raises:
        LogInUse: Somebody has it open.
    """
    place = log / directory.INDEX / LOCKS
    fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError as error:
            raise LogInUse(
                f"{log} is in use by {_holder(fd)}: stop whoever has it open, and try again"
            ) from error
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    """Who has the lock, in words."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with contextlib.suppress(OSError, struct.error):
        kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        if kind != fcntl.F_UNLCK and process > 0:
            return f"process {process}{_name(process)}"
    return "another process"


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
        command = " ".join(word for word in words if word)[:80]
        return f" ({command})" if command else ""
    return ""
