"""A writing process is killed or stopped at random moments; every acknowledged row is there once, in order."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mamba_stream.log import open_log
from tests.crash.checker import History, check, check_live, settle
from tests.crash.processes import Crew, Process
from tests.crash.workload import own

COUNTS = [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.slow)]
LEVELS = ["commit", "mixed"]
"""How durable commits are: the death of a process is to undo none of them."""
_SOON = 0.004
_LIVES = 40
"""After so many a new log is begun: checking reads all of it."""
_STOPS = 10
"""The same; fewer, since one writer goes on while the log is checked after each."""


def _strike(rng: random.Random, process: Process) -> None:
    """Waits until the process is at a random point of its work, which may be before it opened the log."""
    lines = rng.choice((0, 1, 2, *range(3, 18)))
    before = len(process.events())
    process.wait_for(lambda: len(process.events()) >= before + lines)
    # Not to wait for anything: the moment is what is random.
    time.sleep(rng.uniform(0, _SOON if lines else 30 * _SOON))


@pytest.mark.parametrize("durability", LEVELS)
@pytest.mark.parametrize("kills", COUNTS)
def test_a_log_keeps_what_it_acknowledged_when_its_writer_is_killed(
    kills: int, durability: str, seed: int, tmp_path: Path, crew: Callable[..., Crew]
) -> None:
    rng = random.Random(seed)
    for turn in range(0, kills, _LIVES):
        writers = crew(tmp_path / f"log-{turn}", "--durability", durability)
        history = History(seed + turn)
        lives = min(kills - turn, _LIVES)
        for life in range(lives):
            process = writers.begin(history.seed, 0, *history.resumption(0))
            _strike(rng, process)
            process.kill()
            history.take(process.events())
            settle(check(writers.log, history, thorough=life % 10 == 9), history)
        process = writers.begin(history.seed, 0, *history.resumption(0), "--operations", "30")
        process.finish()
        history.take(process.events())
        check(writers.log, history, thorough=True)
        writers.disband()


_ALTERING = ("append", "transaction", "seal", "alter")


@pytest.mark.parametrize(
    "kills", [pytest.param(8, id="8"), pytest.param(200, id="200", marks=pytest.mark.slow)]
)
def test_a_writer_that_is_killed_while_it_alters_a_topic_leaves_it_whole(
    kills: int, seed: int, tmp_path: Path, crew: Callable[..., Crew]
) -> None:
    """As it was or as it was to be, with rows of all its schemas, in segments that any Arrow tool opens."""
    rng = random.Random(seed)
    for turn in range(0, kills, _LIVES):
        writers = crew(tmp_path / f"log-{turn}", "--kinds", ",".join(_ALTERING))
        history = History(seed + turn, kinds=_ALTERING)
        for life in range(min(kills - turn, _LIVES)):
            process = writers.begin(history.seed, 0, *history.resumption(0))
            process.wait_for_acks(6)
            _strike(rng, process)
            process.kill()
            history.take(process.events())
            settle(check(writers.log, history, thorough=life % 4 == 3), history)
        with open_log(writers.log) as log:
            assert len(log[own(0)].schemas()) > 1
        writers.disband()


@pytest.mark.parametrize("durability", LEVELS)
@pytest.mark.parametrize("kills", COUNTS)
def test_a_writer_goes_on_when_the_one_beside_it_is_killed(
    kills: int, durability: str, seed: int, tmp_path: Path, crew: Callable[..., Crew]
) -> None:
    """Both append to the same partitions; the survivor is not blocked, and nothing of it is touched."""
    rng = random.Random(seed)
    for turn in range(0, kills, _LIVES):
        writers = crew(tmp_path / f"log-{turn}", "--durability", durability)
        lives: list[Process] = []

        def load(number: int = seed + turn, lives: list[Process] = lives) -> History:
            known = History(number)
            for process in lives:
                known.take(process.events())
            return known

        pair = [writers.begin(seed + turn, writer) for writer in range(2)]
        lives += pair
        for life in range(min(kills - turn, _LIVES)):
            victim = rng.randrange(2)
            _strike(rng, pair[victim])
            pair[victim].kill()
            pair[1 - victim].wait_for_acks(2)
            if life % 5 == 4:
                with open_log(writers.log) as log:
                    check_live(log, load)
            pair[victim] = writers.begin(seed + turn, victim, *load().resumption(victim))
            lives.append(pair[victim])
        for process in pair:
            process.kill()
        check(writers.log, load(), thorough=True)
        writers.disband()


@pytest.mark.parametrize("stops", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_writer_that_stands_still_blocks_no_reader_and_goes_on_where_it_was(
    stops: int, seed: int, tmp_path: Path, crew: Callable[..., Crew]
) -> None:
    """It may stand still in the middle of a commit: other writers wait until it goes on, or is killed."""
    rng = random.Random(seed)
    for turn in range(0, stops, _STOPS):
        writers = crew(tmp_path / f"log-{turn}")
        crowd = [writers.begin(seed + turn, number) for number in range(2)]

        def load(number: int = seed + turn, crowd: list[Process] = crowd) -> History:
            known = History(number)
            for each in crowd:
                known.take(each.events())
            return known

        for each in crowd:
            each.wait_for_acks(1)
        with open_log(writers.log) as log:
            for _ in range(min(stops - turn, _STOPS)):
                stopped = rng.choice(crowd)
                _strike(rng, stopped)
                stopped.signal(signal.SIGSTOP)
                check_live(log, load)
                stopped.signal(signal.SIGCONT)
                for each in crowd:
                    each.wait_for_acks(1)
        stopped, other = rng.sample(crowd, 2)
        stopped.signal(signal.SIGSTOP)
        stopped.kill()
        other.wait_for_acks(3)
        other.kill()
        check(writers.log, load(), thorough=True)
        writers.disband()
