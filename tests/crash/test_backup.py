"""Backups while writers write, seal and trim: each is a consistent prefix of the commits, wherever a backup is killed.

What a restored log must hold follows from the writers' journals: all that was acknowledged up to its commit, and of what
came later, or never was acknowledged, each operation whole or not at all.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mamba_stream.errors import DataCorrupted
from mamba_stream.log import backing, open_log, restore, restoring
from mamba_stream.log.doctor import Report
from tests import forking
from tests.crash.checker import History, Violation, check
from tests.crash.processes import Crew
from tests.crash.steps import COUNTED

WRITERS = 2
_ENOUGH = 12


@pytest.fixture(autouse=True)
def examined_by_the_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every restored log is examined once, by :func:`check`."""
    monkeypatch.setattr(restoring, "examine", lambda log: Report(log, (), {}, True))


def as_of(history: History, lsn: int) -> History:
    """What is known of a log that is at this commit: later operations may be in it, or not."""
    fates = {
        who: replace(fate, state="maybe", ranges=None, lsn=0)
        if fate.state == "acked" and fate.lsn > lsn
        else fate
        for who, fate in history.fates.items()
    }
    return replace(history, fates=fates)


def backed_up_under_load(
    crew: Callable[..., Crew], place: Path, seed: int, count: int
) -> tuple[list[int], History]:
    """So many backups, taken while writers are at work: the commits that they are of, and what the writers tried."""
    writers = crew(place / "log")
    at_work = [writers.begin(seed, number) for number in range(WRITERS)]
    for process in at_work:
        process.wait_for_acks(_ENOUGH)
    lsns = []
    with open_log(place / "log") as log:
        for _ in range(count):
            lsns.append(log.backup(place / "kept").lsn)
            at_work[0].wait_for_acks(1)
    for process in at_work:
        process.kill()
    history = History(seed)
    for process in at_work:
        history.take(process.events())
    return lsns, history


SIZES = [
    pytest.param(20, id="20"),
    pytest.param(100, id="100", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
]


@pytest.mark.parametrize("count", SIZES)
def test_every_backup_under_load_is_a_consistent_prefix(
    count: int, crew: Callable[..., Crew], place: Path, seed: int
) -> None:
    lsns, history = backed_up_under_load(crew, place, seed, count)
    assert lsns == sorted(lsns)
    assert lsns[-1] > lsns[0]
    for number, lsn in enumerate(lsns):
        back = place / f"back-{number}"
        assert restore(place / "kept", back, to=lsn).lsn == lsn
        sight = check(back, as_of(history, lsn))
        assert sight.lsn == lsn


def test_the_harness_finds_a_backup_that_is_not_of_one_moment(
    crew: Callable[..., Crew], place: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backing._Backup._file

    def short(self: Any, number: int, row: Any, known: Any) -> Any:
        held = real(self, number, row, known)
        if row.kind == "commit" and held.end > 4096:
            last = held.pieces[-1]
            path = self._work / "files" / f"{number:08x}.commit"
            cut = self._piece(path, "files/cut-", last.start, max(last.length - 512, 0))
            return backing.Held(number, row.kind, (*held.pieces[:-1], cut))
        return held

    monkeypatch.setattr(backing._Backup, "_file", short)
    lsns, history = backed_up_under_load(crew, place, seed, 1)
    restore(place / "kept", place / "back")
    with pytest.raises((Violation, DataCorrupted), match=r"damaged|cut off|not as it must be"):
        check(place / "back", as_of(history, lsns[0]))


STEPS = ("link", "rename", "fsync", "mkdir", "unlink", "rmdir")
_KILLED = (
    COUNTED
    + """
from mamba_stream.log import open_log
with open_log({log!r}) as log:
    counted(*{names})
    log.backup({target!r}, keep=2)
    print({step} - left, flush=True)
"""
)


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(6, id="6"),
        pytest.param(None, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_backup_that_is_killed_anywhere_leaves_those_before_it_and_can_be_done_again(
    share: int | None, crew: Callable[..., Crew], place: Path, environment: dict[str, str], seed: int
) -> None:
    writers = crew(place / "log")
    history = History(seed)

    def write(operations: int) -> None:
        process = writers.begin(seed, 0, *history.resumption(0), "--operations", str(operations))
        process.finish()
        history.take(process.events())

    def attempt(step: int) -> subprocess.CompletedProcess[str]:
        code = _KILLED.format(step=step, names=STEPS, log=str(place / "log"), target=str(place / "kept"))
        return forking.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )

    write(20)
    whole = attempt(1 << 20)
    assert whole.returncode == 0, whole.stderr
    write(6)
    steps = int(attempt(1 << 20).stdout)
    assert steps > 10
    last = 0
    for turn, step in enumerate(
        range(steps) if share is None else random.Random(seed).sample(range(steps), share)
    ):
        write(3)
        done = attempt(step)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        back = restore(place / "kept", place / f"back-{turn}")
        assert back.lsn >= last
        check(back.path, as_of(history, back.lsn))
        with open_log(place / "log") as log:
            last = log.backup(place / "kept", keep=3).lsn
            assert last == log.lsn()
        again = restore(place / "kept", place / f"again-{turn}")
        assert again.lsn == last
        check(again.path, history)
