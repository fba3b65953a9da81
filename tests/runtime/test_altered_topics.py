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
    # What the step remembers of values are those of the narrower type, and nothing of it is taken for another's.
    with pytest.raises(PipelineRefused, match="step 'per' has other keys, windows or aggregates"):
        mamba.run(counted(), log, until="now")


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
        topic = log.create_topic("in", COLUMNS, partitions=2, time="at")
        for partition in (0, 1):
            topic.append(rows(1, 2, 11), partition=partition)
        per = mamba.stream("in").window(mamba.tumbling("10s"), by="key", name="per")
        # What goes from task to task has the type of the column.
        greatest = mamba.pipeline("greatest", per.agg(total=pl.col("value").max(), rows=pl.len()).to("out"))
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
