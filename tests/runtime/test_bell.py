"""Jobs that wait until somebody says that there is something, and sources that say so."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import polars as pl
import pytest
from msgspec.structs import replace

import mamba_stream as mamba
from mamba_connectors import files, python, synthetic
from mamba_stream.log import store
from mamba_stream.runtime import task as running
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.testing.clocks import Clock

FOREVER = 3_600.0
"""Whoever is not woken hangs, and the test with it."""
SCHEMA = {"number": pl.Int64}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[mamba.Log]:
    with mamba.open(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks of his own accord."""
    monkeypatch.setattr(store, "_SLOW_POLL", FOREVER)
    monkeypatch.setattr(running, "_LONG", FOREVER)


class Inbox:
    """A function that yields what is put, and counts how often it is asked in vain."""

    def __init__(self) -> None:
        self.wake: Any = None
        self.rows: SimpleQueue[Any] = SimpleQueue()
        self.vain = 0
        self.waits = threading.Event()

    def __call__(self, wake: Any) -> Iterator[Any]:
        self.wake = wake
        while True:
            if self.rows.empty():
                self.vain += 1
                self.waits.set()
                yield None
            elif (row := self.rows.get()) is None:
                return
            else:
                yield row

    def put(self, row: Any) -> None:
        self.waits.clear()
        self.rows.put(row)
        self.wake()

    def source(self) -> python.IterableSource:
        return python.source(self, schema=SCHEMA, wakes=True)


def run_of(log: mamba.Log, source: Any, clock: Clock, **more: Any) -> tuple[Run, list[int]]:
    rings: list[int] = []
    pipeline = mamba.pipeline("job", mamba.stream(source, idle="2h").to("out"))
    options = replace(run_options(until="stopped", commit="1h", memory=1 << 30), **more)
    return Run(pipeline, log, options, clock, lambda: rings.append(1)), rings


def test_a_reader_that_says_when_it_has_something_is_not_asked_before(log):
    inbox, clock = Inbox(), Clock()
    run, rings = run_of(log, inbox.source(), clock)
    for _ in range(50):
        assert run.step() == 0
    assert (inbox.vain, rings, run.seconds_to_next()) == (1, [], 60.0)
    inbox.rows.put({"number": 1})
    inbox.rows.put({"number": 2})
    inbox.wake()
    inbox.wake()
    assert rings == [1], "who is awake need not be woken"
    assert run.seconds_to_next() < 0.1
    assert run.step() == 2
    # It is asked for more without having to call.
    assert run.step() == 0
    assert run.step() == 0
    assert (inbox.vain, run.rows_in) == (3, 2)
    run.close()


def test_a_reader_may_say_that_it_will_have_something_later(log):
    inbox, clock = Inbox(), Clock()
    run, _ = run_of(log, inbox.source(), clock)
    run.step()
    inbox.wake(5.0)
    inbox.wake(2.0)
    inbox.wake(9.0)
    assert run.seconds_to_next() == pytest.approx(2.0)
    clock.advance("1s")
    assert run.step() == 0
    assert inbox.vain == 1
    assert run.seconds_to_next() == pytest.approx(1.0)
    clock.advance("1s")
    run.step()
    assert inbox.vain == 2
    assert run.seconds_to_next() == 60.0, "the call counted, and those for later with it"
    run.close()


def test_what_it_says_while_it_is_asked_counts(log):
    clock, asked = Clock(), []

    def hasty(wake):
        for _ in range(2):
            # Between its look and its answer something comes, in another thread.
            asked.append(1)
            other = threading.Thread(target=wake)
            other.start()
            other.join()
            yield None
        yield {"number": 1}

    run, rings = run_of(log, python.source(hasty, schema=SCHEMA, wakes=True), clock)
    assert [run.step(), run.step(), run.step()] == [0, 0, 1]
    assert len(rings) == 2
    run.close()


def test_a_source_that_cannot_say_so_is_asked_again_and_again(log):
    asked = []

    def silent():
        while True:
            asked.append(1)
            yield None

    run, _ = run_of(log, python.source(silent, schema=SCHEMA), Clock())
    for _ in range(5):
        run.step()
        assert run.seconds_to_next() <= 0.02
    assert len(asked) == 5
    run.close()


@pytest.mark.usefixtures("patient")
def test_a_job_sleeps_until_its_source_or_somebody_else_wakes_it(log, monkeypatch):
    turns = []
    step = Run.step
    monkeypatch.setattr(Run, "step", lambda run, most=None: (turns.append(1), step(run, most))[1])
    inbox = Inbox()
    pipeline = mamba.pipeline("job", mamba.stream(inbox.source()).to("out"))
    job = mamba.start(pipeline, log, commit="1h")
    for number in range(20):
        assert inbox.waits.wait(60)
        inbox.put({"number": number})
    assert inbox.waits.wait(60)
    job.checkpoint(60)
    assert log["out"].scan().collect()["number"].to_list() == list(range(20))
    assert len(turns) < 150, "a few turns for each call, however long it lasted"
    assert job.stop(60).rows_in == 20
    again = mamba.start(mamba.pipeline("other", mamba.stream(Inbox().source()).to("other")), log)
    again.cancel()
    assert again.status.state == "cancelled"


@pytest.mark.usefixtures("patient")
def test_the_end_of_a_source_wakes_its_job(log):
    inbox = Inbox()
    job = mamba.start(mamba.pipeline("job", mamba.stream(inbox.source()).to("out")), log, commit="1h")
    assert inbox.waits.wait(60)
    inbox.put(None)
    assert job.wait(60).state == "finished"


@pytest.mark.usefixtures("patient")
def test_lines_wake_the_job_that_waits_for_them(log):
    reading, writing = os.pipe()
    lines = mamba.stream(python.stdin("lines", stream=reading))
    job = mamba.start(mamba.pipeline("job", lines.to("out")), log, commit="1ms")
    lsn = log.lsn()
    for count in range(1, 6):
        os.write(writing, b"line\n")
        while log["out"].scan().collect().height < count:
            lsn = log.wait(lsn, FOREVER)
    os.close(writing)
    assert job.wait(60).rows_in == 5
    os.close(reading)


def test_rows_that_come_by_the_clock_are_not_asked_for_before(log):
    clock = Clock()
    paced = synthetic.source(rows=3, rate=0.5, paced=True, clock=clock)
    run, _ = run_of(log, paced, clock)
    assert [run.step(), run.step()] == [1, 0]
    assert run.seconds_to_next() == pytest.approx(2.0)
    clock.advance("2s")
    assert run.step() == 1
    run.close()


def test_a_directory_is_not_looked_at_before_its_time(log, tmp_path):
    (tmp_path / "in").mkdir()
    clock = Clock()
    watched = files.source(
        tmp_path / "in", format="csv", schema=SCHEMA, watch=True, every="5m", settle="0s", clock=clock
    )
    run, _ = run_of(log, watched, clock)
    assert run.step() == 0
    [feeds] = run._sources.outside.values()
    assert [feed.seconds_to_reading for feed in feeds.feeds] == [pytest.approx(300.0)]
    assert run.seconds_to_next() == pytest.approx(0.5), "then it looks for partitions"
    (tmp_path / "in" / "1.csv").write_text("number\n7\n")
    assert run.step() == 0
    clock.advance("5m")
    assert run.step() == 1
    run.close()
