"""The demo's proof: its worker process is killed at random moments, and the result is compared with Polars alone.

``python -m mamba_pipelines.demo_killed DIR`` is the worker: it says ``ready`` once it begins, and does all the work.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines import demo
from mamba_pipelines.flights import flights


@dataclass(frozen=True)
class Kill:
    """One death of the worker.

    Attributes:
        after: Seconds of work before it.
        flights: Rows that the topic of flights held then.
        results: Rows that the topic of results held then.
        too_late: The worker had finished before.
    """

    after: float
    flights: int
    results: int
    too_late: bool


def measure() -> float:
    """Seconds that the undisturbed work takes on this machine, in a log of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="mamba-demo-") as place,
        _worker(str(Path(place) / "log")) as worker,
    ):
        begun = time.perf_counter()
        worker.wait()
        _check(worker)
        return time.perf_counter() - begun


def killed(place: str, kills: int, whole: float, seed: int) -> Iterator[Kill]:
    """Work in the log of this place, killed at random moments and started again, until it is done.

    Args:
        place: A log without the demo's topics.
        kills: How many times.
        whole: Seconds of the undisturbed work; the moments lie within.
        seed: Makes them the same again.
    """
    generator = random.Random(seed)
    # One in each part of the work. What was not committed is done again: so the last ones do not come too late.
    moments = [0.9 * whole * (part + generator.random()) / kills for part in range(kills)]
    for before, moment in pairwise([0.0, *moments]):
        with _worker(place) as worker:
            try:
                worker.wait(moment - before)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
                too_late = False
            else:
                _check(worker)
                too_late = True
        yield _kill(place, moment - before, too_late)
    with _worker(place) as worker:
        worker.wait()
        _check(worker)


def differences(log: mamba.Log) -> list[str]:
    """What the topics hold that they should not, or lack; nothing where all is right."""
    delays, late = demo.expected()
    found = []
    for name, expected, order in (
        (demo.FLIGHTS, flights(), []),
        (demo.DELAYS, delays, ["window_start", "origin", "carrier"]),
        (demo.LATE, late, late.columns),
    ):
        have = log[name].scan().select(expected.columns).collect()
        try:
            assert_frame_equal(
                have.sort(order) if order else have,
                expected.sort(order) if order else expected,
                rel_tol=1e-9,
                abs_tol=0,
            )
        except AssertionError as error:
            found.append(f"{name}: {error}")
    return found


@contextmanager
def _worker(place: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that has begun; killed if it still runs at the end."""
    command = [sys.executable, "-m", "mamba_pipelines.demo_killed", place]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            if worker.stdout.readline() != "ready\n":
                _check(worker)
            yield worker
        finally:
            worker.kill()


def _check(worker: subprocess.Popen[str]) -> None:
    if worker.wait() != 0:
        assert worker.stderr is not None
        raise mamba.JobFailed(f"the worker process failed: {worker.stderr.read().strip()[-2000:]}")


def _kill(place: str, after: float, too_late: bool) -> Kill:
    with mamba.open(place) as log:
        rows = {
            name: sum(end - begin for begin, end in log[name].offsets().values()) if name in log else 0
            for name in (demo.FLIGHTS, demo.DELAYS)
        }
    return Kill(after, rows[demo.FLIGHTS], rows[demo.DELAYS], too_late)


if __name__ == "__main__":
    with mamba.open(sys.argv[1]) as opened:
        # What takes its time on the way here is loading, not work.
        flights()
        print("ready", flush=True)
        demo.work(opened)
