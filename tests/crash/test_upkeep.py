"""Upkeep is killed at the Nth system call of its kind, or gets an error there: nothing is lost, nothing comes back, and the
next run comes to what it would have come to."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mamba_stream.log import Log
from mamba_stream.log.store import acquire
from tests.crash.test_system_calls import _points, _status, _wait
from tests.crash.upkeep_run import small
from tests.log.pictures import rows_of, unsound
from tests.log.test_retaining import DAY, HandClock

pytestmark = pytest.mark.strace

CALLS = (
    *("write", "pwrite64", "pwritev", "fdatasync", "fsync", "ftruncate", "openat", "rename", "unlink"),
    *("copy_file_range", "flock"),
)
Rows = dict[str, list[tuple[int, int, tuple[Any, ...]]]]
SHARES = [pytest.param(12, id="12"), pytest.param(None, id="all", marks=pytest.mark.slow)]


class Upkeep:
    """A log that needs some, and processes that do it."""

    def __init__(self, place: Path, seed: int) -> None:
        self._place = place
        self._copies = itertools.count()
        self._log = place / "log"
        self._clock = HandClock()
        self._fill(random.Random(seed))
        self.before = self._rows(self._log)
        self.after: Rows = {}

    def run(self, injection: str | None, plant: str = "") -> Path:
        """Does it to a copy, with a failure injected or none; where that is."""
        path = self._place / f"copy-{next(self._copies)}"
        shutil.copytree(self._log, path)
        command = [sys.executable, "-m", "tests.crash.upkeep_run", str(path), str(self._clock.at), plant]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        _wait(lambda: _status(process.pid, "State").startswith("T"))
        traced = ["strace", "-f", "-q", "-o", str(self._place / "strace"), "-p", str(process.pid)]
        traced += ["-e", f"trace={','.join(CALLS)}", "-e", "signal=none"]
        tracer = subprocess.Popen(
            [*traced, *(["-e", f"inject={injection}"] if injection else [])], stderr=subprocess.DEVNULL
        )
        _wait(lambda: tracer.poll() is not None or _status(process.pid, "TracerPid") != "0")
        process.send_signal(signal.SIGCONT)
        complaint = process.communicate(timeout=60)[1].decode()
        tracer.wait(60)
        if injection is None or "signal" in injection:
            assert process.returncode in (0, -signal.SIGKILL), complaint
        else:
            # Its own error, or none.
            assert process.returncode == 0 or "mamba_stream.errors." in complaint, complaint
        return path

    def calls(self) -> Counter[str]:
        """How often it makes each of the calls; from then on it is known what it comes to."""
        path = self.run(None)
        self.after = self._rows(path)
        shutil.rmtree(path)
        lines = (self._place / "strace").read_text().splitlines()
        return Counter(match[1] for line in lines if (match := re.match(r"\d+\s+(\w+)\(", line)))

    def wrong(self, path: Path) -> list[str]:
        """What is not as it must be of a log whose upkeep was interrupted; then it is done."""
        found = [f"doctor: {finding}" for finding in unsound(path)]
        if found:
            return found
        now = self._rows(path)
        for topic, rows in now.items():
            if not set(rows) <= set(self.before[topic]):
                found.append(f"{topic}: rows that were never there")
            if not set(self.after[topic]) <= set(rows):
                found.append(f"{topic}: rows are lost")
        # Of a key that is gone, or has a later row, no earlier row may be there without the later one.
        keyed = now["keyed"]
        latest = {row[0]: (offset, row) for _, offset, row in self.before["keyed"]}
        seen = {row[0]: (offset, row) for _, offset, row in keyed}
        found += [f"key {key}: {seen[key]} came back" for key in seen if seen[key] != latest[key]]
        small_pieces = self._maintained(path)
        if small_pieces != self.after:
            found.append("the next run comes to something else")
        found += [f"doctor, then: {finding}" for finding in unsound(path)]
        shutil.rmtree(path)
        return found

    def _fill(self, rng: random.Random) -> None:
        with Log(acquire(self._log, self._clock)) as log:
            keyed = log.create_topic("keyed", {"k": str, "n": int}, key="k", compact=True, tombstones="1d")
            old = log.create_topic("old", {"n": int}, retention="1d")
            plain = log.create_topic("plain", {"n": int, "s": str}, seal_compression="zstd")
            for n in range(30):
                rows = [{"k": f"k{rng.randrange(5)}", "n": n} for _ in range(rng.randrange(1, 4))]
                keyed.append([{"k": rows[0]["k"]}] if n in (7, 21) else rows)
                old.append([{"n": n}] * 2)
                plain.append([{"n": n, "s": "x" * n}])
                if n % 10 == 9:
                    log.seal()
            keyed.append([{"k": "gone", "n": 1}])
            for n in range(12):
                keyed.append([{"k": f"one {n}", "n": n}] * 40)
            log.seal()
            keyed.append([{"k": "gone"}])
            self._clock.at += 2 * DAY
            old.append([{"n": 99}])

    def _rows(self, path: Path) -> Rows:
        with Log(acquire(path, self._clock)) as log:
            return {name: rows_of(log[name]) for name in log.topics()}

    def _maintained(self, path: Path) -> Rows:
        with pytest.MonkeyPatch.context() as patched:
            for module, names in small().items():
                for name, value in names.items():
                    patched.setattr(module, name, value)
            with Log(acquire(path, self._clock)) as log:
                while not log.maintain(budget=4_000).done:
                    pass
        return self._rows(path)


@pytest.fixture
def upkeep(place: Path, seed: int) -> Upkeep:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no failures can be injected into system calls")
    return Upkeep(place, seed)


def _swept(upkeep: Upkeep, share: int | None, seed: int, what: str) -> list[str]:
    wrong: list[str] = []
    for call, number in _points(upkeep.calls(), share, seed):
        path = upkeep.run(f"{call}:{what}:when={number}")
        wrong += [f"{what} at {call} {number}: {each}" for each in upkeep.wrong(path)]
    return wrong


@pytest.mark.parametrize("share", SHARES)
def test_upkeep_that_is_killed_anywhere_loses_nothing(upkeep: Upkeep, share: int | None, seed: int) -> None:
    assert _swept(upkeep, share, seed, "signal=KILL") == []


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("share", SHARES)
def test_upkeep_that_gets_an_error_anywhere_loses_nothing(
    upkeep: Upkeep, share: int | None, error: str, seed: int
) -> None:
    assert _swept(upkeep, share, seed, f"error={error}") == []


@pytest.mark.parametrize("plant", ["deletion first", "removed at once"])
def test_what_is_wrong_with_upkeep_is_found(upkeep: Upkeep, seed: int, plant: str) -> None:
    calls = upkeep.calls()
    for number in range(1, calls["rename"] + 1):
        if upkeep.wrong(upkeep.run(f"rename:signal=KILL:when={number}", plant)):
            return
    pytest.fail(f"nobody noticed: {plant}")
