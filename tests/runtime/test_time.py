"""How time passes over several partitions and sources, and what silence does to it."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from mamba_stream.runtime.watermarks import PartitionTime, mark_of
from tests.runtime.desk import ManualClock, put


def following(log: mamba.Log, pipeline: mamba.Pipeline, clock: ManualClock) -> Run:
    options = RunOptions(until="stopped", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False)
    return Run(pipeline, log, options, clock)


def counts(log: mamba.Log, name: str = "out") -> list[int]:
    return log[name].scan().collect().get_column("count").to_list()


@pytest.fixture
def pipeline() -> mamba.Pipeline:
    windowed = mamba.stream("rows", idle="30s").window(mamba.tumbling("10s")).agg(count=pl.len())
    return mamba.pipeline("job", windowed.to("out"), windowed.late.to("late"))


def turn(run: Run) -> None:
    while run.step():
        pass
    run.commit("running")


def test_the_slowest_partition_holds_back_time(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    put(topic, 1, (2, "a", 1))
    run = following(log, pipeline, ManualClock())
    turn(run)
    assert counts(log) == []
    put(topic, 1, (11, "a", 1))
    turn(run)
    assert counts(log) == [2]


def test_a_partition_that_is_silent_for_long_no_longer_does_and_what_it_brings_then_is_late_for_idleness(
    log, topic, pipeline
):
    clock = ManualClock()
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    put(topic, 1, (2, "a", 1))
    run = following(log, pipeline, clock)
    turn(run)
    clock.seconds += 29
    turn(run)
    assert counts(log) == []
    # Partition 0 says something before its own thirty seconds are over; partition 1 does not.
    put(topic, 0, (101, "a", 1))
    turn(run)
    clock.seconds += 2
    turn(run)
    assert counts(log) == [2]
    put(topic, 1, (3, "a", 7), (99, "a", 8))
    turn(run)
    late = log["late"].scan().collect()
    assert late.select("value", "late_reason").rows() == [(7, "idle"), (8, "idle")]
    assert run.engine.flow.late[run.analysis.steps[0]].by_idleness == 2


def test_a_partition_that_never_had_a_row_holds_back_time_until_it_is_idle(log, topic, pipeline):
    clock = ManualClock()
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    run = following(log, pipeline, clock)
    turn(run)
    clock.seconds += 29
    put(topic, 0, (101, "a", 1))
    turn(run)
    assert counts(log) == []
    clock.seconds += 1
    turn(run)
    assert counts(log) == [1]


def test_whether_a_partition_is_idle_is_asked_anew_after_a_restart(log, topic, pipeline):
    clock = ManualClock()
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    put(topic, 1, (2, "a", 1))
    run = following(log, pipeline, clock)
    turn(run)
    clock.seconds += 31
    put(topic, 0, (101, "a", 1))
    turn(run)
    assert counts(log) == [2]
    # While nobody looked, the idle partition caught up, and the other went far ahead.
    put(topic, 1, *((103 + number, "a", 1) for number in range(5)))
    put(topic, 0, (500, "a", 1))
    run = following(log, pipeline, clock)
    turn(run)
    assert counts(log) == [2]
    assert log["late"].offsets()[0][1] == 0


def test_reading_to_now_knows_no_silence(log, topic, pipeline):
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    clock = ManualClock()
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False)
    run = Run(pipeline, log, options, clock)
    turn(run)
    clock.seconds += 1_000
    turn(run)
    assert counts(log) == []


def test_an_ended_source_no_longer_holds_back_another(log, topic):
    put(topic, 0, (1, "a", 1), (100, "a", 1))
    put(topic, 1, (100, "a", 1))
    table = pl.DataFrame({"ts": [None], "key": ["x"], "value": [0]}, schema=topic.polars_schema)
    both = mamba.concat([mamba.stream("rows"), mamba.stream(table, time="ts")])
    pipeline = mamba.pipeline("job", both.window(mamba.tumbling("10s")).agg(count=pl.len()).to("out"))
    run = following(log, pipeline, ManualClock())
    turn(run)
    assert counts(log) == [1]


def test_over_several_partitions_the_slowest_that_is_awake_decides():
    def at(greatest: int, idle: bool = False, ended: bool = False) -> PartitionTime:
        return PartitionTime(10, greatest=greatest, idle=idle, ended=ended)

    assert mark_of([at(50), at(30)]).watermark == 20
    assert mark_of([at(50), at(30, idle=True)]).watermark == 40
    assert mark_of([at(50, idle=True), at(30, idle=True)]).watermark == 40
    assert mark_of([at(50), at(NEVER)]).watermark == NEVER
    assert mark_of([at(50), at(30, ended=True)]).watermark == 40
    assert mark_of([at(50, ended=True), at(30, ended=True)]).watermark == FOREVER
    assert mark_of([]).watermark == NEVER


def test_a_window_of_windows_closes_after_the_windows_that_it_is_made_of(log, topic):
    put(topic, 0, *((second, "a", 1) for second in range(0, 130, 5)))
    put(topic, 1, (1_000, "b", 1))
    hourly = mamba.stream("rows").window(mamba.tumbling("10s"), by="key").agg(count=pl.len())
    coarse = hourly.window(mamba.tumbling("1m"), by="key").agg(count=pl.col("count").sum(), parts=pl.len())
    pipeline = mamba.pipeline("job", hourly.to("fine"), coarse.to("out"))
    mamba.run(pipeline, log, until="now")
    assert counts(log, "fine") == [2] * 12
    assert log["out"].scan().select("count", "parts").collect().rows() == [(12, 6), (12, 6)]
    topic.end()
    mamba.run(pipeline, log)
    out = log["out"].scan().select("key", "count", "parts").collect()
    assert out.rows() == [("a", 12, 6), ("a", 12, 6), ("a", 2, 1), ("b", 1, 1)]


def test_replaying_partitions_of_uneven_rates_keeps_few_windows_open(log, topic, pipeline):
    for begin in range(0, 1_000, 10):
        put(topic, 0, *((begin + number // 10, "a", 1) for number in range(100)))
        put(topic, 1, *((begin + number, "b", 1) for number in range(10)))
    topic.end()
    options = RunOptions(until=None, anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=100)
    run = Run(pipeline, log, options, ManualClock())
    (window,) = run.engine.flow.steps.values()
    most = 0
    while run.step():
        most = max(most, window.rows)
    run.commit("finished")
    assert sum(counts(log)) == 11_000
    # Read in turn, the slow partition would be nine hundred seconds ahead in the end.
    assert most <= 15
