"""Opening an LMDB environment: the same for what is always synced and for what never is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lmdb

from mamba_stream.log import directory

_MAX_READERS: Final = 1024
_LOCKS_BYTES: Final = 64 * _MAX_READERS + 128
"""The table of locks and readers: a cache line for each reader, and what comes before them."""
_LEAST_MAP: Final = 10 << 20
_STILLBORN_PAGES: Final = 3
_MAGIC: Final = (0xBEEFC0DE).to_bytes(4, sys.byteorder)
_MAGIC_END: Final = 20
"""Where LMDB's mark ends in each of the first two pages."""


def environment(path: Path, map_size: int, *, writable: bool, synced: bool = True) -> lmdb.Environment:
    """The environment in a directory, made if there is none.

    Args:
        path: The directory.
        map_size: The size of its address space.
        writable: Whether it can be written to.
        synced: Whether a commit waits for the disk.

    Raises:
        lmdb.Error: It cannot be opened.
        OSError: There is no room for its table of readers.
    """

    def opened() -> lmdb.Environment:
        return lmdb.open(
            str(path),
            map_size=map_size,
            subdir=True,
            readonly=not writable,
            sync=synced,
            metasync=synced,
            writemap=False,
            max_readers=_MAX_READERS,
            max_spare_txns=16,
        )

    _reserve_locks(path)
    try:
        return opened()
    except lmdb.InvalidError:
        if not writable or not _clear_stillborn(path):
            raise
        return opened()


@contextlib.contextmanager
def by_itself(
    path: Path, map_size: int = _LEAST_MAP, *, writable: bool = False
) -> Iterator[lmdb.Environment]:
    """The environment in a directory that nobody else knows of, such as a copy, for as long as the block.

    Args:
        path: The directory.
        map_size: The size of its address space; what is there already is mapped whole.
        writable: Whether it can be written to.

    Raises:
        OSError: What LMDB could not do, as of any other file.
    """
    try:
        env = lmdb.open(
            str(path), map_size=map_size, readonly=not writable, lock=writable, max_readers=_MAX_READERS
        )
        with contextlib.closing(env):
            yield env
    except lmdb.Error as error:
        text = str(error)
        code = next((code for code in errno.errorcode if text.endswith(os.strerror(code))), errno.EIO)
        raise OSError(code, text) from error


def _reserve_locks(path: Path) -> None:
    """Takes the room of the table of locks and readers before it is mapped.

    LMDB makes it as a hole and writes to it through a map: on a full disk that is not an error but SIGBUS.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    # Nothing of it is open in this process: closing it would let go of LMDB's locks.
    fd = os.open(path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        status = os.fstat(fd)
        # What another process has mapped keeps its size.
        wanted = status.st_size or _LOCKS_BYTES
        if status.st_blocks * 512 < wanted:
            os.posix_fallocate(fd, 0, wanted)
    except OSError as error:
        if error.errno in directory.NO_ROOM:
            raise
    finally:
        os.close(fd)


def _clear_stillborn(path: Path) -> bool:
    """Empties an index whose creation was cut short, by a loss of power or of room; whether to try again.

    LMDB writes the first two pages of a new file without syncing them. A file that holds no more than those
    and the first commit, which only says that this is a log, has never known of a topic.
    """
    fd = os.open(path / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_size > _STILLBORN_PAGES * mmap.PAGESIZE:
            return False
        first = [os.pread(fd, _MAGIC_END, page * mmap.PAGESIZE)[-len(_MAGIC) :] for page in range(2)]
        if first != [_MAGIC, _MAGIC]:
            os.ftruncate(fd, 0)
        # Otherwise another process has just made it anew.
        return True
    finally:
        os.close(fd)
