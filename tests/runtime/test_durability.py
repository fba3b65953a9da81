"""How durable a job's commits are: a loss of power takes it back to one of them, and it goes on from there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from msgspec.structs import replace

import mamba_stream as mamba
from mamba_connectors import discard, files, python
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from tests.log.outage import copied, lose_power

ROWS = 300


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(place: Path) -> Iterator[mamba.Log]:
    with mamba.open(place) as opened:
        topic = opened.create_topic(
            "rows", {"at": pl.Datetime("us"), "key": pl.String, "n": pl.Int64}, time="at"
        )
        for begin in range(0, ROWS, 30):
            n = pl.int_range(begin, begin + 30, eager=True)
            at = pl.datetime(2026, 1, 1) + pl.duration(seconds=n)
            topic.append(pl.select(at=at, key=(n % 7).cast(pl.String), n=n))
        yield opened


def windows() -> mamba.Stream:
    return mamba.stream("rows").window(mamba.tumbling("10s"), by="key", name="w").agg(total=pl.col("n").sum())


def table(log: mamba.Log) -> pl.DataFrame:
    return log["out"].scan().collect().sort("window_start", "key")


def runs(pipeline: mamba.Pipeline, log: mamba.Log, durability: str) -> Run:
    """A run that reads thirty rows at a time."""
    options = replace(run_options(until="now", durability=durability, memory=1 << 30), rows=30)
    return Run(pipeline, log, options, SystemClock())


def waits(log: mamba.Log) -> bool:
    """Whether anything waits for the disk."""
    found = log.statistics()
    return found.flushed_lsn < found.lsn


@pytest.mark.parametrize("before", [1, 4])
def test_a_loss_of_power_takes_a_job_back_to_a_commit_and_it_gives_the_same_rows(log, place, before):
    pipeline = mamba.pipeline("job", windows().to("out"))
    run = runs(pipeline, log, "os")
    for number in range(7):
        run.step()
        run.commit("running")
        if number == before:
            log.flush()
    assert waits(log)
    whole, copy = table(log), copied(place)
    lose_power(copy)
    with mamba.open(copy) as left:
        assert 0 < table(left).height < whole.height
        mamba.run(pipeline, left, until="now")
        again = table(left)
    mamba.run(pipeline, log, until="now")
    assert table(log).equals(again)
    expected = windows().collect(log=log)
    assert again.height < expected.height, "windows stay open"
    assert expected.join(again, on=again.columns, how="semi").height == again.height


def test_the_end_of_a_run_is_on_the_disk(log, place):
    mamba.run(mamba.pipeline("job", windows().to("out")), log, until="now", durability="os")
    assert not waits(log)


def test_a_checkpoint_is_on_the_disk(log):
    job = mamba.start(mamba.pipeline("job", windows().to("out")), log, commit="1h", durability="os")
    assert job.checkpoint(60) <= log.statistics().flushed_lsn
    job.stop()


def test_a_job_s_commits_are_flushed_by_themselves_unless_told_otherwise(log):
    pipeline = mamba.pipeline("job", windows().to("out"))
    asked = []
    commit = log._store.commit

    def spied(change, batches=()):
        asked.append(change.durability)
        return commit(change, batches)

    log._store.commit = spied
    try:
        job = mamba.start(pipeline, log, commit="1ms")
        while asked.count("interval") < 1:
            log.wait(log.lsn(), 0.01)
        job.stop()
    finally:
        del log._store.commit
    assert asked[-1] == "commit", "the last one of a run"


@pytest.mark.parametrize("outside", ["source", "sink"])
def test_who_is_told_outside_the_log_is_told_what_is_on_the_disk(log, tmp_path, outside):
    """Otherwise a loss of power would have files shown twice, or a message acknowledged that nobody has."""
    if outside == "sink":
        pipeline = mamba.pipeline("job", windows().to(files.sink(tmp_path / "files", roll_rows=5)))
    else:
        came = python.source([{"n": n} for n in range(ROWS)], schema={"n": pl.Int64})
        pipeline = mamba.pipeline("job", mamba.stream(came).to("out"))
    run = runs(pipeline, log, "os")
    for _ in range(3):
        run.step()
        run.commit("running")
        assert not waits(log)
    run.close()


def test_files_are_not_written_twice_after_a_loss_of_power(log, place, tmp_path):
    counted = windows()
    pipeline = mamba.pipeline(
        "job", counted.to(files.sink(tmp_path / "files", roll_rows=5)), counted.to("out")
    )
    run = runs(pipeline, log, "os")
    for _ in range(5):
        run.step()
        run.commit("running")
    run.close()
    copy = copied(place)
    lose_power(copy)
    with mamba.open(copy) as left:
        mamba.run(pipeline, left, until="now")
        found = pl.read_parquet(tmp_path / "files" / "**" / "*.parquet").sort("window_start", "key")
        assert found.equals(table(left).select(found.columns))
    shutil.rmtree(copy)


def test_a_sink_that_forgets_nothing_asks_for_no_disk(log):
    run = runs(mamba.pipeline("job", windows().to(discard.sink())), log, "os")
    run.step()
    run.commit("running")
    assert waits(log)
    run.close()
