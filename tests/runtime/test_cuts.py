"""What Polars computes otherwise over one row, and ties, must not show how rows were cut into batches."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.log import Topic
from mamba_stream.operators import window
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.model import EPOCH, Row, frame

NUMBER = pl.col("value")
FLOOR = (NUMBER / 49).floor()
"""Of 49 it is 1.0 in a frame of one row and 0.0 in any longer one."""


def cut(log: mamba.Log, stream: mamba.Stream, rows: int) -> pl.DataFrame:
    """What a stream gives where a step reads at most so many rows."""
    made = mamba.pipeline(f"by{rows}", stream.to(f"by{rows}"))
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=rows)
    run = Run(made, log, options, SystemClock())
    while run.step():
        pass
    run.commit("finished")
    return log[f"by{rows}"].scan().collect()


@pytest.fixture
def equal(topic: Topic) -> Topic:
    """Five appends of a row each, of five windows, whose values are one and the same."""
    for time in range(0, 50, 10):
        topic.append(frame([Row(time, "a", 49)]), partition=0)
    topic.end()
    return topic


@pytest.mark.parametrize(
    "verbs",
    [
        lambda rows: rows.with_columns(made=FLOOR),
        lambda rows: (
            rows.with_columns(value=pl.lit(49))
            .inspect(lambda _: None)
            .with_columns(made=FLOOR)  # two queries
        ),
        lambda rows: (
            rows.drop("value")
            .join(pl.DataFrame({"key": ["a"], "value": [49]}), on="key")
            .with_columns(made=FLOOR)
        ),
        lambda rows: rows.map_batches(
            lambda batch: batch.with_columns(value=pl.lit(49, dtype=pl.Int64))
        ).with_columns(made=FLOOR),
        lambda rows: rows.window(mamba.tumbling("10s")).agg(made=FLOOR.unique()),
        lambda rows: rows.window(mamba.tumbling("10s")).agg(made=(NUMBER.cum_sum().last() / 49).floor()),
        lambda rows: rows.window(mamba.tumbling("10s")).agg(made=(NUMBER.sum() / 49).floor()),
        lambda rows: rows.window(mamba.tumbling("10s")).agg(NUMBER.max()).with_columns(made=FLOOR),
        lambda rows: rows.window(mamba.tumbling("10s")).agg(value=pl.lit(49)).with_columns(made=FLOOR),
        lambda rows: (
            rows.window(mamba.tumbling("10s"))
            .agg(NUMBER.max())
            .with_columns(most=NUMBER.max().over("window_start"))
            .filter(FLOOR <= 1)
            .with_columns(made=(pl.col("most") / 49).floor())
        ),
        lambda rows: (
            rows.window(mamba.tumbling("10s"), by="key")
            .agg(NUMBER.max())
            .with_columns(made=(NUMBER.max() / 49).floor().over("window_start"))
        ),
        lambda rows: (
            rows.with_columns(value=pl.lit(49)).window(mamba.tumbling("10s")).agg(made=FLOOR.sum().round())
        ),
    ],
    ids="rows literal lookup function kept-rows kept-result partials window window-literal over-fused over aggregate".split(),
)
def test_equal_rows_give_equal_results_however_many_come_at_once(log, equal, verbs):
    stream = verbs(mamba.stream("rows"))
    found = [cut(log, stream, rows).get_column("made").to_list() for rows in (1, 2, 3, 5)]
    assert all(one == found[0] for one in found)
    assert len(set(map(str, found[0]))) == 1


@pytest.mark.parametrize(
    "verbs",
    [
        lambda rows: rows.filter(pl.col("key") == "a").with_columns(made=FLOOR),
        lambda rows: (
            rows.select("key", "value").filter(pl.col("key") == "a").inspect(lambda _: None).select(FLOOR)
        ),
        lambda rows: rows.filter(pl.col("key") == "a").window(mamba.tumbling("10s")).agg(made=FLOOR.sum()),
    ],
    ids=["one query", "two queries", "window"],
)
def test_a_row_that_is_left_alone_of_a_partition_or_batch_is_as_any_other(log, verbs):
    """Batches too large to be joined, of two partitions, each with one row that a filter leaves."""
    others = [Row(0, "b", 49)] * 20_000
    topic = log.create_topic("apart", frame(others), partitions=2, time="ts")
    for partition in (0, 0, 1):
        topic.append(frame([*others, Row(1, "a", 49)]), partition=partition)
    topic.end()
    made = verbs(mamba.stream("apart"))
    assert set(made.collect(log=log).to_series(-1)) <= {0.0}


def test_rows_that_come_by_two_ways_from_one_are_ordered_by_the_way(log, topic):
    topic.append(frame([Row(1, "a", number) for number in range(70_000)]), partition=0)
    topic.end()
    rows = mamba.stream("rows")
    both = mamba.concat([rows.with_columns(way=pl.lit(way)) for way in ("one", "two")])
    result = both.window(mamba.tumbling("10s")).agg(
        first=pl.struct("value", "way").first(),
        earliest=pl.col("way").first(),
        latest=pl.col("way").last(),
        ways=pl.col("way"),
    )
    for size in (1_000, 100_000):
        (found,) = cut(log, result, size).select("first", "earliest", "latest", "ways").rows()
        assert found[:3] == ({"value": 0, "way": "one"}, "one", "two")
        assert found[3] == ["one", "two"] * 70_000


def test_overlapping_windows_that_are_too_many_to_be_closed_at_once_come_in_portions(log, topic, monkeypatch):
    times = [*range(0, 300, 7), 2_000, 2_001, 9_000]
    topic.append(frame([Row(time, "ab"[time % 2], time) for time in times]), partition=0)
    topic.end()
    stream = (
        mamba.stream("rows")
        .window(mamba.hopping("1m", "5s"), by="key")
        .agg(count=pl.len(), listed=pl.col("value"))
    )
    whole = cut(log, stream, 10_000)
    monkeypatch.setattr(window, "_MOST_COPIES", 60)
    portions = cut(log, stream, 9_999)
    assert portions.equals(whole)
    assert whole.get_column("count").sum() == 12 * len(times)
    few = cut(log, stream, 3)
    assert few.sort("window_start", "key").equals(whole)
    starts = whole.filter(pl.col("listed").list.contains(2_000)).get_column("window_start")
    assert starts[0] == EPOCH + timedelta(seconds=1_945)


def test_rows_behind_the_watermark_add_no_partial_results_of_their_own(log, topic):
    # Each meets another watermark, and all are in time for windows that are still open.
    times = [second for pair in zip(range(600, 1_100), range(570, 1_070), strict=True) for second in pair]
    topic.append(frame([Row(time, "a", 1) for time in times]), partition=0)
    stream = mamba.stream("rows").window(mamba.hopping("1m", "10s"), by="key").agg(count=pl.len())
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False)
    run = Run(mamba.pipeline("job", stream.to("out")), log, options, SystemClock())
    run.step()
    (step,) = run.engine.flow.steps.values()
    assert step.rows < 120
