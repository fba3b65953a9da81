"""The first row of each key is what a loop over the rows in the stream's order keeps, and late rows are told."""

from __future__ import annotations

from datetime import datetime, timedelta

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from tests.runtime.model import SEEDS
from tests.runtime.pipelines import tables
from tests.runtime.tables import crashed_and_resumed, memory_log, same
from tests.sizes import examples

KEYS = st.sampled_from([["key"], ["num"], ["small", "flag"], ["flt"], ["key", "day", "num"], None])
WITHIN = st.sampled_from([None, 0, 60, 3_600, 40_000])
BOUNDS = pytest.mark.filterwarnings("ignore:step .* keeps every key for ever")


def judged(parts: list[pl.DataFrame], lateness: int) -> tuple[pl.DataFrame, int]:
    """The rows on time, in the stream's order, and how many were late."""
    kept, late = [], 0
    for number, part in enumerate(parts):
        greatest = part.get_column("ts").cum_max().shift()
        on_time = (part.get_column("ts") >= greatest - timedelta(seconds=lateness)).fill_null(value=True)
        kept.append(part.with_row_index("o").with_columns(p=pl.lit(number)).filter(on_time))
        late += int((~on_time).sum())
    return pl.concat(kept).sort("ts", "p", "o").drop("p", "o"), late


def first_rows(rows: pl.DataFrame, key: list[str], within: int | None) -> pl.DataFrame:
    last: dict[str, datetime] = {}
    kept = []
    for number, row in enumerate(rows.iter_rows(named=True)):
        at = repr([row[name] for name in key])
        if at not in last or (within is not None and row["ts"] - last[at] > timedelta(seconds=within)):
            last[at] = row["ts"]
            kept.append(number)
    return rows[kept]


@BOUNDS
@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(tables(), min_size=1, max_size=3),
    key=KEYS,
    within=WITHIN,
    lateness=st.sampled_from([0, 3_000, 10_000_000]),
    seed=SEEDS,
)
def test_the_first_row_of_each_key_however_cut_and_wherever_crashed(parts, key, within, lateness, seed):
    rows, late = judged(parts, lateness)
    expected = first_rows(rows, key or rows.columns, within)
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, partitions=len(parts), time="ts")
        bound = None if within is None else f"{within}s"
        once = mamba.stream("rows", lateness=f"{lateness}s").unique(key, within=bound)
        made = mamba.pipeline("job", once.to("out"), once.late.to("late"))
        crashed_and_resumed(log, parts, made, np.random.default_rng(seed))
        same(log["out"].scan().collect(), expected)
        assert log["late"].scan().collect().height == late
        same(once.collect(log), expected)


@BOUNDS
@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=1), key=KEYS, seed=SEEDS)
def test_the_first_to_arrive_of_one_partition_is_the_first_in_it(parts, key, seed):
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, time="ts")
        once = mamba.stream("rows").unique(key, order="arrival")
        crashed_and_resumed(log, parts, mamba.pipeline("job", once.to("out")), np.random.default_rng(seed))
        same(log["out"].scan().collect(), parts[0].unique(key, keep="first", maintain_order=True))


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), within=st.sampled_from([60, 40_000]), seed=SEEDS)
def test_what_follows_the_first_rows_sees_them_in_order(table, within, seed):
    rows = table.with_row_index("i").sort("ts", "i").drop("i")
    firsts = first_rows(rows, ["key"], within)
    expected = firsts.group_by("flag", maintain_order=True).agg(
        pl.col("num").first(), last=pl.col("num").last()
    )
    stream = mamba.stream(table, time="ts", lateness="1000d").unique("key", within=f"{within}s")
    same(stream.group_by("flag").agg(pl.col("num").first(), last=pl.col("num").last()).collect(), expected)
    assert (
        stream.window(mamba.tumbling("1h")).agg(pl.len()).collect().get_column("len").sum() == firsts.height
    )


def test_the_state_of_a_bounded_step_leaves():
    hours = pl.DataFrame({"ts": [datetime(2024, 1, 1) + timedelta(hours=hour) for hour in range(500)]})
    with memory_log() as log:
        topic = log.create_topic("rows", hours.with_columns(key=pl.int_range(500)), time="ts")
        once = mamba.stream("rows").unique("key", within="10h", name="once")
        arrived = mamba.stream("rows", name="again").unique(
            "key", within="10h", order="arrival", name="arrived"
        )
        topic.append(hours.with_columns(key=pl.int_range(500)))
        job = mamba.start(mamba.pipeline("job", once.to("a"), arrived.to("b")), log, until="now")
        job.wait()
        steps = job._run.engine.flow.steps.values()
        assert all(step.rows <= 12 for step in steps)
