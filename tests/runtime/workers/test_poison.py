"""Rows that end the process that works on them: found out, and left out, without the others, or the end of the job."""

from __future__ import annotations

import ctypes
import os
import signal
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import JobFailed, StepFailed
from mamba_stream.runtime.commits import Together
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.workers.beginning import begin
from mamba_stream.runtime.workers.messages import Gone
from mamba_stream.runtime.workers.pool import Pool, PoolSettings
from mamba_stream.runtime.workers.simulation import Killed, Misfortunes, Simulation
from mamba_stream.runtime.workers.worker import Worker
from mamba_stream.testing import Clock
from tests.runtime.workers import driving
from tests.runtime.workers.driving import Driven, drive

START = datetime(2024, 1, 1)
QUIET = Misfortunes()


def rows_of(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [f"k{number % 7}" for number in range(count)],
            "value": range(count),
            "at": [START + timedelta(seconds=number) for number in range(count)],
        }
    )


def fill(log: mamba.Log, data: pl.DataFrame, partitions: int = 3, batches: int = 10) -> None:
    topic = log.create_topic("in", data, partitions=partitions, key="key", time="at")
    for part in data.iter_slices(-(-data.height // batches)):
        topic.append(part)
    topic.end()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Half a dozen processes are started one behind the other."""
    monkeypatch.setattr(driving, "PATIENCE", 600.0)


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as opened:
        yield opened


# -- simulated ----------------------------------------------------------------------------------------------------------


def simulated(
    log: mamba.Log,
    pipeline: mamba.Pipeline,
    *,
    workers: int = 2,
    seed: int = 1,
    misfortunes: Misfortunes = QUIET,
    restarts: int = 8,
    lease: float = 5.0,
    turns: int = 60_000,
    rows: int = 500,
) -> list[str]:
    """Runs to the end; what happened."""
    clock, chance = Clock(), np.random.default_rng(seed)
    options = RunOptions(until=None, anew=False, memory=1 << 30, commit=0.05, skip_gaps=False, rows=rows)
    begun = begin(pipeline, log, options, 4, clock)

    def make() -> Worker:
        return Worker(
            pipeline, begun.prepared, begun.layout.stages, log, options, clock, begun.run, Together(log)
        )

    simulation = Simulation(make, chance, misfortunes)
    pool = Pool(begun.layout, simulation, PoolSettings(workers, lease=lease, restarts=restarts), clock)
    for _ in range(turns):
        pool.turn()
        if pool.over or pool.error is not None:
            break
        simulation.step()
        clock.advance("20ms")
    pool.cancel()
    if pool.error is not None:
        raise pool.error
    assert pool.over
    return simulation.told


def kills(poison: set[int]):
    """A function that kills whoever runs it with one of these values."""

    def function(frame: pl.DataFrame) -> pl.DataFrame:
        if hit := poison & set(frame["value"].to_list()):
            raise Killed(f"row {min(hit)}")
        return frame.with_columns(twice=pl.col("value") * 2)

    return function


SCHEMA = {"key": pl.String, "value": pl.Int64, "at": pl.Datetime("us"), "twice": pl.Int64}


def doubling(poison: set[int], on_error: str = "dead_letter") -> mamba.Pipeline:
    rows = mamba.stream("in").filter(pl.col("value") >= 0).map_batches(kills(poison), schema=SCHEMA)
    return mamba.pipeline("job", rows.filter(pl.col("value") >= 0).to("out"), on_error=on_error)


def values(log: mamba.Log, topic: str = "out") -> list[int]:
    return sorted(log[topic].scan().collect()["value"].to_list())


def deaths(told: list[str]) -> int:
    return sum("reason='was killed" in line for line in told)


@pytest.mark.parametrize("seed", range(3))
def test_exactly_the_rows_that_kill_are_dead_letters(log, seed):
    chance = np.random.default_rng(seed)
    data = rows_of(3_000)
    fill(log, data)
    poison = set(map(int, chance.choice(3_000, size=[1, 2, 3][seed], replace=False)))
    told = simulated(log, doubling(poison), seed=seed, workers=[1, 2, 3][seed % 3])
    assert values(log) == sorted(set(range(3_000)) - poison)
    letters = log["job.dead"].scan().collect()
    assert sorted(letters["value"].to_list()) == sorted(poison)
    for row in letters.iter_rows(named=True):
        facts = row["_dead"]
        [batch] = log["in"].read(
            start={facts["partition"]: facts["offset"]},
            end={facts["partition"]: facts["offset"] + 1},
            partitions=[facts["partition"]],
        )
        assert batch.data.column("value").to_pylist() == [row["value"]]
        assert (facts["topic"], facts["attempts"]) == ("in", 3)
        assert facts["cause"].startswith("map_batches at ")
        assert f"was killed by row {row['value']}, 3 times" in facts["cause"]
    # Twice among others, once or twice with care, and three times alone.
    assert deaths(told) <= len(poison) * 8


@pytest.mark.parametrize("seed", range(2))
def test_workers_that_die_by_chance_lose_no_rows(log, seed):
    data = rows_of(2_000)
    fill(log, data)
    told = simulated(
        log,
        doubling({711}),
        seed=seed,
        misfortunes=Misfortunes(dies=0.1, stalls=0.02, wakes=0.05),
        restarts=10_000,
        lease=0.5,
    )
    assert any("reason='died'" in line for line in told)
    assert values(log) == sorted(set(range(2_000)) - {711})
    assert values(log, "job.dead") == [711]


@pytest.mark.parametrize("seed", range(2))
def test_a_machine_that_kills_whatever_the_rows_loses_none(log, seed):
    """It takes the same rows, which cannot be cut, three times."""
    fill(log, rows_of(2_000))
    chance = np.random.default_rng(seed)

    def function(frame: pl.DataFrame) -> pl.DataFrame:
        if chance.random() < 0.15:
            raise Killed("the machine")
        return frame.with_columns(twice=pl.col("value") * 2)

    rows = mamba.stream("in").map_batches(function, schema=SCHEMA)
    pipeline = mamba.pipeline("job", rows.to("out"), on_error="dead_letter")
    told = simulated(log, pipeline, seed=seed, rows=20)
    assert deaths(told) >= 2
    assert values(log) == list(range(2_000))
    assert values(log, "job.dead") == []


def test_skipped_they_are_only_left_out(log):
    fill(log, rows_of(500))
    simulated(log, doubling({3, 400}, "skip"))
    assert values(log) == sorted(set(range(500)) - {3, 400})
    assert "job.dead" not in log


def test_by_default_the_job_fails_and_says_over_what(log):
    fill(log, rows_of(500), partitions=1)
    with pytest.raises(StepFailed) as raised:
        simulated(log, doubling({123}, "fail"))
    said = str(raised.value)
    assert "map_batches at " in said
    assert "topic 'in', partition 0, offsets " in said
    assert "topic 'in', partition 0, offset 123: {'key': 'k4', 'value': 123" in said
    assert "was killed by row 123, 3 times" in said
    assert "on_error='dead_letter' or 'skip'" in said
    assert "(task 0/0)" in said
    # What lies before it is done.
    assert set(values(log)) <= set(range(123))


def test_a_worker_that_dies_only_among_many_rows_goes_on(log):
    """Of rows that are harmless one by one none is left out, nor does the job end."""
    fill(log, rows_of(400), partitions=1)

    def function(frame: pl.DataFrame) -> pl.DataFrame:
        if frame.height > 5:
            raise Killed(f"{frame.height} rows")
        return frame.with_columns(twice=pl.col("value") * 2)

    rows = mamba.stream("in").map_batches(function, schema=SCHEMA)
    simulated(log, mamba.pipeline("job", rows.to("out")), workers=1)
    assert values(log) == list(range(400))


def test_tasks_beside_the_one_that_kills_come_to_their_end(log):
    """The other partitions are read while it is found out which row it is, by workers that do not die of it."""
    data = rows_of(2_000)
    fill(log, data)
    poison = 1_000
    told = simulated(log, doubling({poison}), workers=1)
    [guilty] = {
        batch.partition for batch in log["in"].read() if poison in batch.data.column("value").to_pylist()
    }
    taken_alone = [line for line in told if "hears Take" in line and "known=[Death" in line]
    assert taken_alone
    assert all(f"TaskName(stage=0, number={guilty})" in line for line in taken_alone)
    assert all(line.startswith("1000 hears") for line in taken_alone)
    assert values(log) == sorted(set(range(2_000)) - {poison})


def windowed(stream: mamba.Stream, function) -> mamba.Stream:
    summed = stream.window(mamba.tumbling("1m"), by="key").agg(value=pl.col("value").sum())
    return summed.map_batches(function, schema={"key": pl.String, **WINDOW, "value": pl.Int64})


WINDOW = {"window_start": pl.Datetime("us"), "window_end": pl.Datetime("us")}


def test_rows_that_a_step_has_made_are_left_out_too(log):
    data = rows_of(1_000)
    fill(log, data)
    wanted = (
        data.group_by("key", pl.col("at").dt.truncate("1m").alias("window_start"))
        .agg(pl.col("value").sum())
        .sort("value")["value"]
        .to_list()
    )
    poison = wanted[len(wanted) // 2]

    def function(frame: pl.DataFrame) -> pl.DataFrame:
        if poison in frame["value"].to_list():
            raise Killed("a window")
        return frame

    pipeline = mamba.pipeline("job", windowed(mamba.stream("in"), function).to("out"), on_error="dead_letter")
    simulated(log, pipeline)
    assert values(log) == [value for value in wanted if value != poison]
    [letter] = log["job.made.dead"].scan().collect()["row"].to_list()
    assert f'"value":{poison}' in letter


@pytest.mark.parametrize("order", ["event", "arrival"])
def test_a_function_with_state_kills(log, order):
    data = rows_of(600)
    fill(log, data)

    def running(frame: pl.DataFrame, state, timers) -> pl.DataFrame:
        if 333 in frame["value"].to_list():
            raise Killed("row 333")
        counted = frame.select("key", "value").with_columns(seen=state.get(frame)["seen"].fill_null(0) + 1)
        state.put(counted.select("key", "seen"))
        return counted

    stepped = mamba.stream("in").process(
        running,
        by="key",
        state={"seen": pl.Int64},
        output={"key": pl.String, "value": pl.Int64, "seen": pl.Int64},
        order=order,
    )
    pipeline = mamba.pipeline("job", stepped.to("out"), on_error="dead_letter")
    simulated(log, pipeline)
    found = log["out"].scan().collect().sort("value")
    wanted = data.filter(pl.col("value") != 333).with_columns(seen=pl.int_range(1, pl.len() + 1).over("key"))
    assert found["value"].to_list() == wanted["value"].to_list()
    assert found.sort("key", "seen")["value"].to_list() == wanted.sort("key", "seen")["value"].to_list()
    if order == "event":
        assert values(log, "job.dead") == [333]
    else:
        # Where rows have no order, nobody knows behind a shuffle where they are from.
        [letter] = log["job.made.dead"].scan().collect()["row"].to_list()
        assert '"value":333' in letter


def test_what_no_row_is_to_blame_for_ends_the_job_and_says_so(log):
    fill(log, rows_of(100), partitions=1)

    job = doubling(set(), "dead_letter")
    with pytest.MonkeyPatch.context() as patch:

        def cursed(self, *_):
            raise Killed("the commit")

        patch.setattr("mamba_stream.runtime.task.Task._take", cursed)
        with pytest.raises(JobFailed, match=r"task.*0/0.*was killed by the commit"):
            simulated(log, job, restarts=4)


# -- real processes -----------------------------------------------------------------------------------------------------


def ends(frame: pl.DataFrame) -> pl.DataFrame:
    if 40 in frame["value"].to_list():
        os._exit(7)
    return frame.with_columns(twice=pl.col("value") * 2)


def is_killed(frame: pl.DataFrame) -> pl.DataFrame:
    if 40 in frame["value"].to_list():
        os.kill(os.getpid(), signal.SIGKILL)
    return frame.with_columns(twice=pl.col("value") * 2)


def crashes(frame: pl.DataFrame) -> pl.DataFrame:
    if 40 in frame["value"].to_list():
        ctypes.string_at(0)
    return frame.with_columns(twice=pl.col("value") * 2)


def hangs(frame: pl.DataFrame) -> pl.DataFrame:
    """It keeps the interpreter to itself, so that no thread of the process says that it lives."""
    if 40 in frame["value"].to_list():
        ctypes.PyDLL(None).sleep(1_000)
    return frame.with_columns(twice=pl.col("value") * 2)


def processed(function, on_error: str = "dead_letter") -> mamba.Pipeline:
    rows = mamba.stream("in").map_batches(function, schema=SCHEMA)
    return mamba.pipeline("job", rows.to("out"), on_error=on_error)


@pytest.mark.parametrize(
    ("function", "how"),
    [(is_killed, "signal 9 (Killed)"), (crashes, "signal 11")],
)
@pytest.mark.slow
def test_a_row_that_ends_its_process_is_a_dead_letter(log, function, how):
    fill(log, rows_of(64))
    drive(processed(function), log)
    assert values(log) == [value for value in range(64) if value != 40]
    [letter] = log["job.dead"].scan().collect().to_dicts()
    assert letter["value"] == 40
    assert how in letter["_dead"]["cause"]
    assert f"map_batches at {__file__}" in letter["_dead"]["cause"]
    assert letter["_dead"]["attempts"] == 3


def test_a_row_over_which_its_process_hangs_is_a_dead_letter(log):
    fill(log, rows_of(60))
    drive(processed(hangs), log, lease=1.5, workers=1)
    assert values(log) == [value for value in range(60) if value != 40]
    [letter] = log["job.dead"].scan().collect().to_dicts()
    assert letter["value"] == 40
    assert "was silent for " in letter["_dead"]["cause"]


@pytest.mark.slow
def test_a_row_that_ends_its_process_fails_the_job_by_default(log):
    fill(log, rows_of(100), partitions=1)
    with Driven(processed(ends, "fail"), log) as job:
        job.until(lambda: job.pool.error, "its end")
        said = str(job.pool.error)
        died = len(job.executor.heard(Gone))
    assert isinstance(job.pool.error, StepFailed)
    assert "topic 'in', partition 0, offset 40: {'key': 'k5', 'value': 40" in said
    assert "ended with exit code 7, 3 times" in said
    assert died < 16


def test_what_was_found_out_is_the_same_for_the_front_door(log):
    """A job as users start it: nothing is lost, and nothing is there twice."""
    fill(log, rows_of(64))
    summary = mamba.run(processed(is_killed), log=log, workers=2)
    assert (summary.state, summary.rows_in, summary.rows_out, summary.failed) == ("finished", 64, 63, 1)
    assert values(log) == [value for value in range(64) if value != 40]
    [letter] = log["job.dead"].scan().collect().to_dicts()
    assert letter["value"] == 40
    assert "signal 9 (Killed)" in letter["_dead"]["cause"]
    assert f"map_batches at {__file__}" in letter["_dead"]["cause"]
    assert letter["_dead"]["attempts"] == 3
