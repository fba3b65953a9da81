"""What many tasks remember, kept under a name and gone back to; and carried into other tasks, and into one."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from msgspec.structs import replace
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines.nexmark import QUERIES
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import OP_COLUMN, table_of
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.jobs import reset_job
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.savepoints import delete_savepoint, list_savepoints, make_savepoint
from mamba_stream.runtime.singlejob import SingleJob
from mamba_stream.runtime.standing import place_of_job
from mamba_stream.runtime.workers.simulation import Misfortunes
from tests.pipelines.test_nexmark import STREAMS, append, busy, check, options, portions
from tests.runtime.workers.simulated_runs import Simulated, nexmark
from tests.runtime.workers.test_pooledjob import append as put, counting, expected, found, log, rows, start
from tests.server.running import until
from tests.sizes import crossed

__all__ = ["log"]

QUIET = Misfortunes()


def stopped(job: Simulated) -> None:
    """Notes, as a job does, that its tasks have come to their end."""
    checkpoints = Checkpoints(job.log, place_of_job("job"), SystemClock())
    saved = checkpoints.load()
    assert saved is not None
    checkpoints.take(outputs=[], offsets={}, progress=saved.progress, steps={}, status="stopped")()


def check_rows(job: Simulated, query: str) -> None:
    given = job.log["out"].scan().collect()
    check(table_of(given) if OP_COLUMN in given.columns else given, query, busy)


def end(job: Simulated) -> None:
    for name in STREAMS:
        job.log[name].end()


@pytest.mark.parametrize("query", crossed(QUERIES, every=5))
def test_from_many_tasks_to_one_and_back_nothing_changes(query):
    chance = np.random.default_rng(3)
    given = busy()
    with nexmark(query, given, chance) as job:
        first, second, third = portions(given, 3, chance)
        append(job.log, first, 3, chance)
        job.run(3, misfortunes=QUIET, until="now")
        stopped(job)
        make_savepoint(job.log, "job", "kept")
        append(job.log, second, 3, chance)
        run = Run(job.pipeline, job.log, replace(options(700), savepoint="kept"), SystemClock())
        while run.step():
            if chance.random() < 0.2:
                run.commit("running")
        run.commit("stopped")
        run.close()
        append(job.log, third, 3, chance)
        end(job)
        job.run(2, misfortunes=QUIET, until=None)
        check_rows(job, query)


@pytest.mark.parametrize("query", crossed(QUERIES, every=5, begin=2))
def test_over_another_number_of_tasks_nothing_changes(query):
    chance = np.random.default_rng(5)
    given = busy()
    with nexmark(query, given, chance) as job:
        for number, some in enumerate(parts := portions(given, 3, chance), 1):
            append(job.log, some, 3, chance)
            last = number == len(parts)
            if last:
                end(job)
            job.run(
                2,
                misfortunes=QUIET,
                until=None if last else "now",
                partitions=[4, 7, 2][number - 1],
                upgrade=number > 1,
            )
            stopped(job)
        check_rows(job, query)


# -- jobs ---------------------------------------------------------------------------------------------------------------


def test_a_running_job_keeps_a_savepoint_and_goes_on(log):
    data = rows(0, 9_000)
    put(log, data[:3_000])
    job = start(counting(), log, until="stopped", commit="20ms")
    assert job.savepoint("one", 60) > 0
    assert [facts.name for facts in list_savepoints(log, "counting")] == ["one"]
    put(log, data[3_000:6_000])
    with pytest.raises(mamba.AlreadyExists, match="has a savepoint 'one'"):
        job.savepoint("one", 60)
    assert job.savepoint("two", 60) > 0
    put(log, data[6_000:])
    log["in"].end()
    summary = job.wait(60)
    assert (summary.state, summary.rows_in) == ("finished", 9_000)
    assert_frame_equal(found(log), expected(data), check_row_order=False)


@pytest.mark.parametrize("workers", [1, 3])
def test_many_tasks_go_back_to_a_savepoint_however_much_was_committed_since(log, workers):
    data = rows(0, 9_000)
    put(log, data[:3_000])
    start(counting(), log, until="now").wait(60)
    make_savepoint(log, "counting", "kept")
    before = found(log)
    for first in (3_000, 6_000):
        put(log, data[first : first + 3_000])
        start(counting(), log, until="now").wait(60)
    since = found(log).height - before.height
    assert since > 0
    log["in"].end()
    if workers == 1:
        mamba.run(counting(), log=log, state="kept")
    else:
        start(counting(), log, workers=workers, state="kept").wait(60)
    # What was put out since stays, and comes again: all of it, and nothing else twice.
    again = found(log)[before.height + since :]
    both = pl.concat([before, again])
    assert_frame_equal(both, expected(data), check_row_order=False)


def test_a_savepoint_of_one_task_is_gone_back_to_by_many(log):
    data = rows(0, 6_000)
    put(log, data[:3_000])
    mamba.run(counting(), log=log, until="now")
    make_savepoint(log, "counting", "kept")
    before = found(log)
    put(log, data[3_000:])
    start(counting(), log, until="now").wait(60)
    since = found(log).height
    log["in"].end()
    start(counting(), log, state="kept").wait(60)
    both = pl.concat([before, found(log)[since:]])
    assert_frame_equal(both, expected(data), check_row_order=False)


def test_an_interrupted_job_has_no_savepoint_until_its_rows_have_come_through(log):
    put(log, rows(0, 3_000))
    job = start(counting(), log, until="stopped", commit="10ms")
    until(lambda: job.status.commits > 0)
    job.cancel()
    with pytest.raises(mamba.PipelineRefused, match=r"was interrupted.*until='now'"):
        make_savepoint(log, "counting", "kept")
    start(counting(), log, until="now").wait(60)
    make_savepoint(log, "counting", "kept")


def test_what_a_savepoint_holds_of_tasks_stays_until_it_is_deleted_or_the_job_is_reset(log):
    put(log, rows(0, 3_000))
    start(counting(), log, until="now").wait(60)
    make_savepoint(log, "counting", "kept")

    def begins() -> dict[str, dict[int, int]]:
        names = [name for name in log.topics(internal=True) if name.startswith("_tasks.counting.")]
        return {name: {p: begin for p, (begin, _) in log[name].offsets().items()} for name in names}

    held = begins()
    start(counting(), log, until="now", state="new").wait(60)
    assert begins() == held, "what it holds is still there, though the job has started over"
    delete_savepoint(log, "counting", "kept")
    assert log.records("jobs.kept/counting") == {}
    start(counting(), log, until="now", state="new").wait(60)
    assert begins() != held
    make_savepoint(log, "counting", "kept")
    reset_job(log, "counting")
    assert log.records("jobs.kept/counting") == {}
    assert log.records("jobs.savepoints") == {}


def changed(by: list[str]) -> mamba.Pipeline:
    """Counts as before, of rows that come from the step before with other columns, and a step more."""
    windows = mamba.stream("in", lateness="1000s").with_columns(odd=pl.col("value") % 2)
    first = windows.window(mamba.tumbling("100s"), by="key").agg(rows=pl.len(), total=pl.col("value").sum())
    more = windows.window(mamba.tumbling("50s"), by=by, name="more").agg(rows=pl.len())
    return mamba.pipeline("counting", first.to("out"), more.to("more"))


def test_a_changed_pipeline_keeps_what_fits_of_a_job_that_has_come_to_its_end(log):
    data = rows(0, 6_000)
    put(log, data[:3_000])
    start(counting(), log, until="now").wait(60)
    upgrade = changed(["odd"]).check_upgrade(log)
    assert (upgrade.kept, upgrade.new) == (("tumbling 100s by key: rows, total",), ("more",)), upgrade
    with pytest.raises(mamba.PipelineRefused, match="step 'more' is new.*state='upgrade'"):
        start(changed(["odd"]), log)
    put(log, data[3_000:])
    start(changed(["odd"]), log, until="now", state="upgrade").wait(60)
    # As it is now it goes on by itself.
    log["in"].end()
    start(changed(["odd"]), log).wait(60)
    assert_frame_equal(found(log), expected(data), check_row_order=False)
    seen = log["more"].scan().collect()
    assert 0 < seen["rows"].sum() < data.height
    assert changed(["key"]).check_upgrade(log).changed == ("more",)


def test_a_changed_pipeline_is_refused_while_rows_are_on_their_way_as_they_were(log):
    put(log, rows(0, 3_000))
    job = start(counting(), log, until="stopped", commit="10ms")
    job.checkpoint(60)
    job.cancel()
    for state in ("resume", "upgrade"):
        with pytest.raises(
            mamba.PipelineRefused, match=r"was changed since its job was interrupted.*until='now'"
        ):
            start(changed(["odd"]), log, state=state)
    start(counting(), log, until="now").wait(60)
    start(changed(["odd"]), log, until="now", state="upgrade").wait(60)


def test_a_savepoint_from_before_a_change_is_gone_back_to_with_the_pipeline_of_then(log):
    data = rows(0, 6_000)
    put(log, data[:3_000])
    start(counting(), log, until="now").wait(60)
    make_savepoint(log, "counting", "before")
    before = found(log)
    start(changed(["odd"]), log, until="now", state="upgrade").wait(60)
    put(log, data[3_000:])
    start(changed(["odd"]), log, until="now").wait(60)
    since = found(log).height
    log["in"].end()
    start(counting(), log, state="before").wait(60)
    both = pl.concat([before, found(log)[since:]])
    assert_frame_equal(both, expected(data), check_row_order=False)


def test_one_worker_goes_back_as_one_task(log):
    put(log, rows(0, 300))
    start(counting(), log, until="now").wait(60)
    make_savepoint(log, "counting", "kept")
    job = mamba.start(counting(), log=log, until="now", state="kept")
    job.wait(60)
    assert isinstance(job, SingleJob)
    [step] = job._analysis.steps
    assert_frame_equal(
        job.state(step.name).select("key", "window_start", "rows", "total"),
        expected(rows(0, 300)),
        check_row_order=False,
    )
