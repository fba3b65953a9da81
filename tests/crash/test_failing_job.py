"""A job gets an error from its Nth system call of a kind: it goes on, or fails with one of our own, and its next run comes
to the rows of one that was left in peace.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.log.doctor import examine
from tests import forking
from tests.crash.pipeline_job import OUTPUTS, SCHEMA
from tests.crash.test_pipeline_kill import result, some_rows
from tests.crash.tracing import counted, points, traced

pytestmark = pytest.mark.strace

JOB = "failing"
CALLS = ("write", "pwrite64", "pwritev", "pread64", "fdatasync", "ftruncate", "fallocate", "openat")
MORE = ("rename", "unlink", "flock", "mkdir")
_SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Jobs:
    """A topic, and runs of a job over copies of it."""

    def __init__(self, place: Path, seed: int) -> None:
        self._log = place / "log"
        self._copy = place / "copy"
        self._trace = place / "strace"
        rng = random.Random(seed)
        with mamba.open(self._log) as log:
            topic = log.create_topic("events", SCHEMA, partitions=3, time="at")
            events = some_rows(rng)
            for number in range(40):
                topic.append(next(events), partition=rng.randrange(3))
                if number == 20:
                    log.seal()
            topic.end()

    def begin(self, injection: str | None = None) -> tuple[int, str]:
        """Runs it over a copy, with a failure injected or none; with what it ended, and what it said."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._log, self._copy)
        return self.go_on(injection)

    def go_on(self, injection: str | None = None) -> tuple[int, str]:
        """The same, over what the last run has left."""
        command = [sys.executable, "-m", "tests.crash.failing_job", str(self._copy), JOB]
        process = forking.Process(command, stderr=subprocess.PIPE)
        with traced(process.pid, CALLS + MORE, self._trace, injection):
            complaint = process.communicate(timeout=60)[1].decode()
        return process.returncode, complaint

    def calls(self) -> Counter[str]:
        """How often each call was made by the last run."""
        return counted(self._trace)

    def rows(self) -> dict[str, pl.DataFrame]:
        """What the job has come to."""
        with mamba.open(self._copy) as log:
            found = {output: result(log, JOB, output) for output in OUTPUTS}
        assert examine(self._copy).sound
        return found


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("share", [pytest.param(3, id="3"), pytest.param(None, id="all", marks=_SLOW)])
def test_a_job_that_gets_an_error_anywhere_comes_to_the_same_rows(
    place: Path, seed: int, share: int | None, error: str
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: no failures can be injected into system calls")
    jobs = Jobs(place, seed)
    assert jobs.begin() == (0, "")
    counts, peaceful = jobs.calls(), jobs.rows()
    assert all(frame.height for frame in peaceful.values())
    wrong = []
    for call, number in points(counts, share, seed):
        code, complaint = jobs.begin(f"{call}:error={error}:when={number}")
        if code and "mamba_stream.errors." not in complaint:
            wrong.append(f"{error} at {call} {number}: {complaint}")
        code, complaint = jobs.go_on()
        if code:
            wrong.append(f"after {error} at {call} {number} it does not go on: {complaint}")
            continue
        rows = jobs.rows()
        wrong += [
            f"{error} at {call} {number}: {output}: {rows[output]}, not {frame}"
            for output, frame in peaceful.items()
            if not rows[output].equals(frame)
        ]
    assert wrong == []
