"""A job over simulated workers from its beginning to its end, whatever happens to it; a seed decides what."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np

import mamba_stream as mamba
from mamba_stream.runtime.commits import Together
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.workers import worker as workers
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.simulation import Misfortunes, Simulation
from mamba_stream.testing import Clock
from tests.runtime.workers.scenarios import SCENARIOS, Feed, Scenario

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Nothing here is about a disk, and commits are many."""
_STEP = 0.005
_MOST_STEPS = 200_000


class Troubled:
    """A job whose workers die and stand still, whose coordinator dies, and which is rescaled, while rows come."""

    def __init__(
        self, scenario: Scenario, log: mamba.Log, chance: np.random.Generator, feed: type[Feed] = Feed
    ) -> None:
        self._scenario = scenario
        self._log = log
        self._chance = chance
        self._clock = Clock()
        self._feed = feed(scenario, log, chance, int(chance.integers(2, 8)))
        # How often something happens is another thing that a seed decides: from not at all to all the time.
        often = float(chance.choice([0.0, 0.5, 1.5, 3.0]))
        self._misfortunes = Misfortunes(dies=0.01 * often, stalls=0.03 * often, wakes=0.04)
        self._coordinator_dies = 0.002 * often
        self._rescales = float(chance.choice([0.0, 0.01, 0.05]))
        self._begins_alone = bool(self._chance.random() < 0.3)
        self._forsaken: list[Simulation] = []
        self.told: list[str] = []
        self.lives = 0

    def run(self) -> None:
        """Runs the job to its end."""
        if self._begins_alone:
            self.alone()
        # Here and there a stage is held back, since so little may wait between two.
        held_back = int(self._chance.choice([64 << 20, 20_000, 1]))
        with mock.patch.object(workers, "MOST", held_back):
            while not self._live(int(self._chance.integers(1, 6))):
                self.told.append("the coordinator died")
        for simulation in self._forsaken:
            self.told += simulation.told
            simulation.close()

    def alone(self) -> None:
        """Lets a single task run the whole job for a while, as one worker does that was never more; then it dies."""
        run = Run(self._scenario.build(), self._log, self._options(), self._clock)
        self._feed.bring()
        for _ in range(int(self._chance.integers(1, 20))):
            run.step()
            if self._chance.random() < 0.3:
                run.commit("running")
            if self._feed.portions > 1 and self._chance.random() < 0.3:
                self._feed.bring()
        run.close()

    def check(self) -> None:
        """What came of it is what others compute."""
        self._scenario.check(self._log)

    def _live(self, count: int) -> bool:
        """Runs it until it is over, or the coordinator dies; which of both."""
        self.lives += 1
        options = self._options()
        pipeline = self._scenario.build()
        begun = begin(pipeline, self._log, options, int(self._chance.integers(1, 5)), self._clock)
        stages, run = begun.layout.stages, begun.run

        def make() -> workers.Worker:
            return workers.Worker(
                pipeline, begun.prepared, stages, self._log, options, self._clock, run, Together(self._log)
            )

        simulation = Simulation(make, self._chance, self._misfortunes)
        settings = PoolSettings(count, lease=15 * _STEP, restarts=10_000)
        pool = Pool(begun.layout, simulation, settings, self._clock)
        for _ in range(_MOST_STEPS):
            pool.turn()
            assert pool.error is None, pool.error
            if pool.over:
                break
            self._meanwhile(pool)
            if self._chance.random() < self._coordinator_dies:
                simulation.forsake()
                self._forsaken.append(simulation)
                return False
            simulation.step()
            # Where nobody lives there is nothing to do until somebody is started again.
            seconds = pool.seconds_to_next() if simulation.empty else _STEP
            self._clock.advance(timedelta(seconds=seconds))
        self.told += simulation.told
        pool.cancel()
        assert pool.over, "it does not come to its end"
        return True

    def _options(self) -> RunOptions:
        return RunOptions(
            until=None,
            anew=False,
            memory=1 << 30,
            commit=_STEP * float(self._chance.choice([0, 3, 20])),
            skip_gaps=False,
            rows=int(self._chance.integers(50, 3_000)),
        )

    def _meanwhile(self, pool: Pool) -> None:
        if self._feed.portions and self._chance.random() < 0.05:
            self._feed.bring()
        if self._chance.random() < self._rescales:
            pool.rescale(int(self._chance.integers(1, 6)))
        for simulation in self._forsaken:
            if self._chance.random() < 0.3:
                simulation.step()


@contextmanager
def troubled(name: str, seed: int) -> Iterator[Troubled]:
    """A scenario's job in a log of its own, to be run."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        yield Troubled(SCENARIOS[name], log, np.random.default_rng(seed))


def run(name: str, seed: int) -> list[str]:
    """Runs it to its end and looks at the rows; what happened."""
    with troubled(name, seed) as job:
        job.run()
        job.check()
        return job.told
