"""``workers=`` of the front door: processes run the job, and a job goes on with any number of them."""

from __future__ import annotations

import os
import signal

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.runtime.jobs import find_job
from mamba_stream.runtime.journal import read_journal
from mamba_stream.runtime.savepoints import list_savepoints
from mamba_stream.runtime.workers.pooledjob import PooledJob
from tests.runtime.workers.test_pooledjob import append, counting, expected, found, log, rows
from tests.server.running import until

__all__ = ["log"]


def test_two_workers_run_what_is_written_here(log):
    data = rows(0, 5_000)
    append(log, data)
    log["in"].end()
    factor = 3
    tripled = mamba.stream("in").map_batches(lambda frame: frame.with_columns(value=pl.col("value") * factor))
    summary = mamba.run(mamba.pipeline("tripled", tripled.to("out")), log=log, workers=2)
    assert (summary.state, summary.rows_in, summary.rows_out) == ("finished", 5_000, 5_000)
    wanted = data.with_columns(value=pl.col("value") * 3)
    assert_frame_equal(log["out"].scan().collect(), wanted, check_row_order=False)


def test_a_job_goes_on_with_one_worker_then_two_then_one(log):
    data = rows(0, 9_000)
    rows_in = 0
    for number, workers in enumerate([1, 2, 1]):
        append(log, data[3_000 * number : 3_000 * (number + 1)])
        rows_in += mamba.run(counting(), log=log, workers=workers, until="now").rows_in
    log["in"].end()
    rows_in += mamba.run(counting(), log=log).rows_in
    assert rows_in == 9_000
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_a_worker_that_is_killed_is_followed_by_another(log):
    data = rows(0, 9_000)
    job = mamba.start(counting(), log=log, workers=2, until="stopped", commit="50ms")
    assert isinstance(job, PooledJob)
    append(log, data[:4_000])
    until(lambda: job.status.rows_in == 4_000, "the first rows")
    os.kill(min(job.workers.values()), signal.SIGKILL)
    append(log, data[4_000:])
    log["in"].end()
    summary = job.wait(120)
    assert summary.rows_in == 9_000
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_started_over_by_one_worker_nothing_is_left_of_the_tasks(log):
    data = rows(0, 3_000)
    append(log, data)
    mamba.run(counting(), log=log, workers=2, until="now")
    log["in"].end()
    mamba.run(counting(), log=log, state="new")
    assert_frame_equal(found(log), expected(data), check_row_order=False)
    assert log.records("jobs.tasks/counting") == {}
    internal = [name for name in log.topics(internal=True) if name.startswith(("_tasks.", "_exchange."))]
    assert internal
    assert all(begin == end for name in internal for begin, end in log[name].offsets().values())


@pytest.mark.parametrize("workers", [0, -1, True, "2", 257])
def test_a_number_of_workers_that_cannot_be_is_refused(log, workers):
    with pytest.raises(mamba.InvalidInput, match="workers="):
        mamba.run(counting(), log=log, workers=workers)


def test_rows_over_which_a_step_raises_are_dead_letters_over_workers_too(log):
    append(log, rows(0, 3_000))
    log["in"].end()
    broken = mamba.stream("in").filter(
        pl.when(pl.col("value") == 7).then(pl.lit("x")).otherwise(pl.lit("1")).cast(pl.Int64) > 0
    )
    pipeline = mamba.pipeline("sorting", broken.to("out"), on_error="dead_letter")
    summary = mamba.run(pipeline, log=log, workers=2)
    assert (summary.rows_out, summary.failed) == (2_999, 1)
    assert log["sorting.dead"].scan().collect()["value"].to_list() == [7]


