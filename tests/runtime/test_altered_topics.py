"""Jobs over topics that are altered: they go on with the columns that they were planned with, and begin with new ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import JobFailed, PipelineRefused, SchemaMismatch
from mamba_stream.runtime.prepared import Prepared
from tests.server.running import until

START = datetime(2024, 1, 1)
COLUMNS = {"at": pl.Datetime("us"), "key": pl.String, "value": pl.Int32}


def rows(*seconds: int, columns: dict[str, Any] = COLUMNS, **more: Any) -> pl.DataFrame:
    found = [{"at": START + timedelta(seconds=s), "key": f"k{s % 2}", "value": s, **more} for s in seconds]
    return pl.DataFrame(found, schema=columns)


def counted() -> mamba.Pipeline:
    per = mamba.stream("in").window(mamba.tumbling("10s"), by="key", name="per")
    return mamba.pipeline("counting", per.agg(total=pl.col("value").sum(), rows=pl.len()).to("out"))


def results(log: mamba.Log) -> list[tuple[int, int]]:
    if "out" not in log:
        return []
    return log["out"].scan().group_by("window_start").agg(pl.sum("total", "rows")).sort("window_start").drop(
        "window_start"
    ).collect().rows()  # fmt: skip


@pytest.fixture
def altering(log: mamba.Log) -> Callable[[], None]:
    """A topic with rows of one schema; the function alters it and appends with both."""
    topic = log.create_topic("in", COLUMNS, time="at")
    topic.append(rows(1, 2, 11))

    def alter() -> None:
        wider = log.alter_topic("in", schema={**COLUMNS, "value": pl.Int64, "note": pl.String})
        topic.append(rows(12))
        wider.append(rows(13, 21, columns={**COLUMNS, "value": pl.Int64, "note": pl.String}, note="x"))

    return alter


def test_a_job_that_runs_goes_on_over_rows_of_both_schemas(
    log: mamba.Log, altering: Callable[[], None]
) -> None:
    job = mamba.start(counted(), log, commit="10ms")
    until(lambda: results(log) == [(3, 2)], "the first window")
    altering()
    until(lambda: results(log) == [(3, 2), (36, 3)], "rows of both schemas")
    job.stop()


def widen(log: mamba.Log) -> None:
    log.alter_topic("in", schema={**COLUMNS, "value": pl.Int64})


def test_a_job_whose_column_became_wider_goes_on_with_the_columns_that_its_state_is_of(
    log: mamba.Log, altering: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    mamba.run(counted(), log, until="now")
    altering()
    upgrade = counted().check_upgrade(log)
    assert upgrade.fits
    assert "goes on with the columns that topic 'in' had before it was altered" in str(upgrade)
    caplog.clear()
    mamba.run(counted(), log, until="now")
    [warning] = [record.getMessage() for record in caplog.records]
    assert "'counting' goes on with the columns that topic 'in' had before it was altered" in warning
    assert "state='upgrade'" in warning
    # Also the next time, and what it remembers is of both schemas.
    log["in"].end()
    mamba.run(counted(), log)
    assert results(log) == [(3, 2), (36, 3), (21, 1)]


def test_a_job_takes_the_wider_column_when_it_is_told_to(
    log: mamba.Log, altering: Callable[[], None]
) -> None:
    mamba.run(counted(), log, until="now")
    widen(log)
    log["in"].append([{"at": START + timedelta(seconds=12), "key": "k0", "value": 2**40}])
    with pytest.raises((JobFailed, SchemaMismatch), match="is not in Int32.*state='upgrade'.*state='new'"):
        mamba.run(counted(), log, until="now")
    with pytest.raises(SchemaMismatch, match="'total' is Int64, topic has Int32 .*alter_topic.'out'"):
        mamba.run(counted(), log, until="now", state="upgrade")
    log.alter_topic("out", schema={**log["out"].polars_schema, "total": pl.Int64})
    mamba.run(counted(), log, until="now", state="upgrade")
    assert counted().check_upgrade(log).earlier == ()
    log["in"].end()
    mamba.run(counted(), log)
    # The step began anew behind what it had read.
    assert results(log) == [(3, 2), (2**40, 1)]


def test_a_pipeline_that_has_to_do_with_columns_of_now_does_not_go_on_with_those_before(
    log: mamba.Log, altering: Callable[[], None]
) -> None:
    mamba.run(counted(), log, until="now")
    altering()
    noted = mamba.stream("in").filter(pl.col("note").is_null())
    per = noted.window(mamba.tumbling("10s"), by="key", name="per")
    changed = mamba.pipeline("counting", per.agg(total=pl.col("value").sum(), rows=pl.len()).to("out"))
    with pytest.raises(PipelineRefused, match="step 'per' has other keys, windows or aggregates"):
        mamba.run(changed, log, until="now")


def test_a_job_goes_on_writing_to_a_topic_that_was_not_widened(log: mamba.Log) -> None:
    topic = log.create_topic("in", COLUMNS, time="at")
    copying = mamba.pipeline("copying", mamba.stream("in").select("at", "value").to("copy"))
    topic.append(rows(1))
    mamba.run(copying, log, until="now")
    widen(log)
    topic.append(rows(2))
    mamba.run(copying, log, until="now")
    assert log["copy"].scan().collect()["value"].to_list() == [1, 2]
    # Once it is wide enough, so is what comes.
    log.alter_topic("copy", schema={"at": pl.Datetime("us"), "value": pl.Int64})
    log["in"].append([{"at": START, "key": "k0", "value": 2**40}])
    mamba.run(copying, log, until="now")
    assert log["copy"].scan().collect()["value"].to_list() == [1, 2, 2**40]


def over_tasks(log: mamba.Log) -> mamba.Pipeline:
    """A pipeline in which what goes from task to task has the type of a column; and its first rows."""
    topic = log.create_topic("in", COLUMNS, partitions=2, time="at")
    for partition in (0, 1):
        topic.append(rows(1, 2, 11), partition=partition)
    per = mamba.stream("in").window(mamba.tumbling("10s"), by="key", name="per")
    return mamba.pipeline("greatest", per.agg(total=pl.col("value").max(), rows=pl.len()).to("out"))


@pytest.mark.slow
@pytest.mark.planned
def test_a_job_of_several_workers_goes_on_over_a_column_that_became_wider(tmp_path: Path) -> None:
    with mamba.open(tmp_path / "log") as log:
        greatest = over_tasks(log)
        mamba.run(greatest, log, until="now", workers="exactly:2")
        widen(log)
        for partition in (0, 1):
            log["in"].append(rows(12, 21, columns={**COLUMNS, "value": pl.Int64}), partition=partition)
        log["in"].end()
        mamba.run(greatest, log, workers="exactly:2")
        assert results(log) == [(3, 4), (23, 4), (21, 2)]


def test_a_job_that_is_started_anew_has_the_columns_that_were_added_and_keeps_its_state(
    log: mamba.Log,
) -> None:
    topic = log.create_topic("in", COLUMNS, time="at")
    topic.append(rows(1, 2, 11))
    mamba.run(counted(), log, until="now")
    log.alter_topic("in", add={"note": pl.String})
    topic.append(rows(12))
    log["in"].append([{"at": START + timedelta(seconds=31), "key": "k1", "value": 5, "note": "x"}])
    per = mamba.stream("in").filter(pl.col("note").is_null() | (pl.col("note") == "x"))
    windows = per.window(mamba.tumbling("10s"), by="key", name="per")
    changed = mamba.pipeline("counting", windows.agg(total=pl.col("value").sum(), rows=pl.len()).to("out"))
    mamba.run(changed, log, until="now")
    assert results(log) == [(3, 2), (23, 2)]


def test_what_a_job_cannot_take_any_more_fails_it_with_words_and_nothing_is_lost(
    log: mamba.Log, altering: Callable[[], None]
) -> None:
    job = mamba.start(counted(), log, commit="10ms")
    until(lambda: results(log) == [(3, 2)], "the first window")
    altering()
    log["in"].append([{"at": START + timedelta(seconds=22), "key": "k0", "value": 2**40}])
    with pytest.raises(
        (JobFailed, SchemaMismatch), match="1099511627776 of Int64 is not in Int32.*take it anew"
    ):
        job.wait(30)
    assert mamba.run(counted(), log, until="now", state="new").rows_in == 7
    log["in"].end()
    mamba.run(counted(), log)
    assert results(log) == [(3, 2), (36, 3), (21 + 2**40, 2)]


def test_a_topic_that_a_job_writes_may_have_more_columns_than_it_gives(log: mamba.Log) -> None:
    topic = log.create_topic("in", COLUMNS, time="at")
    copying = mamba.pipeline("copying", mamba.stream("in").select("at", "key").to("copy"))
    topic.append(rows(1))
    mamba.run(copying, log, until="now")
    log.alter_topic("copy", add={"checked": pl.Boolean})
    topic.append(rows(2))
    mamba.run(copying, log, until="now")
    assert log["copy"].scan().select("key", "checked").collect().rows() == [("k1", None), ("k0", None)]


def test_a_pipeline_is_planned_with_the_columns_of_now_or_of_when_its_run_began(log: mamba.Log) -> None:
    topic = log.create_topic("in", COLUMNS, time="at")
    everything = mamba.pipeline("everything", mamba.stream("in").to("copy"))
    before = Prepared(everything, log).schemas
    log.alter_topic("in", add={"note": pl.String})
    assert Prepared(everything, log).topics["in"].schema.names == [*COLUMNS, "note"]
    assert Prepared(everything, log, before).topics["in"].schema.equals(topic.schema)
    log.delete_topic("in")
    log.create_topic("in", {"other": pl.Int8})
    assert Prepared(everything, log, before).topics["in"].schema.names == ["other"]


@pytest.mark.planned
def test_workers_that_come_later_have_the_columns_that_the_run_began_with(tmp_path: Path) -> None:
    with mamba.open(tmp_path / "log") as log:
        greatest = over_tasks(log)
        job = mamba.start(greatest, log, workers="exactly:2", commit="10ms")
        until(lambda: results(log) == [(3, 4)], "the first window")
        log.alter_topic("in", schema={**COLUMNS, "value": pl.Int64, "note": pl.String})
        for process in job.workers.values():
            os.kill(process, signal.SIGKILL)
        for partition in (0, 1):
            log["in"].append(
                rows(12, 21, columns={**COLUMNS, "value": pl.Int64, "note": pl.String}, note="x"),
                partition=partition,
            )
        until(lambda: results(log) == [(3, 4), (23, 4)], "the rows behind the alteration")
        job.cancel()
