"""The power fails at any moment of a run; what may be left on the disk holds every acknowledged row.

A shim records what the writers ask of the disk, :mod:`tests.crash.disk` builds what may be found on it after any
of these calls, and :mod:`tests.crash.powerloss` opens that and checks. That the harness sees anything is shown
by bugs planted into the writers: it must find each.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash import disk
from tests.crash.checker import History
from tests.crash.journal import Tail
from tests.crash.planting import ALTERATIONS, BUGS, FLUSHES
from tests.crash.processes import child_environment

pytestmark = pytest.mark.compiler
_SOURCE = Path(__file__).parent / "native" / "recorder.c"
_WORKERS = 2


@dataclass(frozen=True)
class Recording:
    """A trace of everything that writers asked of the disk."""

    trace: Path
    root: Path
    seed: int
    place: Path
    environment: dict[str, str]

    def length(self) -> int:
        return sum(1 for _ in disk.calls(self.trace.read_bytes()))

    def states(self, count: int, until: int | None = None) -> list[tuple[int, int]]:
        """So many moments (numbers of calls), each with a seed for what is left then."""
        rng = random.Random(self.seed)
        most = self.length() if until is None else until
        return sorted((rng.randint(0, most), rng.randrange(1 << 32)) for _ in range(count))


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: install gcc to record what is asked of the disk")
    if sys.platform != "linux":
        pytest.skip("the recorder knows Linux only")
    built = tmp_path_factory.mktemp("native") / "recorder.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-pthread", "-o", built, _SOURCE, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture
def record(
    recorder: Path, place: Path, tmp_path: Path, environment: dict[str, str], seed: int
) -> Callable[..., Recording]:
    """Runs writers one after the other (or together, with their arguments) under the recorder."""

    def run(*lives: list[str], plant: str = "", together: bool = False) -> Recording:
        root = place / "recorded"
        root.mkdir()
        trace = tmp_path / "trace"
        recorded = child_environment(
            environment,
            LD_PRELOAD=str(recorder),
            RECORDER_ROOT=str(root),
            RECORDER_TRACE=str(trace),
            CRASH_PLANT=plant,
        )
        history, running = History(seed), []
        for number, arguments in enumerate(lives):
            journal = tmp_path / f"journal-{number}"
            resumed = [] if together else history.resumption(0)
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.crash.writer", str(root / "log"), str(journal)),
                    *("--seed", str(seed), *resumed, *arguments),
                ],
                env=recorded,
            )
            running.append(process)
            tail = Tail(journal)
            if together:
                # The first one makes the log.
                while process.poll() is None and not tail.events():
                    time.sleep(0.002)
                continue
            process.wait(timeout=120)
            history.take(tail.events())
        codes = [process.wait(timeout=120) for process in running]
        assert set(codes) <= {0, -signal.SIGKILL}, codes
        assert codes[-1] == 0
        return Recording(trace, root, seed, place, child_environment(environment))

    return run


def _examine(recording: Recording, states: list[tuple[int, int]], *, stop: bool = False) -> list[str]:
    """What is wrong with which states; with ``stop`` only the first that is."""
    workers = []
    for number in range(1 if stop else _WORKERS):
        command = _command(recording, recording.place / f"state-{number}")
        worker = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=recording.environment
        )
        assert worker.stdin is not None
        worker.stdin.write(
            "".join(f"{json.dumps(s)}\n" for s in (states if stop else states[number::_WORKERS]))
        )
        worker.stdin.close()
        workers.append(worker)
    found: list[str] = []
    for worker in workers:
        found += _answers(worker, recording, stop=stop)
    return found


def _answers(worker: subprocess.Popen[str], recording: Recording, *, stop: bool) -> list[str]:
    found: list[str] = []
    state = None
    unrecorded: list[str] = []
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            answer = json.loads(line)
            state = answer.get("begin", state)
            unrecorded = answer.get("unrecorded", unrecorded)
            if answer.get("wrong"):
                found.append(_again(state, recording) + "\n    ".join(["", *answer["wrong"][:4]]))
                if stop:
                    worker.kill()
                    worker.wait()
                    return found
    if worker.wait():
        found.append(f"{_again(state, recording)}\n    the process ended with {worker.returncode}")
    # LMDB's table of locks is shared memory, and made anew after a loss of power.
    assert [path for path in unrecorded if not path.endswith("/lock.mdb")] == []
    return found


def _command(recording: Recording, where: Path) -> list[str]:
    arguments = [recording.trace, recording.root, recording.seed, where]
    return [sys.executable, "-m", "tests.crash.powerloss", *map(str, arguments)]


def _again(state: list[int] | None, recording: Recording) -> str:
    """A command that builds the state once more, and leaves it to be looked at."""
    return f"echo '{json.dumps(state)}' | {' '.join(_command(recording, Path('/tmp/state')))}"


@pytest.mark.parametrize(
    "count", [pytest.param(140, id="140"), pytest.param(1500, id="1500", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_nothing_that_was_acknowledged(
    count: int, record: Callable[..., Recording]
) -> None:
    """The first writer dies between its data and the index, so that the second finds a file to go on with."""
    recording = record(["--die-in-commit", "40"], ["--operations", "40"])
    wrong = _examine(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(1200, id="1200", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_nothing_from_two_writers_either(
    count: int, record: Callable[..., Recording]
) -> None:
    recording = record(
        ["--writer", "0", "--operations", "60"], ["--writer", "1", "--operations", "40"], together=True
    )
    wrong = _examine(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(
    "count", [pytest.param(60, id="60"), pytest.param(600, id="600", marks=pytest.mark.slow)]
)
def test_a_log_whose_creation_was_cut_short_by_a_power_loss_opens(
    count: int, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "5"])
    wrong = _examine(recording, recording.states(count, until=60))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("durability", ["interval", "os", "mixed"])
@pytest.mark.parametrize(
    "count", [pytest.param(60, id="60"), pytest.param(1000, id="1000", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_back_whole_commits_and_none_that_was_on_the_disk(
    count: int, durability: str, record: Callable[..., Recording]
) -> None:
    """What waited for the disk is gone from some commit on, whoever made it; what was flushed is there."""
    recording = record(
        *(["--writer", str(writer), "--operations", "50", "--durability", durability] for writer in range(2)),
        together=True,
    )
    wrong = _examine(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("bug", FLUSHES)
def test_the_harness_finds_a_planted_bug_in_what_waits_for_the_disk(
    bug: str, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "50", "--durability", "mixed"], plant=bug)
    assert _examine(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"


@pytest.mark.parametrize("bug", ALTERATIONS)
def test_the_harness_finds_a_planted_bug_in_topics_that_were_altered(
    bug: str, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "150"], plant=bug)
    assert _examine(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"


@pytest.mark.parametrize("bug", BUGS)
def test_the_harness_finds_a_planted_bug(bug: str, record: Callable[..., Recording]) -> None:
    recording = record(["--operations", "50"], plant=bug)
    assert _examine(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"
