"""A table of the latest rows is the last row of each key in the stream's order, however cut and wherever crashed."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from tests.runtime.model import SEEDS
from tests.runtime.pipelines import tables
from tests.runtime.tables import (
    check_crashing,
    crashed_and_resumed,
    in_stream_order,
    memory_log,
    replayed,
    same,
)
from tests.sizes import examples

KEYS = st.sampled_from([["key"], ["num"], ["small", "flag"], ["flt"], ["key", "day", "num"]])


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(tables(), min_size=1, max_size=3),
    key=KEYS,
    verb=st.sampled_from(["table", "unique"]),
    seed=SEEDS,
)
def test_the_latest_row_of_each_key(parts, key, verb, seed):
    expected = in_stream_order(parts).unique(key, keep="last")
    build = {
        "table": lambda stream: stream.table(key),
        "unique": lambda stream: stream.unique(key, keep="last"),
    }
    check_crashing(parts, build[verb], key, expected, seed)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=3), key=KEYS, seed=SEEDS)
def test_tables_are_counted_and_kept_on(parts, key, seed):
    latest = in_stream_order(parts).unique(key, keep="last")
    expected = latest.group_by(other="small").agg(
        pl.len(), pl.col("num").sum().alias("total"), m=pl.col("flt").max()
    )

    def build(stream):
        by = stream.table(key).group_by(other="small")
        return by.agg(pl.len(), pl.col("num").sum().alias("total"), m=pl.col("flt").max())

    if "small" not in key:
        check_crashing(parts, build, ["other"], expected, seed)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=2), key=KEYS, rows=st.integers(1, 50), seed=SEEDS)
def test_a_table_is_read_back_from_the_topic_of_its_changes_by_a_job_that_crashes(parts, key, rows, seed):
    chance = np.random.default_rng(seed)
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, partitions=len(parts), time="ts")
        stream = mamba.stream("rows", lateness="10000d")
        first = mamba.pipeline(
            "first",
            stream.table(key)
            .filter(pl.col("num").is_null() | (pl.col("num") > 0))
            .to("out", key=key, partitions=3),
        )
        crashed_and_resumed(log, parts, first, chance)
        log["out"].end()
        again = mamba.stream("out").table(key).group_by("flag").agg(pl.len(), pl.col("num").sum())
        mamba.run(mamba.pipeline("second", again.to("counts")), log)
        latest = in_stream_order(parts).unique(key, keep="last")
        expected = latest.filter(pl.col("num").is_null() | (pl.col("num") > 0))
        same(mamba.stream("out").table(key).collect(log), expected)
        counts = replayed(log["counts"].scan().collect(), ["flag"])
        same(counts, expected.group_by("flag").agg(pl.len(), pl.col("num").sum()))


def test_words_that_are_none_stop_the_step():
    rows = mamba.stream(pl.DataFrame({"_op": ["+I", "put"], "key": [1, 2]}))
    with pytest.raises(mamba.StepFailed, match="'_op' holds 'put', and should say"):
        rows.table("key").collect()
