"""How many workers a job has by its load: on a clock that is moved, over a model of workers and over simulated ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.runtime.commits import Together
from mamba_stream.runtime.options import RunOptions, run_options
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.scaling import FEWER_AFTER, MORE_AFTER, Scaling, Seen, wanted
from mamba_stream.runtime.workers.simulation import Misfortunes, Simulation
from mamba_stream.runtime.workers.worker import Worker
from mamba_stream.testing import Clock
from tests.runtime.workers.test_pooledjob import log, rows

__all__ = ["log"]

CAPACITY = 100
"""Rows that a worker of the model reads in a second."""


def modelled(rate: Callable[[int], float], seconds: int, least: int, most: int, workers: int) -> list[int]:
    """How many workers there are in every second, where so many rows come in each."""
    busy, read, waiting = 0.0, 0, 0.0
    seen: list[Seen] = []
    found = []
    for at in range(seconds):
        waiting += rate(at)
        done = min(waiting, workers * CAPACITY)
        waiting -= done
        busy += done / CAPACITY
        read += int(done)
        seen.append(Seen(at, workers, busy, read, int(waiting)))
        now = wanted(seen, least, most)
        if now != workers:
            workers, seen = now, []
        found.append(workers)
    return found


def changes(found: list[int]) -> list[int]:
    return [number for number, _ in itertools.groupby(found)]


def test_a_load_that_grows_and_falls_is_followed_there_and_back():
    found = modelled(lambda at: 350 if 100 <= at < 700 else 30, 1_800, 1, 8, 1)
    assert changes(found) == [1, 2, 3, 4, 6, 5, 4, 3, 2, 1]
    assert found[99] == 1 and found[199] >= 4
    assert {*found[400:700]} <= {4, 5, 6}


@pytest.mark.parametrize("rate", [0, 30, 79, 120, 199, 210, 305, 390])
def test_a_load_that_stays_comes_to_a_number_that_can_do_it_and_stays(rate):
    found = modelled(lambda at: rate, 3_000, 1, 8, 1)
    assert len(set(found[1_500:])) == 1
    assert found[-1] * CAPACITY >= rate
    fallen = modelled(lambda at: rate, 3_000, 1, 8, 8)
    assert len(set(fallen[1_500:])) == 1
    assert fallen[-1] * CAPACITY >= rate
    assert changes(fallen) == sorted(changes(fallen), reverse=True)


def test_a_load_that_comes_and_goes_faster_than_workers_do_moves_nothing():
    assert set(modelled(lambda at: 150 if at % 20 < 5 else 10, 600, 1, 8, 1)) == {1}


def test_limits_are_kept_and_a_number_beyond_them_is_brought_back():
    assert max(modelled(lambda at: 10_000, 600, 1, 3, 1)) == 3
    assert min(modelled(lambda at: 0, 600, 2, 8, 4)) == 2
    assert wanted([Seen(0, 9, 0, 0, 0)], 1, 4) == 4
    assert wanted([Seen(0, 1, 0, 0, 0)], 2, 4) == 2


def test_nothing_changes_before_it_was_so_for_long_enough():
    behind = [Seen(at, 1, at, CAPACITY * at, 10_000 + 100 * at) for at in range(100)]
    assert [wanted(behind[:count], 1, 4) for count in (1, int(MORE_AFTER), int(MORE_AFTER) + 1)] == [1, 1, 2]
    idle = [Seen(at, 3, 0.0, 0, 0) for at in range(100)]
    assert [wanted(idle[:count], 1, 4) for count in (1, int(FEWER_AFTER), int(FEWER_AFTER) + 1)] == [3, 3, 2]


def test_what_is_caught_up_with_soon_brings_no_worker():
    falling = [Seen(at, 1, at, CAPACITY * at, 5_000 - 250 * at) for at in range(15)]
    assert wanted(falling, 1, 4) == 1
    slowly = [Seen(at, 1, at, CAPACITY * at, 50_000 - 250 * at) for at in range(15)]
    assert wanted(slowly, 1, 4) == 2


def test_a_large_job_that_is_behind_grows_in_large_steps():
    behind = [Seen(at, 16, 16.0 * at, CAPACITY * at, 10_000 + 100 * at) for at in range(15)]
    assert wanted(behind, 1, 64) == 24


def test_simulated_workers_come_with_rows_and_go_when_they_have_gone(log):
    clock = Clock()
    chance = np.random.default_rng(3)

    def slow(frame: pl.DataFrame) -> pl.DataFrame:
        clock.advance(f"{10 * frame.height}ms")
        return frame

    pipeline = mamba.pipeline("slow", mamba.stream("in", idle="1000h").map_batches(slow).to("out"))
    options = RunOptions(
        until="stopped", anew=False, memory=1 << 30, commit=0.5, skip_gaps=False, rows=20, workers=3, least=1
    )
    begun = begin(pipeline, log, options, 4, clock)

    def make() -> Worker:
        stages = begun.layout.stages
        return Worker(pipeline, begun.prepared, stages, log, options, clock, begun.run, Together(log))

    simulation = Simulation(make, chance, Misfortunes())
    pool = Pool(begun.layout, simulation, PoolSettings(1, lease=1e9), clock)
    scaling = Scaling(1, 3)
    scales = [pool.scale]
    data = rows(0, 6_000)
    for number, part in enumerate(data.iter_slices(500)):
        log["in"].append(part, partition=number % 3)

    def turn() -> None:
        pool.turn()
        simulation.step()
        clock.advance("1ms")
        if scaling.due(clock.monotonic()):
            ends = sum(end for _, end in log["in"].offsets().values())
            read = sum(one.counts.rows_in for one in pool.facts.values())
            found = scaling.look(
                clock.monotonic(), pool.scale, dict(pool.facts), ends - read, settled=pool.settled
            )
            if found is not None:
                scales.append(found)
                pool.rescale(found)

    while sum(one.counts.rows_in for one in pool.facts.values()) < 6_000:
        turn()
    # One thread does the work of all: two workers are as busy together as one alone.
    assert scales == [1, 2]
    while pool.scale > 1:
        clock.advance("50ms")
        turn()
    assert scales == [1, 2, 1]
    pool.leave()
    while not pool.over:
        turn()
    pool.cancel()
    assert_frame_equal(log["out"].scan().collect(), data, check_row_order=False)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (3, (None, 3, False)),
        ("auto:2-8", (2, 8, False)),
        ("auto:4-4", (4, 4, False)),
        ("exactly:2", (None, 2, True)),
        ("exactly:1", (None, 1, True)),
    ],
)
def test_how_many_workers_are_asked_for(asked, found):
    options = run_options(workers=asked)
    assert (options.least, options.workers, options.exactly) == found


def test_auto_goes_up_to_the_number_of_processors(monkeypatch):
    monkeypatch.setattr("mamba_stream.runtime.options.processors", lambda: 6)
    options = run_options(workers="auto")
    assert (options.least, options.workers) == (1, 6)


@pytest.mark.parametrize(
    "asked",
    ["auto:", "auto:3", "auto:0-3", "auto:4-2", "auto:1-257", "exactly:0", "exactly", "two", "auto:1-٣", 0],
)
def test_what_cannot_be_is_refused_with_what_can(asked):
    with pytest.raises(mamba.InvalidInput, match=r"workers=.*'auto:1-8'.*'exactly:2'"):
        run_options(workers=asked)
