"""Damaged logs are repaired: sound again, nothing in them that never was, and what is lost is told, exactly.

The damage is that of :mod:`tests.crash.damage`: bytes of files and of the index, and every file deleted in turn.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from mamba_stream.errors import DataCorrupted, DiskFull, LogInUse, LogUnavailable, NotALog
from mamba_stream.log import open_log, repair as repairing
from mamba_stream.log.doctor import Report, examine
from mamba_stream.log.examination import examine as examine_here
from mamba_stream.log.findings import Finding
from mamba_stream.log.mending import Mending
from mamba_stream.log.repair import Repaired, repair
from tests import forking
from tests.crash import damage
from tests.crash.damage import INDEX, Case
from tests.crash.steps import COUNTED
from tests.crash.test_damage import _index_cases, _some_bytes

Rows = dict[tuple[str, int, int], list[Any]]


@pytest.fixture
def pristine(place: Path) -> Path:
    damage.build(place / "pristine")
    return place / "pristine"


@pytest.fixture
def expected(pristine: Path) -> Rows:
    return rows(pristine)


@pytest.fixture
def hurt(pristine: Path, place: Path) -> Callable[[Case], Path]:
    """A copy of the log with this damage."""

    def make(case: Case) -> Path:
        log = place / "log"
        shutil.rmtree(log, ignore_errors=True)
        shutil.copytree(pristine, log, ignore=shutil.ignore_patterns("wake"))
        for name in {name for name, _, _ in case}:
            data = (log / name).read_bytes()
            (log / name).write_bytes(damage.changed(data, [part for part in case if part[0] == name]))
        return log

    return make


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doctor says is found in this process, and before a repair not asked: most of the time goes there."""
    monkeypatch.setattr(repairing, "examine", _examined)
    monkeypatch.setattr(f"{__name__}.examine", _examined)


def _examined(log: Path, *, alone: bool = False) -> Report:
    before = (
        [Finding("damage", "some")] if alone else [Finding("damage", what) for what in damage.findings(log)]
    )
    return Report(log, tuple(before), {}, True)


def rows(log: Path) -> Rows:
    """All that can be read, by topic, partition and offset."""
    with open_log(log) as opened:
        return {
            (name, batch.partition, batch.offset): batch.data.to_pylist()
            for name in opened.topics()
            for batch in opened[name].read(skip_corrupt=True)
        }


def by_offset(found: Rows) -> dict[tuple[str, int, int], str]:
    return {(t, p, o + n): repr(row) for (t, p, o), batch in found.items() for n, row in enumerate(batch)}


def told_aside(log: Path) -> bool:
    """Whether an earlier repair, which was killed behind its last step, says that something is lost."""
    reports = [json.loads(path.read_text()) for path in (log / "quarantine").glob("*/report.json")]
    return any(change["severity"] == "loss" for report in reports for change in report["changes"])


