"""Files of a small log are damaged byte by byte; readers and the doctor say so, or nothing is lost.

:mod:`tests.crash.damage` does it, in processes that may die: that would be a finding, with the case at work. That the
harness sees anything is shown by checks that are left out in those processes: each must be missed.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from mamba_stream.log.doctor import examine
from tests import forking
from tests.crash import damage
from tests.crash.damage import INDEX, Case
from tests.crash.planting import BLINDNESS
from tests.crash.processes import child_environment

_WORKERS = 2
_MANY = 1_000
"""So many cases are worth the start of a second process."""
_DEATHS = 3
"""So many deaths of children are looked at, where none is meant to be."""
_META_BYTES = 152
"""What LMDB 0.9 uses of a page that says where the newest state is."""
_NUMBER = _META_BYTES - 8
"""Where in it the number of the transaction is."""
_PAGE = 4096

Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def log(place: Path) -> Path:
    damage.build(place / "log")
    return place / "log"


@pytest.fixture
def ask(log: Path, place: Path, environment: dict[str, str]) -> Ask:
    """Has cases answered by children, each with a log of its own; ``died`` is the outcome where one did not answer."""

    def answers(
        mode: str, cases: list[Case], *, plant: str = "", deaths: int = _DEATHS
    ) -> list[dict[str, Any]]:
        count = _WORKERS if len(cases) >= _MANY else 1

        def work(worker: int) -> list[dict[str, Any]]:
            own = place / f"{mode}-{plant}-{worker}"
            mine = cases[worker::count]
            return list(
                _answers(log, own, mode, mine, child_environment(environment, CRASH_PLANT=plant), deaths)
            )

        with ThreadPoolExecutor(count) as workers:
            shares = list(workers.map(work, range(count)))
        return [answer for turn in zip_longest(*shares) for answer in turn if answer is not None]

    return answers


def _answers(
    log: Path, own: Path, mode: str, cases: list[Case], environment: dict[str, str], deaths: int
) -> Iterator[dict[str, Any]]:
    scratch = own.with_suffix(".scratch")
    command = [sys.executable, "-m", "tests.crash.damage", mode, str(own), str(scratch)]
    while cases:
        shutil.rmtree(own, ignore_errors=True)
        shutil.copytree(log, own, ignore=shutil.ignore_patterns("wake"))
        done = forking.run(
            command,
            input="".join(f"{json.dumps(case)}\n" for case in cases),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        lines = done.stdout.splitlines()
        for case, line in zip(cases, lines, strict=False):
            yield {**json.loads(line), "case": case}
        if done.returncode == 0:
            assert len(lines) == len(cases)
            return
        [at] = struct.unpack("<q", scratch.read_bytes())
        assert at == len(lines), done.stderr
        why = f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
        yield {"case": cases[at], "outcome": "died", "why": why}
        cases = cases[at + 1 :]
        deaths -= 1
        if not deaths:
            return


def _sizes(log: Path) -> dict[str, int]:
    return {name: (log / name).stat().st_size for name in damage.files_of(log) if name != INDEX}


def _every_byte(log: Path, rng: random.Random) -> list[Case]:
    """One flip of every byte of the files, and a cut at every byte."""
    flips: list[Case] = [
        [(n, at, rng.randrange(1, 256))] for n, size in _sizes(log).items() for at in range(size)
    ]
    cuts: list[Case] = [[(name, at, None)] for name, size in _sizes(log).items() for at in range(size)]
    return flips + cuts


def _some_bytes(log: Path, rng: random.Random, count: int) -> list[Case]:
    """A sample of those, and of every file its ends and cuts where something may end: at multiples of 64."""
    found = rng.sample(_every_byte(log, rng), count)
    for name, size in _sizes(log).items():
        found += [[(name, at, rng.randrange(1, 256))] for at in (0, size - 1)]
        found += [[(name, at, None)] for at in {0, size - 1, *rng.sample(range(0, size, 64), 2)}]
    return found


def _index_cases(log: Path, rng: random.Random, count: int) -> list[Case]:
    """Mostly one byte changed, anywhere or where pages keep their pointers; many bytes; a sector of rubbish; a cut."""
    size = (log / INDEX).stat().st_size

    def flip(at: int) -> tuple[str, int, int]:
        return INDEX, at, rng.randrange(1, 256)

    found: list[Case] = []
    for number in range(count):
        if number % 64 == 63:
            # Whoever reads behind the end of a file that is mapped dies.
            found.append([(INDEX, rng.randrange(size), None)])
        elif number % 16 == 15:
            start = rng.randrange(size // 512) * 512
            found.append([flip(at) for at in range(start, start + 512)])
        elif number % 8 == 6:
            found.append([flip(rng.randrange(size)) for _ in range(20)])
        elif number % 8 == 3:
            found.append([flip(rng.randrange(size // _PAGE) * _PAGE + rng.randrange(160))])
        else:
            found.append([flip(rng.randrange(size))])
    return found


def _bad(answers: list[dict[str, Any]], *good: str) -> str:
    """What is not as it should be, in words: nothing where all is."""
    bad = [f"{a['case'][:1]}: {a['outcome']}: {a['why']}" for a in answers if a["outcome"] not in good]
    return "\n".join(bad[:8])


def _counted(answers: list[dict[str, Any]]) -> Counter[str]:
    """How many had which outcome; in the test's output also for each kind of damage and file."""
    counts = Counter(
        f"{'cut' if a['case'][0][2] is None else 'flip'} {a['case'][0][0].split('.')[-1]} {a['outcome']}"
        for a in answers
    )
    print(dict(sorted(counts.items())))
    return Counter(a["outcome"] for a in answers)