def test_a_changed_pipeline_starts_over_and_is_refused_otherwise(log):
    data = rows(0, 3_000)
    append(log, data)
    mamba.run(counting(), log=log, workers=2, until="now")
    more = (
        mamba.stream("in", lateness="1000s")
        .window(mamba.tumbling("100s"), by="key")
        .agg(rows=pl.len(), total=pl.col("value").sum(), most=pl.col("value").max())
    )
    changed = mamba.pipeline("counting", more.to("more"))
    with pytest.raises(mamba.PipelineRefused, match="state='new'"):
        mamba.run(changed, log=log, workers=2, until="now")
    log["in"].end()
    mamba.run(changed, log=log, workers=2, state="new")
    found_now = log["more"].scan().select("key", "window_start", "rows", "total").collect()
    assert_frame_equal(found_now, expected(data), check_row_order=False)


def test_a_running_job_of_two_workers_keeps_a_savepoint(log):
    data = rows(0, 4_000)
    append(log, data[:2_000])
    job = mamba.start(counting(), log=log, workers=2, until="stopped", commit="50ms")
    job.savepoint("kept", 120)
    append(log, data[2_000:])
    log["in"].end()
    summary = job.wait(120)
    assert (summary.state, summary.rows_in) == ("finished", 4_000)
    assert_frame_equal(found(log), expected(data), check_row_order=False)
    assert [facts.name for facts in list_savepoints(log, "counting")] == ["kept"]


def test_a_job_over_workers_is_told_of_as_others_are(log):
    append(log, rows(0, 100))
    mamba.run(counting(), log=log, workers=2, until="now")
    facts = find_job(log, "counting")
    assert (facts.state, facts.outputs) == ("stopped", ("out",))
    # The job's own commit at its end, and two of each of 35 tasks at least.
    assert facts.commits >= 36


@pytest.mark.planned
def test_where_one_worker_is_faster_there_is_one_and_it_says_why(log, caplog):
    data = rows(0, 3_000)
    append(log, data)
    with caplog.at_level("INFO", logger="mamba_stream"):
        job = mamba.start(counting(), log=log, workers=2, until="stopped")
    assert job.workers == {0: os.getpid()}
    assert "Polars does all of it" in job.note
    assert job.note in caplog.text
    with pytest.raises(mamba.InvalidInput, match="Polars does all of it.*workers='exactly:2'"):
        job.rescale(2)
    log["in"].end()
    job.wait(60)
    assert job.note in log_of(log, "counting")
    assert_frame_equal(found(log), expected(data), check_row_order=False)


@pytest.mark.planned
def test_as_many_as_it_has_to_be_there_are_though_one_were_faster(log):
    data = rows(0, 3_000)
    append(log, data)
    log["in"].end()
    job = mamba.start(counting(), log=log, workers="exactly:2")
    assert isinstance(job, PooledJob)
    assert job.note == ""
    job.wait(120)
    assert_frame_equal(found(log), expected(data), check_row_order=False)
    # Its state is cut among tasks now, and those are for two again.
    again = mamba.start(counting(), log=log, workers=2)
    assert isinstance(again, PooledJob)
    again.wait(120)


@pytest.mark.planned
def test_a_job_whose_functions_can_be_divided_has_the_workers_that_were_asked_for(log):
    append(log, rows(0, 300))
    log["in"].end()
    same = mamba.stream("in").map_batches(lambda frame: frame)
    job = mamba.start(mamba.pipeline("same", same.to("out")), log=log, workers=2)
    assert isinstance(job, PooledJob)
    assert job.wait(120).rows_out == 300


@pytest.mark.planned
def test_how_many_workers_there_are_is_found_out_from_one_on(log):
    append(log, rows(0, 300))
    same = mamba.stream("in").map_batches(lambda frame: frame)
    job = mamba.start(
        mamba.pipeline("same", same.to("out")), log=log, workers="auto:1-3", until="stopped", commit="50ms"
    )
    assert isinstance(job, PooledJob)
    until(lambda: job.status.rows_in == 300, "the rows")
    assert list(job.workers) == [0]
    # By hand it can be changed all the same.
    job.rescale(2)
    until(lambda: len(job.workers) == 2, "the second worker")
    assert job.stop(60).rows_out == 300


def log_of(log, job):
    return "\n".join(event.text for event in read_journal(log, job))
