"""What jobs over workers may leave behind: processes, descriptors, threads, sockets, places in the table of readers."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mamba_stream.errors import MambaStreamError
from mamba_stream.log.store import Store, acquire
from tests.server.running import PATIENCE, alive, children, until


def here() -> Counter[str]:
    """What this process has: its children, its descriptors by what they are of, and our threads."""
    targets = [_target(name) for name in os.listdir("/proc/self/fd")]
    # Polars and gRPC have threads of their own, which they start once, with what these need.
    found = Counter(f"descriptor of {target}" for target in targets if target and target != "anon_inode")
    found.update(f"process {pid}" for pid in children(os.getpid()))
    found.update(f"thread {one.name}" for one in threading.enumerate() if one.name.startswith("mamba"))
    return found


def there(place: Path) -> set[str]:
    """Processes other than this one that have something open in a directory, or work there."""
    return {
        f"process {pid} has {target}"
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if pid != os.getpid() and alive(pid)
        for target in _opened(pid)
        if Path(target).is_relative_to(place)
    }


def readers(storage: Store) -> str:
    """The table of readers of a directory that is open, without those that died."""
    storage.index.reclaim()
    found: str = storage.index._env.readers()
    return found


def check(before: Counter[str], place: Path) -> None:
    """There is nothing here that was not there before, and nobody in the directory; nor in the logs in it."""
    gc.collect()

    def gone() -> bool:
        return not here() - before and not there(place)

    try:
        until(gone)
    except AssertionError:
        raise AssertionError(
            f"left behind after {PATIENCE} s: {sorted((here() - before).elements())}, {sorted(there(place))}"
        ) from None
    for index in place.glob("**/index/data.mdb"):
        _check_log(index.parent.parent)


def _check_log(path: Path) -> None:
    try:
        storage = acquire(path)
    except MambaStreamError:
        # It was damaged on purpose.
        return
    try:
        known = f" {os.getpid()} "

        def lines() -> list[str]:
            return [line for line in readers(storage).splitlines()[1:] if known not in line]

        # The first thread of a process that was killed is dead before the last one lets go of its locks.
        with suppress(AssertionError):
            until(lambda: not lines())
        assert not lines(), f"readers of {path}: {lines()}"
        # As the next commit does with what those left that were killed.
        storage.sweep()
        names = [name for name in os.listdir(path / "wake") if not name.startswith(f"{os.getpid()}-")]
        assert not names, f"sockets in {path}: {names}"
    finally:
        storage.release()


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").partition(":[")[0]
    except OSError:
        # It was that of the list.
        return ""


def _opened(pid: int) -> list[str]:
    # It may end meanwhile, or be somebody else's.
    found = []
    with suppress(OSError):
        for name in ("cwd", *(f"fd/{each}" for each in os.listdir(f"/proc/{pid}/fd"))):
            with suppress(FileNotFoundError):
                found += [os.readlink(f"/proc/{pid}/{name}")]
    return found
