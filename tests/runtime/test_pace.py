"""How much a run does at a time, and when it commits, where a latency is wanted."""

from __future__ import annotations

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given
from msgspec.structs import replace

import mamba_stream as mamba
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.pace import Pace
from mamba_stream.runtime.run import Run
from tests.runtime.desk import ManualClock, put


class SlowClock(ManualClock):
    """A second goes by whenever it is looked at."""

    def monotonic(self) -> float:
        self.seconds += 1
        return self.seconds


def test_without_a_latency_a_turn_is_as_long_as_is_efficient():
    pace = Pace(None, most=500_000)
    pace.took(500_000, 60.0)
    assert (pace.rows, pace.patience) == (500_000, None)


@given(rate=st.floats(1e4, 1e9), latency=st.floats(0.001, 10.0))
def test_turns_come_to_last_a_quarter_of_the_latency(rate, latency):
    pace = Pace(latency, most=524_288)
    for _ in range(30):
        pace.took(pace.rows, pace.rows / rate)
    wanted = latency / 4 * rate
    assert pace.rows == pytest.approx(min(max(wanted, 1_024), 524_288), abs=1)


def test_turns_with_few_rows_say_nothing_of_turns_with_many():
    pace = Pace(0.02, most=524_288)
    before = pace.rows
    pace.took(10, 0.001)
    pace.took(0, 1.0)
    assert pace.rows == before
    pace.took(10, 0.5)
    assert pace.rows == before // 4, "but that took too long"


def test_sources_that_cannot_say_when_they_have_rows_are_asked_often_after_rows_came_and_then_rarely():
    pace, hasty = Pace(None, most=1_000), Pace(0.02, most=1_000)
    pace.took(5, 0.1)
    waits = []
    for _ in range(8):
        waits.append(pace.ask)
        pace.took(0, 0.0)
        hasty.took(0, 0.0)
    assert waits == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02, 0.02]
    assert hasty.ask == 0.005, "no more rarely than the latency bears"
    pace.took(1, 0.1)
    assert pace.ask == 0.001


def test_results_are_committed_as_soon_as_the_latency_wants_it(log, topic):
    counts = mamba.stream("rows").window(mamba.tumbling("10s"), by="key").agg(count=pl.len())
    pipeline = mamba.pipeline("job", counts.to("out"))
    clock = ManualClock()
    run = Run(pipeline, log, run_options(until="stopped", commit="1h", latency="20ms"), clock)
    put(topic, 0, (1, "a", 1))
    put(topic, 1, (1, "b", 1))
    run.step()
    clock.seconds += 1
    assert not run.commit_due, "nothing came out that somebody waits for"
    put(topic, 0, (30, "a", 1))
    put(topic, 1, (30, "b", 1))
    run.step()
    assert not run.commit_due
    assert run.seconds_to_next() == pytest.approx(0.005)
    clock.seconds += 0.005
    assert run.commit_due
    run.begin_commit()
    run.end_commit()
    assert log["out"].scan().collect().height == 2
    clock.seconds += 1
    assert not run.commit_due
    run.commit("stopped")


def test_a_run_with_a_latency_reads_little_at_a_time_and_gives_the_same_rows(log, topic):
    for number in range(30):
        put(topic, number % 2, *((number, "a", row) for row in range(200)))
    topic.end()
    counts = mamba.stream("rows").window(mamba.tumbling("10s"), by="key").agg(count=pl.len())
    options = replace(run_options(latency="1us"), rows=4_096)
    run = Run(mamba.pipeline("job", counts.to("out")), log, options, SlowClock())
    turns = []
    while not run.over:
        turns.append(run.step())
        run.rest()
    assert turns[0] > 2_000
    assert all(rows <= 1_024 + 200 for rows in turns[1:]), "whole batches are read"
    assert sum(turns) == 6_000
    run.commit("finished")
    assert log["out"].scan().select("count").collect().to_series().to_list() == [2_000] * 3


@pytest.mark.parametrize("latency", ["soon", "0s", "-1s"])
def test_a_latency_that_cannot_be_is_refused(log, topic, latency):
    pipeline = mamba.pipeline("job", mamba.stream("rows").to("out"))
    with pytest.raises(mamba.InvalidInput, match="latency"):
        mamba.run(pipeline, log, until="now", latency=latency)
    assert "out" not in log
