"""The power fails at any moment of a run; what may be left on the disk holds every acknowledged row.

A shim records what the writers ask of the disk, :mod:`tests.crash.disk` builds what may be found on it after any
of these calls, and :mod:`tests.crash.powerloss` opens that and checks. That the harness sees anything is shown
by bugs planted into the writers: it must find each.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.checker import History
from tests.crash.journal import Tail
from tests.crash.planting import ALTERATIONS, BUGS, FLUSHES
from tests.crash.processes import child_environment
from tests.crash.recording import Recording, examined

pytestmark = pytest.mark.compiler


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


@pytest.mark.parametrize(
    "count", [pytest.param(50, id="50"), pytest.param(1500, id="1500", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_nothing_that_was_acknowledged(
    count: int, record: Callable[..., Recording]
) -> None:
    """The first writer dies between its data and the index, so that the second finds a file to go on with."""
    recording = record(["--die-in-commit", "40"], ["--operations", "40"])
    wrong = examined(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="40"), pytest.param(1200, id="1200", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_nothing_from_two_writers_either(
    count: int, record: Callable[..., Recording]
) -> None:
    recording = record(
        ["--writer", "0", "--operations", "60"], ["--writer", "1", "--operations", "40"], together=True
    )
    wrong = examined(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="40"), pytest.param(600, id="600", marks=pytest.mark.slow)]
)
def test_a_log_whose_creation_was_cut_short_by_a_power_loss_opens(
    count: int, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "5"])
    wrong = examined(recording, recording.states(count, until=60))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("durability", ["interval", "os", "mixed"])
@pytest.mark.parametrize(
    "count", [pytest.param(40, id="40"), pytest.param(1000, id="1000", marks=pytest.mark.slow)]
)
def test_a_power_loss_takes_back_whole_commits_and_none_that_was_on_the_disk(
    count: int, durability: str, record: Callable[..., Recording]
) -> None:
    """What waited for the disk is gone from some commit on, whoever made it; what was flushed is there."""
    recording = record(
        *(["--writer", str(writer), "--operations", "50", "--durability", durability] for writer in range(2)),
        together=True,
    )
    wrong = examined(recording, recording.states(count))
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.parametrize("bug", FLUSHES)
def test_the_harness_finds_a_planted_bug_in_what_waits_for_the_disk(
    bug: str, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "50", "--durability", "mixed"], plant=bug)
    assert examined(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"


@pytest.mark.parametrize("bug", ALTERATIONS)
def test_the_harness_finds_a_planted_bug_in_topics_that_were_altered(
    bug: str, record: Callable[..., Recording]
) -> None:
    recording = record(["--operations", "150"], plant=bug)
    assert examined(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"


@pytest.mark.parametrize("bug", BUGS)
def test_the_harness_finds_a_planted_bug(bug: str, record: Callable[..., Recording]) -> None:
    recording = record(["--operations", "50"], plant=bug)
    assert examined(recording, recording.states(200), stop=True), f"200 states, and nobody noticed: {bug}"
