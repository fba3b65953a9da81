"""Times as ticks, without a copy, whatever slice they are of; and how they run along a partition."""

from __future__ import annotations

import random
from itertools import accumulate

import hypothesis.strategies as st
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given

from mamba_stream.core import keys
from mamba_stream.core.changes import ChangeSet
from mamba_stream.log.intake import running_time, ticks_of
from mamba_stream.log.rows import NO_TIME

TICKS = st.lists(st.integers(-(2**31), 2**31 - 1) | st.none(), max_size=20)


@given(
    ticks=TICKS,
    cut=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    kind=st.sampled_from([pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ms"), pa.date32()]),
)
def test_a_time_column_in_its_own_ticks(
    ticks: list[int | None], cut: tuple[int, int], kind: pa.DataType
) -> None:
    plain = pa.array(ticks, pa.int32() if kind == pa.date32() else pa.int64())
    column = plain.view(kind).slice(*cut)
    found = ticks_of(column)
    assert found.dtype == "int64"
    assert [
        t
        for t, wanted in zip(found.tolist(), plain.slice(*cut).to_pylist(), strict=True)
        if wanted is not None
    ] == [t for t in plain.slice(*cut).to_pylist() if t is not None]


@given(ticks=TICKS, before=st.integers(-(2**31), 2**31) | st.just(NO_TIME))
def test_the_running_time_is_the_greatest_so_far(ticks: list[int | None], before: int) -> None:
    column = pa.array(ticks, pa.int64()).view(pa.timestamp("us"))
    expected = list(
        accumulate(ticks, lambda so_far, t: so_far if t is None else max(so_far, t), initial=before)
    )[1:]
    assert running_time(before, column).tolist() == expected


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date32()])
def test_a_column_without_rows_has_no_ticks(kind: pa.DataType) -> None:
    assert ticks_of(pa.array([], kind)).tolist() == []
    assert running_time(5, pa.array([], kind)).tolist() == []


@pytest.mark.embedded
@pytest.mark.parametrize("kind", [pl.Datetime("us"), pl.Date()])
@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("large", [1, 1_000])
def test_every_partition_knows_the_first_and_the_last_time_of_its_rows(log, kind, nulls, large, monkeypatch):
    monkeypatch.setattr(keys, "_LARGE_PART", large)
    numbers = random.Random(7).sample(range(10_000), 500)
    times = [None if nulls and not n % 3 else n for n in numbers]
    rows = pl.DataFrame({"ts": pl.Series(times, dtype=pl.Int32).cast(kind), "key": range(500)})
    log.create_topic("rows", rows, partitions=64, key="key", time="ts")
    log["rows"].append(rows)
    shelf, topic = log._store.shelf, log["rows"]._row
    for partition in range(64):
        ticks = rows.select("ts").to_series().to_physical()
        there = log["rows"].read(partitions=[partition])
        found = [key for batch in there for key in batch.data["key"].to_pylist()]
        assert found, "every partition has rows"
        (placed,) = shelf.entries(topic, partition, 0, 10)
        own = ticks.gather(found).drop_nulls()
        assert (placed.entry.min_time, placed.entry.max_time) == (own.min(), own.max())


@pytest.mark.embedded
def test_own_rows_that_have_the_columns_of_before_go_in_together_too(log):
    log.create_topic("t", {"n": pl.Int32})
    rows = [pa.record_batch({"n": pa.array([n] * 2, pa.int32())}) for n in range(3)]
    log.alter_topic("t", schema={"n": pl.Int64, "added": pl.Int32})
    store, topic = log._store, log["t"]
    batches = store.intake(topic._row).together(rows, 0)
    store.commit(ChangeSet(), batches)
    assert topic.scan().collect()["n"].to_list() == [0, 0, 1, 1, 2, 2]
