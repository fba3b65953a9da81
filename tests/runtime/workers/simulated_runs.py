"""Queries of Nexmark over simulated workers, run by run: each with other workers, another layout, another pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import mamba_stream as mamba
from mamba_pipelines.nexmark import QUERIES
from mamba_stream.runtime.commits import Together
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.simulation import Misfortunes, Simulation
from mamba_stream.runtime.workers.worker import Worker
from mamba_stream.testing import Clock
from tests.pipelines.test_nexmark import MEMORY, STREAMS

NO_KEYS: dict[str, str] = {}


class Simulated:
    """A job over simulated workers, and all that it needs."""

    def __init__(self, log: mamba.Log, pipeline: mamba.Pipeline, chance: np.random.Generator) -> None:
        self.log = log
        self.pipeline = pipeline
        self.chance = chance
        self.clock = Clock()
        self.told: list[str] = []

    def run(
        self,
        workers: int,
        *,
        misfortunes: Misfortunes,
        until: str | None,
        rescales: bool = False,
        partitions: int = 4,
        upgrade: bool = False,
    ) -> int:
        """Runs to the end, or until the coordinator dies; the number of deaths and moves."""
        options = RunOptions(
            until=until,
            anew=False,
            memory=1 << 30,
            commit=0.05,
            skip_gaps=False,
            rows=int(self.chance.integers(100, 1_000)),
            upgrade=upgrade,
        )
        begun = begin(self.pipeline, self.log, options, partitions, self.clock)

        def make() -> Worker:
            return Worker(
                self.pipeline,
                begun.prepared,
                begun.layout.stages,
                self.log,
                options,
                self.clock,
                begun.run,
                Together(self.log),
            )

        simulation = Simulation(make, self.chance, misfortunes)
        pool = Pool(begun.layout, simulation, PoolSettings(workers, lease=0.3, restarts=10_000), self.clock)
        for turn in range(20_000):
            pool.turn()
            if pool.over or pool.error is not None:
                break
            simulation.step()
            self.clock.advance("20ms")
            if rescales and turn % 50 == 49:
                pool.rescale(int(self.chance.integers(1, 6)))
        self.told += simulation.told
        pool.cancel()
        assert pool.error is None, pool.error
        assert pool.over
        return sum("'died'" in told or "stands still" in told for told in map(str, simulation.told))


@contextmanager
def nexmark(
    query: str, given, chance: np.random.Generator, keys: Mapping[str, str] = NO_KEYS
) -> Iterator[Simulated]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for name in STREAMS:
            key = keys.get(name)
            log.create_topic(
                name, given[name], partitions=3, key=key, strict_key=key is not None, time="dateTime"
            )
        topics = {name: mamba.stream(name, lateness="60s") for name in STREAMS}
        result = QUERIES[query](**topics, side_input=given["side_input"])
        yield Simulated(log, mamba.pipeline("job", result.to("out")), chance)
