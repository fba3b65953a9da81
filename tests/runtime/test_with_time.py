"""Time that is set later: judged per partition, in its order, whatever the batches; and when rows were appended."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.desk import ManualClock
from tests.runtime.model import EPOCH, SEEDS, Row, cuts, expect, frame, partitions
from tests.runtime.test_same_rows import MEMORY, crash_along, late_in, late_of, one_step
from tests.sizes import examples

RAW = pl.Schema({"text": pl.String, "key": pl.String, "value": pl.Int64})
LATENESS = st.sampled_from([0, 5, 20])


def raw(rows: list[Row]) -> pl.DataFrame:
    """The rows with their time as text, which has to be decoded."""
    return frame(rows).select(pl.col("ts").dt.to_string("%Y-%m-%d %H:%M:%S").alias("text"), "key", "value")


def decoded(source: mamba.Stream, lateness: int) -> mamba.Stream:
    time = pl.col("text").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms")
    return source.select("key", "value", ts=time).with_time("ts", lateness=f"{lateness}s")


def counted(stream: mamba.Stream) -> mamba.Stream:
    return stream.window(mamba.hopping("10s", "5s"), by="key").agg(
        count=pl.len(), first=pl.col("value").first(), listed=pl.col("value")
    )


def check(parts, lateness, out, late, rejected):
    expected = expect(parts, lateness=lateness, size=10, every=5)
    windows = [
        (key, EPOCH + timedelta(seconds=start), len(rows), rows[0].value, [row.value for row in rows])
        for (key, start), rows in expected.windows.items()
    ]
    found = out.select("key", "window_start", "count", "first", "listed").rows()
    assert sorted(found, key=repr) == sorted(windows, key=repr)
    assert late_in(late) == late_of(expected)
    missing = sorted((row.key, row.value) for row in expected.rejected if row.key)
    assert sorted(rejected.filter(pl.col("key").is_not_null()).select("key", "value").rows()) == missing
    assert rejected.height == len(expected.rejected)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(), lateness=LATENESS, seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(rows, lateness, seed):
    chance = np.random.default_rng(seed)
    timed = decoded(mamba.stream("rows"), lateness)
    windows = counted(timed)
    outputs = (windows.to("out"), windows.late.to("late"), timed.rejected.to("rejected"))
    made = mamba.pipeline("job", *outputs)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", RAW, partitions=len(rows))
        crash_along(log, made, [(number, raw(batch)) for number, batch in cuts(rows, chance)], chance)
        topic.end()
        run = one_step(log, made, 7)
        while run.step():
            pass
        run.commit("finished")
        check(rows, lateness, *(log[name].scan().collect() for name in ("out", "late", "rejected")))
        assert run.rejected == sum(row.time is None for part in rows for row in part)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(most=1), lateness=LATENESS)
def test_collecting_a_frame_gives_the_models_windows(rows, lateness):
    timed = decoded(mamba.stream(raw(rows[0])), lateness)
    windows = counted(timed)
    check(rows, lateness, windows.collect(), windows.late.collect(), timed.rejected.collect())


def test_partitions_are_read_by_the_time_that_their_rows_get(log):
    topic = log.create_topic("rows", RAW, partitions=2)
    for begin in range(0, 1_000, 10):
        topic.append(raw([Row(begin + number // 10, "a", 1) for number in range(100)]), partition=0)
        topic.append(raw([Row(begin + number, "b", 1) for number in range(10)]), partition=1)
    topic.end()
    windows = counted(decoded(mamba.stream("rows"), 0))
    run = one_step(log, mamba.pipeline("job", windows.to("out")), 100)
    most = 0
    window = run.engine.flow.steps[run.analysis.steps[-1]]
    while run.step():
        most = max(most, window.rows)
    assert most <= 500


def test_two_sources_keep_their_own_time_and_the_slower_decides(log):
    for name in ("one", "other"):
        log.create_topic(name, RAW)
    log["one"].append(raw([Row(1, "a", 1), Row(100, "a", 1)]))
    log["other"].append(raw([Row(2, "a", 1)]))
    both = mamba.concat([mamba.stream("one"), mamba.stream("other")])
    made = mamba.pipeline("job", counted(decoded(both, 0)).to("out"))
    mamba.run(made, log, until="now")
    assert log["out"].offsets() == {0: (0, 0)}
    log["other"].append(raw([Row(50, "a", 1)]))
    mamba.run(made, log, until="now")
    assert log["out"].scan().collect().get_column("count").to_list() == [2, 2]


def test_it_is_refused_where_rows_have_no_order_and_where_the_column_is_no_time():
    stream = mamba.stream(frame([Row(1, "a", 1)]), time="ts")
    windows = stream.window(mamba.tumbling("1s")).agg(pl.len())
    with pytest.raises(mamba.PipelineRefused, match="call it before"):
        windows.with_time("window_start")
    with pytest.raises(mamba.ColumnNotFound, match="no column 'when'"):
        stream.with_time("when")
    with pytest.raises(mamba.PipelineRefused, match="is Int64"):
        stream.with_time("value")
    with pytest.raises(mamba.InvalidInput, match="whole ms"):
        stream.with_time("ts", lateness="1us")
    with pytest.raises(mamba.PipelineRefused, match="name of a column"):
        stream.with_time(pl.col("ts"))


def append(log: mamba.Log, *values: int) -> None:
    log["rows"].append(pl.DataFrame({"value": list(values)}))


def test_rows_have_the_time_when_they_were_appended(log):
    log.create_topic("rows", {"value": pl.Int64})
    before = datetime.now(UTC).replace(tzinfo=None)
    append(log, 1, 2)
    append(log, 3)
    stream = mamba.stream("rows", time=mamba.append_time)
    found = stream.collect(log)
    assert found.columns == ["value", "append_time"]
    assert found.schema["append_time"] == pl.Datetime("us")
    times = found.get_column("append_time")
    assert times.is_sorted()
    assert times.n_unique() == 2
    assert before <= times[0] <= times[2] <= datetime.now(UTC).replace(tzinfo=None)
    daily = stream.window(mamba.tumbling("1d")).agg(count=pl.len(), first=pl.col("value").first())
    assert daily.collect(log).get_column("count").sum() == 3
    # The same however often they are read, and where nothing else is.
    assert stream.select("append_time").collect(log).to_series().to_list() == times.to_list()


def test_what_is_read_to_a_moment_goes_by_when_it_was_appended(log):
    log.create_topic("rows", {"value": pl.Int64})
    append(log, 1)
    moment = datetime.now(UTC)
    append(log, 2)
    made = mamba.pipeline("job", mamba.stream("rows", time=mamba.append_time).to("out"))
    mamba.run(made, log, until=moment)
    assert log["out"].scan().collect().get_column("value").to_list() == [1]


def test_append_time_is_refused_where_there_is_none_or_its_column_is_taken(log):
    with pytest.raises(mamba.PipelineRefused, match="for topics"):
        mamba.stream(pl.DataFrame({"value": [1]}), time=mamba.append_time)
    topic = log.create_topic("rows", {"append_time": pl.Datetime("us")})
    with pytest.raises(mamba.PipelineRefused, match="the topic has one"):
        topic.stream(time=mamba.append_time)


def follower(log: mamba.Log, clock: ManualClock, memory: int) -> Run:
    options = RunOptions(until="stopped", anew=False, memory=memory, commit=0.0, skip_gaps=False, rows=100)
    both = mamba.concat(
        [mamba.stream("fast", time="ts", idle="30s"), mamba.stream("slow", time="ts", idle="30s")]
    )
    made = mamba.pipeline("job", both.window(mamba.tumbling("10s")).agg(count=pl.len()).to("out"))
    return Run(made, log, options, clock)


def test_a_source_that_runs_ahead_waits_for_another_until_that_is_idle(log):
    clock, memory = ManualClock(), 400_000
    fast, slow = (
        log.create_topic(name, {"ts": pl.Datetime("ms"), "value": pl.Int64}) for name in ("fast", "slow")
    )

    def rows(first: int, count: int) -> pl.DataFrame:
        return frame([Row(first + number, "a", 1) for number in range(count)]).select("ts", "value")

    for first in range(0, 20_000, 100):
        fast.append(rows(first, 100))
    slow.append(rows(0, 1))
    run = follower(log, clock, memory)
    while run.step():
        pass
    read = run.rows_in
    # Of eight bytes for each row: only its time is needed.
    assert memory // 8 < 8 * read < memory // 4
    assert run.engine.waiting == {"fast": (0,)}
    # What brings time forward lets it go on.
    slow.append(rows(read, 1))
    while run.step():
        pass
    assert run.rows_in > read + memory // 8 // 8
    stood = run.rows_in
    clock.seconds += 29
    assert run.step() == 0
    assert run.rows_in == stood
    clock.seconds += 2
    assert run.step() == 0  # the last time that it was asked in vain
    while run.step():
        pass
    assert run.rows_in == 20_002 and run.engine.waiting == {}


def test_catching_up_waits_for_nobody(log):
    fast, slow = (
        log.create_topic(name, {"ts": pl.Datetime("ms"), "value": pl.Int64}) for name in ("fast", "slow")
    )
    times = frame([Row(number, "a", 1) for number in range(30_000)]).select("ts", "value")
    for batch in times.iter_slices(100):
        fast.append(batch)
    for batch in times.gather_every(10).iter_slices(100):
        slow.append(batch)
    run = follower(log, ManualClock(), 400_000)
    steps = 0
    while run.step():
        steps += 1
    assert run.rows_in == 33_000
    assert steps <= 2 + 33_000 // 100