def works(log: Path, expected: Rows, done: Repaired, *, exactly: bool) -> list[str]:
    """What is wrong with a log after its repair."""
    wrong = [f"after: {finding.what}" for finding in done.after.findings if finding.severity != "note"]
    found, once = by_offset(rows(log)), by_offset(expected)
    wrong += [f"other row at {place}" for place, row in found.items() if place in once and once[place] != row]
    missing = once.keys() - found.keys()
    told = {
        (loss.topic, loss.partition, offset)
        for loss in done.lost
        if loss.offset is not None and loss.next_offset is not None
        for offset in range(loss.offset, loss.next_offset)
    }
    if exactly and missing != told & once.keys():
        wrong.append(f"{sorted(missing)} are missing, told are {sorted(told)}")
    if exactly and found.keys() - once.keys():
        wrong.append(f"rows that were not there: {sorted(found.keys() - once.keys())[:4]}")
    if missing and not done.lost and not told_aside(log):
        wrong.append(f"{sorted(missing)} are missing, and nothing is said to be lost")
    with open_log(log) as opened:
        for name in opened.topics():
            if name != "nested":
                opened[name].append(damage._plain(700), partition=0)
        opened.seal()
    return wrong + [f"in use: {f.what}" for f in examine(log).findings if f.severity != "note"]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(14, id="14"),
        pytest.param(400, id="400", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_after_a_repair_damage_to_files_is_lost_exactly_where_it_hit(
    count: int, pristine: Path, hurt: Callable[[Case], Path], expected: Rows, seed: int
) -> None:
    rng = random.Random(seed)
    wrong = []
    for case in rng.sample(_some_bytes(pristine, rng, count), count):
        log = hurt(case)
        done = repair(log)
        wrong += [f"{case}: {problem}" for problem in works(log, expected, done, exactly=True)]
    assert wrong == []


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(14, id="14"),
        pytest.param(400, id="400", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_after_a_repair_a_damaged_index_gives_no_row_that_never_was(
    count: int, pristine: Path, hurt: Callable[[Case], Path], expected: Rows, seed: int
) -> None:
    wrong = []
    for case in _index_cases(pristine, random.Random(seed), count):
        log = hurt(case)
        done = repair(log)
        wrong += [f"{case[:2]}: {problem}" for problem in works(log, expected, done, exactly=False)]
    assert wrong == []


@pytest.mark.usefixtures("at_once")
def test_a_log_without_any_one_of_its_files_opens_and_says_what_is_missing(
    pristine: Path, hurt: Callable[[Case], Path], expected: Rows
) -> None:
    for name in [*damage.files_of(pristine), "index/lock.mdb"]:
        log = hurt([])
        (log / name).unlink()
        if name == INDEX:
            with pytest.raises(DataCorrupted, match="index was deleted or cut off.*doctor .* --repair"):
                open_log(log)
            done = repair(log)
            assert done.after.sound
            assert "the index is empty: it was deleted, or cut off" in [loss.what for loss in done.lost]
            # What was sealed is back, at its offsets.
            once = by_offset(expected)
            back = by_offset(rows(log))
            assert len(back.keys() & once.keys()) > len(once) // 4
            assert all(once[place] == row for place, row in back.items() if place in once)
            continue
        with open_log(log) as opened:
            found, damaged = damage.look(opened)
        gone = {batch for batch in expected if batch not in found}
        assert gone == damaged
        assert found == {place: batch for place, batch in expected.items() if place not in gone}
        told: list[Finding] = []
        examine_here(log, told.append)
        assert {(f.topic, f.partition) for f in told if f.severity == "loss" and f.topic} == {
            b[:2] for b in gone
        }
        assert works(log, expected, repair(log), exactly=True) == [], name


def test_a_missing_index_is_a_finding(hurt: Callable[[Case], Path]) -> None:
    log = hurt([])
    (log / INDEX).unlink()
    [finding] = examine(log).findings
    assert re.search(r"index/data.mdb is missing, and \d+ files of the log are there.*--repair", finding.what)


def test_a_sound_log_is_left_alone(hurt: Callable[[Case], Path]) -> None:
    log = hurt([])
    before = {
        path: path.read_bytes() for path in log.rglob("*") if path.is_file() and path.name != "lock.mdb"
    }
    done = repair(log)
    assert done.before.sound
    assert (done.changes, done.aside) == ((), None)
    assert before == {path: path.read_bytes() for path in before}
    assert not (log / "quarantine").exists()


def test_what_is_no_log_is_not_repaired(place: Path) -> None:
    (place / "nothing").mkdir()
    with pytest.raises(NotALog):
        repair(place / "nothing")
    assert list((place / "nothing").iterdir()) == []


def test_a_log_in_use_is_not_repaired_and_it_says_who_has_it(
    hurt: Callable[[Case], Path], environment: dict[str, str]
) -> None:
    log = hurt([(INDEX, 5000, 1)])
    shutil.rmtree(log)
    log = hurt([])
    code = f"from mamba_stream.log import open_log; log = open_log({str(log)!r}); print('open', flush=True); input()"
    with forking.Process(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(LogInUse, match=f"in use by process {other.pid} "):
            repair(log)
        other.send_signal(signal.SIGKILL)
    assert repair(log).before.sound
    with open_log(log), pytest.raises(LogInUse, match="open in this process"):
        repair(log)


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, LogUnavailable), (errno.ENOSPC, DiskFull)])
def test_a_repair_that_the_disk_fails_says_so_and_is_done_again(
    hurt: Callable[[Case], Path], monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    log = hurt([])
    (log / INDEX).unlink()

    def failing(path: str, **options: object) -> None:
        raise lmdb.Error(f"{path}: {os.strerror(code)}")

    with monkeypatch.context() as patched:
        patched.setattr(lmdb, "open", failing)
        with pytest.raises(kind, match=f"{os.strerror(code)}.*repair it again"):
            repair(log)
    assert repair(log).after.sound


def test_the_old_index_and_the_damaged_files_are_put_aside(hurt: Callable[[Case], Path]) -> None:
    log = hurt([])
    [commit] = [path for path in (log / "files").glob("*.commit") if path.stat().st_size > 3000][-1:]
    data = bytearray(commit.read_bytes())
    data[200] ^= 1
    commit.write_bytes(data)
    index = (log / INDEX).read_bytes()
    done = repair(log)
    assert done.aside is not None
    assert done.lost
    assert (done.aside / INDEX).read_bytes() == index
    assert (done.aside / "files" / commit.name).read_bytes() == bytes(data)
    assert (done.aside / "report.json").exists()
    with open_log(log) as opened:
        [loss] = [loss for loss in done.lost if loss.topic is not None]
        with pytest.raises(DataCorrupted, match="are lost: they were damaged, and a repair gave them up"):
            list(opened[str(loss.topic)].read(partitions=[loss.partition]))
        # A topic with lost rows is described, trimmed and deleted like any other.
        opened[str(loss.topic)].describe()
        opened[str(loss.topic)].trim({loss.partition: loss.next_offset})
        assert list(opened[str(loss.topic)].read())
        opened.delete_topic(str(loss.topic))
    assert examine(log).sound


@pytest.mark.usefixtures("at_once")
def test_commits_that_wait_for_the_disk_are_kept_whole_or_go_back_as_a_whole(
    pristine: Path, place: Path, environment: dict[str, str]
) -> None:
    for spoil in (False, True):
        log = place / f"log-{spoil}"
        shutil.copytree(pristine, log, ignore=shutil.ignore_patterns("wake"))
        code = (
            "import os, signal\nfrom mamba_stream.log import open_log\n"
            f"log = open_log({str(log)!r})\nlog['lz4'].append([{{'n': 1}}], partition=0, durability='os')\n"
            "with log.transaction(durability='os') as tx:\n    tx.put_record('space', 'key', b'newer')\n"
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = forking.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        # Damage that has it repaired, and some to what waits for the disk.
        [segment] = (log / "files").glob("00000004.arrows")
        segment.unlink()
        if spoil:
            [above] = (log / "recent").glob("*/data.mdb")
            data = bytearray(above.read_bytes())
            for match in re.finditer(b"newer", bytes(data)):
                data[match.start()] ^= 1
            above.write_bytes(data)
        result = repair(log)
        assert result.after.sound
        with open_log(log) as opened:
            newer = not spoil
            assert opened.record("space", "key") == (b"newer" if newer else b"value")
            assert opened["lz4"].offsets()[0][1] == (10 if newer else 9)
        told = [loss.what for loss in result.lost if "without waiting for the disk, is damaged" in loss.what]
        assert len(told) == spoil


STEPS = ("link", "rename", "unlink", "fsync", "ftruncate", "pwrite", "mkdir")
"""What changes names and bytes."""
_KILLED = (
    COUNTED
    + """
from mamba_stream.log import repair
from mamba_stream.log.doctor import Finding, Report
counted(*{names})
repair.examine = lambda log, alone=False: Report(log, (Finding("damage", "some"),), {{}}, True)
repair.repair({log!r})
print({step} - left)
"""
)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "share",
    [
        pytest.param(5, id="5"),
        pytest.param(None, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_repair_that_is_killed_anywhere_can_be_done_again(
    share: int | None,
    hurt: Callable[[Case], Path],
    expected: Rows,
    environment: dict[str, str],
    seed: int,
) -> None:
    def attempt(step: int) -> tuple[Path, subprocess.CompletedProcess[str]]:
        log = hurt([])
        (log / "files" / "00000004.arrows").unlink()
        (log / "files" / "00000005.toc").unlink()
        code = _KILLED.format(step=step, names=STEPS, log=str(log))
        done = forking.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        return log, done

    _, whole = attempt(1 << 20)
    steps = int(whole.stdout)
    assert steps > 10
    # The last one lies behind the exchange of the index.
    some = [*random.Random(seed).sample(range(steps - 1), share - 1), steps - 1] if share else range(steps)
    for step in some:
        log, done = attempt(step)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert by_offset(rows(log)).items() <= by_offset(expected).items(), step
        assert works(log, expected, repair(log), exactly=False) == [], step


@pytest.mark.usefixtures("at_once")
def test_the_harness_finds_a_repair_that_takes_bytes_unproven(
    hurt: Callable[[Case], Path], expected: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mending, "_problem", lambda self, placed: None)
    log = hurt([("files/00000004.arrows", 600, 1)])
    assert works(log, expected, repair(log), exactly=True)
