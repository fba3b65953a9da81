"""A job over workers in threads: started, watched, stopped, rescaled."""

from __future__ import annotations

import threading
from datetime import timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.errors import AlreadyExists
from mamba_stream.operators.changes import table_of
from mamba_stream.runtime.asking import ask
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.requests import Rescale, Savepoint, Stop
from mamba_stream.runtime.workers.beginning import Begun
from mamba_stream.runtime.workers.pool import PoolSettings
from mamba_stream.runtime.workers.pooledjob import PooledJob
from mamba_stream.runtime.workers.threads import ThreadExecutor
from mamba_stream.runtime.workers.worker import Worker


def start(pipeline: mamba.Pipeline, log: mamba.Log, workers: int = 2, **options) -> PooledJob:
    told = run_options(**options)

    def executor(begun: Begun) -> ThreadExecutor:
        def make() -> Worker:
            return Worker(pipeline, begun.prepared, begun.layout.stages, log, told, SystemClock(), begun.run)

        return ThreadExecutor(make, log)

    return PooledJob(pipeline, log, told, PoolSettings(workers), executor, partitions=4)


def rows(first: int, count: int) -> pl.DataFrame:
    number = pl.int_range(first, first + count, eager=True)
    return pl.DataFrame(
        {
            "ts": pl.select(
                pl.lit(pl.Series([0])).cast(pl.Datetime("us")) + pl.duration(seconds=number)
            ).to_series(),
            "key": number % 17,
            "value": number,
        }
    )


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("in", rows(0, 1), partitions=3, time="ts")
        yield log


def counting() -> mamba.Pipeline:
    counted = (
        mamba.stream("in", lateness="1000s")
        .window(mamba.tumbling("100s"), by="key")
        .agg(rows=pl.len(), total=pl.col("value").sum())
    )
    return mamba.pipeline("counting", counted.to("out"))


def expected(data: pl.DataFrame) -> pl.DataFrame:
    return (
        data.group_by("key", pl.col("ts").dt.truncate("100s").alias("window_start"))
        .agg(rows=pl.len(), total=pl.col("value").sum())
        .select("key", "window_start", "rows", "total")
    )


def found(log: mamba.Log) -> pl.DataFrame:
    return log["out"].scan().select("key", "window_start", "rows", "total").collect()


def append(log: mamba.Log, data: pl.DataFrame) -> None:
    for number, part in enumerate(data.iter_slices(500)):
        log["in"].append(part, partition=number % 3)


def test_a_job_over_workers_gives_the_rows_and_says_what_it_did(log):
    data = rows(0, 10_000)
    append(log, data)
    log["in"].end()
    summary = start(counting(), log, commit="50ms").wait(60)
    assert summary.state == "finished"
    assert (summary.rows_in, summary.late) == (10_000, 0)
    wanted = expected(data)
    assert summary.rows_out == wanted.height
    assert_frame_equal(found(log), wanted, check_row_order=False)


def test_stopped_and_begun_anew_with_another_number_of_workers_it_goes_on(log):
    data = rows(0, 10_000)
    append(log, data[:4_000])
    job = start(counting(), log, workers=3, until="stopped", commit="20ms")
    first = job.stop(60)
    assert first.state == "stopped"
    append(log, data[4_000:])
    log["in"].end()
    second = start(counting(), log, workers=1, commit="20ms").wait(60)
    assert second.state == "finished"
    assert first.rows_in + second.rows_in == 10_000
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_rescaled_while_it_runs_only_some_tasks_move(log):
    data = rows(0, 20_000)
    job = start(counting(), log, workers=1, until="stopped", commit="20ms")
    for number, part in enumerate(data.iter_slices(2_000)):
        append(log, part)
        job.rescale([2, 4, 1, 3][number % 4])
        job.checkpoint(60)
    log["in"].end()
    summary = job.wait(60)
    assert summary.rows_in == 20_000
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_cancelled_it_goes_on_from_its_commits(log):
    data = rows(0, 6_000)
    append(log, data)
    job = start(counting(), log, until="stopped", commit="10ms")
    job.checkpoint(60)
    job.cancel()
    assert job.status.state == "cancelled"
    log["in"].end()
    start(counting(), log).wait(60)
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_what_a_step_remembers_is_that_of_all_tasks(log):
    data = rows(0, 300)
    append(log, data)
    pipeline = counting()
    job = start(pipeline, log, until="now")
    job.wait(60)
    [step] = job._analysis.steps
    open_windows = job.state(step.name).select("key", "window_start", "rows", "total")
    assert_frame_equal(open_windows, expected(data), check_row_order=False)