@pytest.fixture
def cases(request: pytest.FixtureRequest, log: Path, seed: int) -> list[Case]:
    rng = random.Random(seed)
    return _every_byte(log, rng) if request.param is None else _some_bytes(log, rng, request.param)


def _sample(count: int) -> pytest.MarkDecorator:
    every = pytest.param(None, id="every-byte", marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
    return pytest.mark.parametrize("cases", [pytest.param(count, id=str(count)), every], indirect=True)


@_sample(250)
def test_damage_to_a_file_is_refused_where_it_hits_a_batch_and_else_changes_nothing(
    cases: list[Case],
    ask: Ask,
) -> None:
    answers = ask("read", cases)
    assert not _bad(answers, "refused", "same")
    counts = _counted(answers)
    assert counts["refused"] > len(cases) // 4
    assert counts["same"] > len(cases) // 4


@_sample(250)
def test_the_doctor_tells_of_damage_to_whatever_is_in_use_and_of_nothing_else(
    cases: list[Case],
    ask: Ask,
) -> None:
    answers = ask("doctor", cases)
    assert not _bad(answers, "told", "silent")
    counts = _counted(answers)
    assert counts["told"] > len(cases) // 4


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(60, id="60"),
        pytest.param(3000, id="3000", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_log_with_a_damaged_file_is_opened_appended_to_and_sealed(
    count: int, log: Path, ask: Ask, seed: int
) -> None:
    rng = random.Random(seed)
    assert not _bad(ask("use", rng.sample(_every_byte(log, rng), count)), "refused", "same")


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(64, id="64"),
        pytest.param(4096, id="4096", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_the_doctor_finds_all_damage_to_the_index_that_readers_and_writers_could_notice(
    count: int,
    log: Path,
    ask: Ask,
    seed: int,
) -> None:
    """A process that reads a damaged index may die, where a page leads beyond the file: not so the doctor."""
    cases = _index_cases(log, random.Random(seed), count)
    read, told = ask("index-read", cases, deaths=count), ask("index-doctor", cases, deaths=count)
    print(_pairs(read, told))
    assert not _bad(read, "same", "error", "other", "died")
    assert not _bad([r for r in _missed(read, told) if not _follows(log, r["case"])])
    for answer in [t for t in told if t["outcome"] == "died"][:1]:
        damage.Picture(log).restore(answer["case"])
        assert not examine(log).sound


@pytest.mark.parametrize(
    ("step", "masks"), [(5, 1), pytest.param(1, 12, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_the_index_as_it_was_one_commit_before_is_all_that_damage_to_its_first_pages_can_hide(
    step: int,
    masks: int,
    log: Path,
    ask: Ask,
    seed: int,
) -> None:
    rng = random.Random(seed)
    cases: list[Case] = [
        [(INDEX, page * _PAGE + at, rng.randrange(1, 256))]
        for page in range(2)
        for at in range(0, _META_BYTES, step)
        for _ in range(masks)
    ]
    cases += _numbers()
    read, told = (ask(mode, cases, deaths=len(cases)) for mode in ("index-read", "index-doctor"))
    print(_pairs(read, told))
    assert not _bad(read, "same", "error", "other", "died")
    missed = _missed(read, told)
    assert not _bad([r for r in missed if not _follows(log, r["case"])])


def _numbers() -> list[Case]:
    """One flip of each low bit of the numbers of the two newest transactions."""
    return [[(INDEX, page * _PAGE + _NUMBER, 1 << bit)] for page in range(2) for bit in range(8)]


def _follows(log: Path, case: Case) -> bool:
    """Whether the numbers of the two newest transactions were changed, and look as if nothing had been."""
    data = (log / INDEX).read_bytes()
    before, after = _transactions(data), _transactions(damage.changed(data, case))
    return before != after and abs(after[0] - after[1]) == 1


def _transactions(index: bytes) -> list[int]:
    return [struct.unpack_from("=Q", index, page * _PAGE + _NUMBER)[0] for page in range(2)]


def _pairs(read: list[dict[str, Any]], told: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(f"{r['outcome']}, {t['outcome']}" for r, t in zip(read, told, strict=True)))


def _missed(read: list[dict[str, Any]], told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where readers or writers met something that the doctor did not."""
    pairs = zip(read, told, strict=True)
    return [r for r, t in pairs if r["outcome"] != "same" and t["outcome"] == "silent"]


_SEEN_BY = {
    "columns-unverified": "read",
    "last-column-unverified": "read",
    "headers-unverified": "read",
    "contents-unverified": "doctor",
}


@pytest.mark.parametrize("bug", _SEEN_BY)
def test_the_harness_finds_a_check_of_files_that_is_left_out(
    bug: str, log: Path, ask: Ask, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        answers = ask(_SEEN_BY[bug], _some_bytes(log, rng, 60), plant=bug, deaths=1)
        if _bad(answers, "refused", "same", "told", "silent"):
            return
    pytest.fail(f"nobody noticed: {bug}")


@pytest.mark.parametrize("bug", [bug for bug in BLINDNESS if bug not in _SEEN_BY])
def test_the_harness_finds_a_check_of_the_index_that_is_left_out(bug: str, log: Path, ask: Ask) -> None:
    cases = _numbers() if bug == "metas-unverified" else [_record(log)]
    read, told = (ask(mode, cases, plant=bug) for mode in ("index-read", "index-doctor"))
    assert [r for r in _missed(read, told) if not _follows(log, r["case"])], f"nobody noticed: {bug}"


def _record(log: Path) -> Case:
    """Damage to a record, in every page that has held it."""
    data = (log / INDEX).read_bytes()
    return [(INDEX, found.start(), 1) for found in re.finditer(b"(?<=key)value", data)]
