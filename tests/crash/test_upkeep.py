"""Upkeep is killed at the Nth system call of its kind, or gets an error there, and so are an alteration and a backup: nothing
is lost, nothing comes back, and the next run comes to what it would have come to.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mamba_stream.log import Log
from mamba_stream.log.store import acquire
from tests import forking
from tests.crash.tracing import counted, points, traced
from tests.crash.upkeep_run import ADDED, fill, kept, rows
from tests.crash.upkept import Upkept
from tests.log.handclock import HandClock

pytestmark = pytest.mark.strace

CALLS = (
    *("write", "pwrite64", "pwritev", "fdatasync", "fsync", "ftruncate", "openat", "rename", "unlink"),
    *("copy_file_range", "flock", "mkdir", "link"),
)
_SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
SHARES = [pytest.param(5, id="5"), pytest.param(None, id="all", marks=_SLOW)]


class Upkeep:
    """A log that needs some, and processes that do it."""

    def __init__(self, place: Path, seed: int) -> None:
        self._place = place
        self._trace = place / "strace"
        self._copies = itertools.count()
        self._log = place / "log"
        self._clock = HandClock()
        with Log(acquire(self._log, self._clock)) as log:
            fill(log, self._clock, random.Random(seed))
            before = rows(log)
        self.known = Upkept(self._clock, before, {})

    def run(self, injection: str | None, plant: str = "") -> Path:
        """Does it to a copy, with a failure injected or none; where that is."""
        path = self._place / f"copy-{next(self._copies)}"
        shutil.copytree(self._log, path)
        command = [sys.executable, "-m", "tests.crash.upkeep_run", str(path), str(self._clock.at), plant]
        process = forking.Process(command, stderr=subprocess.PIPE)
        with traced(process.pid, CALLS, self._trace, injection):
            complaint = process.communicate(timeout=60)[1].decode()
        if injection is None or "signal" in injection:
            assert process.returncode in (0, -signal.SIGKILL), complaint
        else:
            # Its own error, or none.
            assert process.returncode == 0 or "mamba_stream.errors." in complaint, complaint
        return path

    def calls(self) -> Counter[str]:
        """How often it makes each of the calls; from then on it is known what it comes to."""
        path = self.run(None)
        with Log(acquire(path, self._clock)) as log:
            self.known.after = rows(log)
        assert len(self.known.after["plain"]) == len(self.known.before["plain"]) + len(ADDED)
        self.forget(path)
        return counted(self._trace)

    def wrong(self, path: Path) -> list[str]:
        """What is not as it must be of a log whose upkeep was interrupted; then it is done."""
        found = self.known.wrong(path)
        self.forget(path)
        return found

    def forget(self, path: Path) -> None:
        for each in (path, kept(path)):
            shutil.rmtree(each, ignore_errors=True)


@pytest.fixture
def upkeep(place: Path, seed: int) -> Upkeep:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no failures can be injected into system calls")
    return Upkeep(place, seed)


def _swept(upkeep: Upkeep, share: int | None, seed: int, what: str) -> list[str]:
    wrong: list[str] = []
    for call, number in points(upkeep.calls(), share, seed):
        path = upkeep.run(f"{call}:{what}:when={number}")
        wrong += [f"{what} at {call} {number}: {each}" for each in upkeep.wrong(path)]
    return wrong


@pytest.mark.parametrize("share", SHARES)
def test_upkeep_that_is_killed_anywhere_loses_nothing(upkeep: Upkeep, share: int | None, seed: int) -> None:
    assert _swept(upkeep, share, seed, "signal=KILL") == []


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("share", [pytest.param(3, id="3"), SHARES[-1]])
def test_upkeep_that_gets_an_error_anywhere_loses_nothing(
    upkeep: Upkeep, share: int | None, error: str, seed: int
) -> None:
    assert _swept(upkeep, share, seed, f"error={error}") == []


PLANTS = [
    ("deletion first", "rename"),
    ("removed at once", "rename"),
    pytest.param("retention removes files first", "fdatasync", marks=pytest.mark.slow),
    pytest.param("manifest first", "rename", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("plant", "call"), PLANTS)
def test_what_is_wrong_with_upkeep_is_found(upkeep: Upkeep, plant: str, call: str) -> None:
    for number in range(1, upkeep.calls()[call] + 1):
        if upkeep.wrong(upkeep.run(f"{call}:signal=KILL:when={number}", plant)):
            return
    pytest.fail(f"nobody noticed: {plant}")
