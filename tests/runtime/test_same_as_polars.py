"""A pipeline over bounded input without late rows gives what the same expressions give on a sorted ``LazyFrame``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import HealthCheck, given, note, settings
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from tests.runtime.pipelines import SCHEMA, Pair, grow, tables
from tests.runtime.test_same_rows import MEMORY
from tests.sizes import examples

FOR_EVER = "10000d"
GREATEST = 1e6
"""The greatest number in the tables: a deviation of deviations may cancel all digits but the last few of such numbers."""


def check(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.columns == expected.columns
    assert_frame_equal(found, expected, check_row_order=False, rel_tol=1e-9, abs_tol=1e-9 * GREATEST)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), data=st.data())
def test_a_frame_streamed_is_a_lazy_frame_sorted(table, data):
    order = table.with_row_index("i").sort("ts", "i").drop("i")
    pair = Pair(mamba.stream(table, time="ts", lateness=FOR_EVER), order.lazy())
    grow(pair, data.draw)
    note(pair.stream.explain())
    check(pair.stream.collect(), pair.frame.collect(engine="in-memory"))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=3), data=st.data())
def test_a_topic_streamed_is_a_lazy_frame_sorted_by_time_partition_and_offset(parts, data):
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=len(parts), time="ts")
        for number, part in enumerate(parts):
            size = data.draw(st.integers(1, 60))
            for batch in part.iter_slices(size):
                topic.append(batch, partition=number)
        rows = [part.with_row_index("o").with_columns(p=pl.lit(number)) for number, part in enumerate(parts)]
        order = pl.concat(rows).sort("ts", "p", "o").drop("p", "o")
        pair = Pair(mamba.stream("rows", lateness=FOR_EVER), order.lazy())
        grow(pair, data.draw)
        check(pair.stream.collect(log), pair.frame.collect(engine="in-memory"))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=tables(), data=st.data())
def test_a_frame_streamed_is_a_lazy_frame_sorted_many_times(table, data):
    test_a_frame_streamed_is_a_lazy_frame_sorted.hypothesis.inner_test(table, data)
