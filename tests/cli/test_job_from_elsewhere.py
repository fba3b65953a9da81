"""Jobs that one process runs and another one stops, cancels, rescales: over a directory that both have open, and a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from datetime import datetime, timedelta

import polars as pl
import pytest

import mamba_stream as mamba
from tests import forking
from tests.served import serving
from tests.server.running import alive, children, until

ROWS = 600
PIPELINE = """
import mamba_stream as mamba
import polars as pl

rows = mamba.stream("in", idle="1d").with_columns(bucket=pl.col("value") % 5)
counted = rows.window(mamba.tumbling("1m"), by="bucket").agg(rows=pl.len(), total=pl.col("value").sum())
pipeline = mamba.pipeline("counting", counted.to("out"))
"""


def rows(first: int) -> pl.DataFrame:
    numbers = range(first, first + ROWS)
    start = datetime(2024, 1, 1)
    return pl.DataFrame({"value": numbers, "at": [start + timedelta(seconds=number) for number in numbers]})


def append(log: mamba.Log, first: int) -> None:
    for number, part in enumerate(rows(first).iter_slices(50)):
        log["in"].append(part, partition=number % 3)


EMBEDDED = pytest.mark.parametrize(
    "place", ["embedded", pytest.param("served", marks=pytest.mark.slow)], indirect=True
)
SERVED = pytest.mark.parametrize(
    "place", ["served", pytest.param("embedded", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def place(request, tmp_path):
    """Where the log is, as a process is told it."""
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("in", rows(0), partitions=3, time="at")
        append(log, 0)
    (tmp_path / "counting.py").write_text(PIPELINE)
    if request.param == "embedded":
        yield str(tmp_path / "log")
    else:
        with serving(tmp_path / "log") as address:
            yield address


@contextmanager
def running(place, tmp_path, environment, *options):
    """A job in a process of its own, which is at work when this is entered."""
    command = [sys.executable, "-m", "mamba_stream.cli", "run", "counting.py", "--log", place, *options]
    with forking.Process(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    ) as job:
        try:
            with mamba.open(place) as log:
                while commits(log) == 0:
                    assert job.poll() is None, job.stderr.read()
                    log.wait(log.heard(), 0.5)
                yield job
        finally:
            job.kill()


def commits(log):
    from mamba_stream.runtime.jobs import list_jobs

    return sum(job.commits for job in list_jobs(log) if job.where)


def expected(count: int) -> list:
    return (
        pl.concat(rows(first) for first in range(0, count, ROWS))
        .with_columns(bucket=pl.col("value") % 5, window_start=pl.col("at").dt.truncate("1m"))
        .group_by("bucket", "window_start")
        .agg(rows=pl.len().cast(pl.Int64), total=pl.col("value").sum())
        .sort("bucket", "window_start")
        .rows()
    )


def finish(place, run_command):
    """Ends the topic, runs the job to its end with two workers, and gives what it has put out in all."""
    with mamba.open(place) as log:
        log["in"].end()
    done = run_command("run", "counting.py", "--workers", "exactly:2", "--log", place)
    assert done.code == 0, done.err
    with mamba.open(place) as log:
        found = log["out"].scan().select("bucket", "window_start", "rows", "total").collect()
    return found.with_columns(pl.col("rows").cast(pl.Int64)).sort("bucket", "window_start").rows()


def check_description(found, workers):
    """What any job says of itself while it runs."""
    assert (found["job"], found["state"], found["workers"]) == ("counting", "running", workers)
    assert found["stages"][0]["what"].startswith("in: ")
    assert {task["worker"] for task in found["tasks"]} <= {*range(workers), None}
    for task in found["tasks"]:
        assert task["busy"] + task["idle"] + task["backpressured"] == pytest.approx(1)
    # Which of them its commits have come to is up to it; that it is told of the same rows is not.
    assert all(one["position"] + one["lag"] == ROWS // 3 for one in found["reading"])
    assert found["errors"] == []


@EMBEDDED
def test_a_job_of_one_task_is_stopped_from_elsewhere(
    place, tmp_path, environment, spawn_command, monkeypatch
):
    with running(place, tmp_path, environment, "--commit", "200ms") as job:
        (listed,) = spawn_command("job", "list", "-o", "json", "--log", place).json
        assert (listed["state"], listed["workers"]) == ("running", 1)
        assert f"process {job.pid}" in listed["where"]
        described = spawn_command("job", "describe", "counting", "-o", "json", "--log", place)
        check_description(described.json, workers=1)
        stopped = spawn_command("job", "stop", "counting", "--log", place)
        assert (stopped.code, stopped.err) == (0, "")
        assert stopped.out.startswith("counting stopped: 600 rows in")
        assert job.wait(60) == 0
        assert job.stdout.read().startswith("counting stopped: 600 rows in")
    again = spawn_command("job", "stop", "counting", "--log", place)
    assert again.code == 1 and "does not run (stopped)" in again.err
    assert spawn_command("job", "stop", "countin", "--log", place).code == 3


@SERVED
def test_a_job_over_workers_is_rescaled_and_stopped_from_elsewhere(
    place, tmp_path, environment, spawn_command, run_command, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with running(place, tmp_path, environment, "--workers", "exactly:2", "--commit", "200ms") as job:
        rescaled = spawn_command("job", "rescale", "counting", "3", "--log", place)
        assert (rescaled.code, rescaled.err) == (0, "")
        assert rescaled.out == "counting has 3 workers\n"
        workers = children(job.pid)
        assert len(workers) == 3
        described = spawn_command("job", "describe", "counting", "-o", "json", "--log", place).json
        check_description(described, workers=3)
        assert {*described["processes"].values()} == {*workers}
        with mamba.open(place) as log:
            append(log, ROWS)
        stopped = spawn_command("job", "stop", "counting", "--log", place)
        assert stopped.code == 0, stopped.err
        assert job.wait(60) == 0
        assert not any(map(alive, workers))
    happened = [
        json.loads(line)["what"]
        for line in spawn_command("job", "logs", "counting", "-o", "json", "--log", place).out.splitlines()
    ]
    assert happened[0] == "started" and happened[-1] == "stopped"
    assert "rescaled" in happened and "moved" in happened
    assert finish(place, run_command) == expected(2 * ROWS)


@EMBEDDED
def test_a_job_over_workers_is_cancelled_from_elsewhere(
    place, tmp_path, environment, spawn_command, run_command, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with running(place, tmp_path, environment, "--workers", "exactly:2", "--commit", "200ms") as job:
        workers = children(job.pid)
        cancelled = spawn_command("job", "cancel", "counting", "--log", place)
        assert cancelled.code == 0, cancelled.err
        assert cancelled.out.startswith("counting cancelled")
        assert job.wait(60) == 0
        assert not any(map(alive, workers))
    assert finish(place, run_command) == expected(ROWS)


@SERVED
def test_a_job_that_was_killed_is_not_waited_for(place, tmp_path, environment, spawn_command):
    with running(place, tmp_path, environment, "--commit", "200ms") as job:
        job.send_signal(signal.SIGSTOP)
        command = [sys.executable, "-m", "mamba_stream.cli", "job", "stop", "counting", "--log", place]
        with (
            forking.Process(command, env=environment, stderr=subprocess.PIPE, text=True) as asking,
            mamba.open(place) as log,
        ):
            until(lambda: log.records("jobs.requests/counting"), "the request")
            job.kill()
            assert asking.wait(60) == 1
            assert "ended before it heard of that" in asking.stderr.read()
    with running(place, tmp_path, environment, "--commit", "200ms") as job:
        with mamba.open(place) as log:
            assert log.records("jobs.requests/counting") == {}
        assert job.poll() is None
        assert spawn_command("job", "stop", "counting", "--log", place).code == 0
