"""A running pipeline that is killed anywhere, and started again, gives the rows of one that was left in peace."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from tests import forking
from tests.crash.pipeline_job import OUTPUTS, SCHEMA, build

_PARTITIONS = 3


def some_rows(rng: random.Random) -> Iterator[list[dict[str, Any]]]:
    """Disordered events, a few at a time, without an end."""
    moment = datetime(2026, 1, 1)
    number = 0
    while True:
        rows = []
        for _ in range(rng.randint(1, 60)):
            moment += timedelta(milliseconds=rng.randint(0, 700))
            # A few come minutes too late: their windows are closed.
            behind = rng.choice([0, 0, 0, 5, 15, 30, 200]) * rng.random()
            rows.append(
                {
                    "at": moment - timedelta(seconds=behind),
                    "key": rng.choice(["a", "b", "c", None]),
                    "value": rng.randint(-10, 100),
                    "number": number,
                }
            )
            number += 1
        yield rows


class Appender(threading.Thread):
    """Appends disordered events all the while, a few at a time, and ends the topic when it is told to."""

    def __init__(self, log: mamba.Log, seed: int) -> None:
        super().__init__()
        self._topic = log["events"]
        self._random = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        events = some_rows(self._random)
        while not self._over.wait(0.004):
            self._topic.append(next(events), partition=self._random.randrange(_PARTITIONS))
        self._topic.end()

    def finish(self) -> None:
        self._over.set()
        self.join()


def begin(log: Path, environment: dict[str, str]) -> forking.Process:
    process = forking.Process(
        [sys.executable, "-m", "tests.crash.pipeline_job", str(log), "killed"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "running\n", f"the job did not begin: {line!r}"
    return process


def commits_of(log: mamba.Log, job: str) -> int:
    """How far the job's state topic has come: one batch a commit."""
    return sum(end for _, end in log[f"_state.{job}"].offsets().values())


def wait_for_commits(log: mamba.Log, job: str, more: int) -> None:
    """Returns once the job has committed so many times more."""
    goal = commits_of(log, job) + more
    deadline = time.monotonic() + 60
    while commits_of(log, job) < goal:
        assert time.monotonic() < deadline, f"{job} did not commit {more} times within a minute"
        log.wait(log.lsn(), 0.05)


def result(log: mamba.Log, job: str, output: str) -> pl.DataFrame:
    frame = log[f"{job}.{output}"].scan().collect()
    return frame.sort(frame.columns)


@pytest.mark.parametrize(
    "kills", [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.slow)]
)
def test_a_pipeline_killed_anywhere_gives_the_rows_of_an_undisturbed_run(
    tmp_path: Path, environment: dict[str, str], kills: int
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {kills} kills")
    moments = random.Random(seed)
    path = tmp_path / "log"
    with mamba.open(path) as log:
        log.create_topic("events", SCHEMA, partitions=_PARTITIONS, time="at")
        appender = Appender(log, seed)
        appender.start()
        try:
            for _ in range(kills):
                with begin(path, environment) as process:
                    # Some die before their first commit, the others somewhere behind a few.
                    wait_for_commits(log, "killed", moments.randint(0, 5))
                    time.sleep(moments.uniform(0.0, 0.02))
                    assert process.poll() is None, "the job ended by itself"
                    process.kill()
        finally:
            appender.finish()
        with begin(path, environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "done\n"
        assert process.returncode == 0

        summary = mamba.run(build("peaceful"), log=log)
        assert summary.late > 0, "no row came too late: lateness was not tried"
        for output in OUTPUTS:
            killed, peaceful = result(log, "killed", output), result(log, "peaceful", output)
            assert peaceful.height > 0
            assert_frame_equal(killed, peaceful)
    assert examine(path).sound
