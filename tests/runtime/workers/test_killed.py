"""Jobs over real processes, in which anybody is killed at any moment: the rows are those of who knows no workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from tests import forking
from tests.runtime.workers.scenarios import SCENARIOS, Feed
from tests.server.running import alive, children, until

PATIENCE = 120.0
SEEDS = int(os.environ.get("WORKERS_SEEDS", "2"))
"""Of the slow tests, for each pipeline and number of workers."""
COUNTS = (1, 2, 5)
TROUBLE = ("worker", "worker", "rescale", "coordinator", "worker stands still")
MORE_TROUBLE = (*TROUBLE, "worker", "coordinator stands still", "rescale", "coordinator")
ALWAYS = ("q5", "q9", "clickstream")
"""Partial results and whole windows; a join and a table; sessions, a join with a table, and late rows."""
STILL = 7.0
"""Seconds that somebody stands still at most: that is longer than a lease."""


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Another one each time; it decides what is done to a job, and the system when."""
    given = os.environ.get("WORKERS_SEED")
    value = int(given) if given else random.SystemRandom().randrange(1 << 32)
    request.node.add_report_section("call", "reproduce", f"WORKERS_SEED={value}")
    return value


class Commanded:
    """A scenario's job, run by a process of its own, which is started again with other workers."""

    def __init__(self, name: str, place: Path, environment: dict[str, str]) -> None:
        self._name = name
        self._place = place
        self._environment = environment
        self._processes: list[forking.Process] = []
        self.apart = False
        """Whether its workers are processes: a job that is started with one runs that itself, and those that follow."""
        self.tasks = False
        """Whether it ran over workers once: then it can be rescaled."""

    def start(self, workers: int) -> None:
        command = [sys.executable, "-m", "tests.runtime.workers.coordinator"]
        # What it says goes through a file: nobody is at hand to empty a pipe.
        with (self._place / f"said-{len(self._processes)}").open("w") as said:
            process = forking.Process(
                [*command, str(self._place / "log"), self._name, str(workers)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment,
            )
        self._processes.append(process)
        self.apart = workers > 1
        self.tasks = self.tasks or self.apart

    @property
    def process(self) -> forking.Process:
        return self._processes[-1]

    @property
    def said(self) -> str:
        return (self._place / f"said-{len(self._processes) - 1}").read_text()

    @property
    def runs(self) -> bool:
        """Whether it has begun; it does not end by itself."""
        assert self.process.poll() is None, self.said
        return "running" in self.said

    def there(self) -> list[int]:
        """The processes of its workers."""
        return [pid for pid in children(self.process.pid) if alive(pid)]

    def a_worker(self, chance: np.random.Generator) -> int:
        """The process of one of its workers."""
        return int(chance.choice(until(lambda: self.runs and self.there(), "a worker")))

    def stop(self, pid: int, chance: np.random.Generator) -> None:
        """Lets a process stand still for a while: a worker may be taken for dead, and is then killed."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(float(chance.uniform(0.0, STILL)))
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kills the coordinator; its workers end by themselves."""
        until(lambda: self.runs, "the job")
        there = self.there()
        self.process.kill()
        self.process.wait()
        until(lambda: not any(map(alive, there)), "the end of its workers")

    def rescale(self, workers: int) -> None:
        until(lambda: self.runs, "the job")
        self.process.stdin.write(f"{workers}\n")
        self.process.stdin.flush()

    def finish(self) -> None:
        assert self.process.wait(PATIENCE) == 0, self.said
        assert self.said == "running\ndone\n"

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            process.stdin.close()


@contextmanager
def commanded(name: str, place: Path, environment: dict[str, str]) -> Iterator[Commanded]:
    job = Commanded(name, place, environment)
    try:
        yield job
    finally:
        job.close()


def disturb(
    name: str,
    workers: int,
    seed: int,
    place: Path,
    environment: dict[str, str],
    kinds: tuple[str, ...] = TROUBLE,
) -> None:
    """Runs a job, to which something is done between any two portions of its rows; looks at what came of it."""
    chance = np.random.default_rng(seed)
    trouble = chance.permutation(kinds).tolist()
    with mamba.open(place / "log") as log, commanded(name, place, environment) as job:
        feed = Feed(SCENARIOS[name], log, chance, portions=len(trouble) + 2)
        feed.bring()
        job.start(workers)
        for what in trouble:
            # At some moment: while it starts, while it works, or when there is nothing left to do.
            goal = log.lsn() + int(chance.integers(0, 30))
            end = time.monotonic() + float(chance.uniform(0.0, 1.5))
            while log.lsn() < goal and time.monotonic() < end:
                log.wait(log.lsn(), 0.02)
            feed.bring()
            if what == "rescale" and job.tasks:
                job.rescale(int(chance.choice(COUNTS)))
            elif what == "worker" and job.apart:
                with suppress(ProcessLookupError):
                    os.kill(job.a_worker(chance), signal.SIGKILL)
            elif what == "worker stands still" and job.apart:
                job.stop(job.a_worker(chance), chance)
            elif what == "coordinator stands still":
                until(lambda: job.runs, "the job")
                job.stop(job.process.pid, chance)
            else:
                job.kill()
                job.start(int(chance.choice(COUNTS)))
        feed.bring()
        assert feed.portions == 0
        job.finish()
        SCENARIOS[name].check(log)
    assert examine(place / "log").sound


@pytest.mark.parametrize("workers", COUNTS)
def test_whoever_is_killed_the_rows_are_the_same(tmp_path, environment, seed, workers):
    # All that there is comes to its turn: each of these with any number of workers, and now and then another one.
    draw = random.Random(seed)
    name = draw.choice([ALWAYS[(seed + workers) % 3], draw.choice(sorted(SCENARIOS))])
    print(f"{name} over {workers} workers")
    disturb(name, workers, seed, tmp_path, environment)


@pytest.mark.slow
@pytest.mark.parametrize("workers", COUNTS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_is_run_the_rows_are_the_same(tmp_path, environment, seed, name, workers):
    for number in range(SEEDS):
        place = tmp_path / str(number)
        place.mkdir()
        print(f"seed {seed + number}")
        disturb(name, workers, seed + number, place, environment, MORE_TROUBLE)