def test_a_step_that_raises_ends_the_job_and_says_why(log):
    append(log, rows(0, 100))
    broken = mamba.stream("in").filter(pl.col("value").cast(pl.String).str.to_integer(base=2) > 0)
    pipeline = mamba.pipeline("broken", broken.to("out"))
    with pytest.raises(mamba.StepFailed, match="filter"):
        start(pipeline, log, until="now").wait(60)


def test_its_status_says_how_far_it_has_come(log):
    append(log, rows(0, 1_500))
    job = start(counting(), log, until="stopped", commit="20ms")
    job.checkpoint(60)
    status = job.status
    while status.rows_in < 1_500:
        job.checkpoint(60)
        status = job.status
    job.stop(60)
    status = job.status
    assert status.positions == {"in": {p: end for p, (_, end) in log["in"].offsets().items()}}
    assert status.watermarks["in"] is not None
    assert status.watermarks["in"].replace(tzinfo=None) <= rows(1_499, 1)["ts"][0] - timedelta(seconds=1_000)


def test_a_stage_that_is_not_followed_as_fast_is_held_back(log):
    data = rows(0, 8_000).with_columns(text=pl.lit("x" * 6_000))
    log.delete_topic("in")
    log.create_topic("in", data, partitions=3, time="ts")
    append(log, data)
    log["in"].end()
    waiting: list[int] = []
    pause = threading.Event()

    def slow(frame: pl.DataFrame, state, timers) -> pl.DataFrame:
        waiting.append(sum(log["_exchange.slow.0"].sizes().values()))
        pause.wait(0.002)
        return frame.select("key", "value")

    kept = mamba.stream("in", lateness="100000s").process(
        slow, by="key", state={"seen": pl.Int64}, output={"key": pl.Int64, "value": pl.Int64}, order="arrival"
    )
    pipeline = mamba.pipeline("slow", kept.to("out"))
    # A quarter of it may wait.
    job = start(pipeline, log, workers=1, memory=8 << 20, commit="10ms")
    summary = job.wait(120)
    assert summary.rows_out == 8_000
    # What three tasks have in hand when they are held back still goes there: in a commit, and for the next one.
    assert max(waiting) < sum(log["in"].sizes().values()) / 2
    assert sum(facts.held_back for facts in job._pool.facts.values()) > 0


def test_it_is_reached_by_others_also_after_a_savepoint_behind_which_it_goes_on(log):
    append(log, rows(0, 100))
    job = start(counting(), log, workers=1)
    ask(log, "counting", Savepoint("one"))
    said, _ = ask(log, "counting", Rescale(2))
    assert said == "has 2 workers"
    with pytest.raises(AlreadyExists, match="has a savepoint 'one'"):
        ask(log, "counting", Savepoint("one"))
    said, _ = ask(log, "counting", Stop())
    assert said.startswith("counting stopped: 100 rows in")
    assert job.wait().state == "stopped"


def test_totals_that_keep_rows_and_values_are_cut_by_key_where_one_task_had_them(log):
    data = rows(0, 300)
    totals = mamba.stream("in").group_by(group=pl.col("key") % 5)
    totals = totals.agg(
        values=pl.col("value").n_unique(),
        rows=pl.col("key").sort().implode(),
        middle=pl.col("value").median(),
    )
    pipeline = mamba.pipeline("totals", totals.to("out"))
    append(log, data.head(150))
    mamba.run(pipeline, log, until="now")
    append(log, data.tail(150))
    start(pipeline, log, until="now").wait()
    expected = data.group_by(pl.col("key").mod(5).alias("group")).agg(
        values=pl.col("value").n_unique(), rows=pl.col("key").sort(), middle=pl.col("value").median()
    )
    found = table_of(log["out"].scan().collect()).sort("group")
    assert_frame_equal(found, expected.sort("group"))
