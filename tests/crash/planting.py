"""Changes made inside a writing process only: a log that turns over its files quickly, and planted bugs.

The power loss tests must fail on each of the bugs; one they miss would show that they see nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb

from mamba_stream.log import committer, directory, files, recovery, sealing


def tune() -> None:
    """Small files, and no delay before dead ones go: a short run passes every place where a file changes."""
    files.FULL = 96 << 10
    files.INTERNAL_FULL = 24 << 10
    sealing.SEGMENT_BYTES = 32 << 10
    recovery.TRASH_DELAY = 0


def plant(bug: str) -> None:
    """Plants one of ``BUGS``; none for ``""``."""
    if bug:
        _BUGS[bug]()


def die_in(number: int) -> None:
    """Kills this process in its commit of this number, when the data is written and the index knows nothing."""
    real, seen = committer.Committer._apply, 0

    def apply(self: Any, *arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *arguments)

    committer.Committer._apply = apply  # type: ignore[method-assign]


def _index_first() -> None:
    """The index is told before the data is synced."""
    unsynced: list[int] = []
    real_sync, real_apply = os.fdatasync, committer.Committer._apply

    def later(fd: int) -> None:
        unsynced.append(fd)

    def apply(self: Any, *arguments: Any) -> None:
        real_apply(self, *arguments)
        while unsynced:
            real_sync(unsynced.pop())

    os.fdatasync = later  # type: ignore[assignment]
    committer.Committer._apply = apply  # type: ignore[method-assign]


def _no_data_sync() -> None:
    os.fdatasync = lambda fd: None  # type: ignore[assignment]


def _no_directory_sync() -> None:
    def nothing(path: Path) -> None:
        assert path.is_dir()

    directory.sync = nothing


def _index_option(option: str) -> Callable[[], None]:
    def plant() -> None:
        real = lmdb.open

        def opened(path: str, **options: Any) -> lmdb.Environment:
            assert options[option] is True
            return real(path, **{**options, option: False})

        lmdb.open = opened

    return plant


_BUGS = {
    "index-first": _index_first,
    "no-data-sync": _no_data_sync,
    "no-directory-sync": _no_directory_sync,
    "no-index-sync": _index_option("sync"),
    "no-meta-sync": _index_option("metasync"),
}
BUGS = tuple(_BUGS)
