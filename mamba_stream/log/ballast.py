"""The ballast: a file that takes room on the log's disk so that there is some to delete with.

Deleting writes too: the index copies the pages that it changes. Where even that finds no room, the ballast goes, and
what was to be deleted is deleted then. It is no part of the log, and is made anew once there is room again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from mamba_stream.errors import DiskFull
from mamba_stream.log import directory

T = TypeVar("T")

MOST: Final = 64 << 20
"""What is of use at most: upkeep deletes in commits of a bounded size."""
_LEAST: Final = 1 << 20
_SHARE: Final = 16
"""One part in so many of the disk is taken at most."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


def of_use(log: Path, index: int, disk: int) -> int:
    """How large it should be, in bytes, for an index and a disk of these sizes.

    Twice the index, which is all that could be copied, and a power of two, so that it is seldom made larger. Nothing
    where the disk is memory, which is not to be wasted.
    """
    if _in_memory(log):
        return 0
    return min(MOST, disk // _SHARE, max(_LEAST, 1 << (2 * index - 1).bit_length()))


@lru_cache(64)
def _in_memory(log: Path) -> bool:
    return directory.file_system(log) in _IN_MEMORY


def size(log: Path) -> int:
    """The bytes that it takes; 0 where there is none."""
    try:
        return os.stat(log / directory.BALLAST).st_size
    except OSError:
        return 0


def make(log: Path, wanted: int) -> None:
    """Makes it, or makes it larger, unless the disk does not take it; any process may, at any time."""
    if not hasattr(os, "posix_fallocate"):
        return
    path = log / directory.BALLAST
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        return
    try:
        os.posix_fallocate(fd, 0, wanted)
    except OSError:
        # Half of one would take the room that was left.
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def give_up(log: Path) -> bool:
    """Removes it; whether there was one."""
    try:
        os.unlink(log / directory.BALLAST)
    except OSError:
        return False
    return True


def relieved(log: Path, act: Callable[[], T]) -> T:
    """Does what deletes; where there is no room for it, the ballast goes, and it is done then.

    Raises:
        DiskFull: There is no room even so.
    """
    try:
        return act()
    except DiskFull:
        if not give_up(log):
            raise
        return act()
