"""describe(): facts of a topic, each against a plain computation over its rows."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.log import Log, Topic, description
from mamba_stream.log.description import PartitionFacts
from tests.log.pictures import rows_of
from tests.sizes import examples

START = datetime(2024, 1, 1)


def test_an_empty_topic_has_facts_and_no_numbers(trades: Topic) -> None:
    found = trades.describe()
    assert (found.name, found.key, found.time, found.compression, found.ended) == (
        "trades", ("symbol",), "ts", "none", False
    )  # fmt: skip
    assert found.schema.equals(trades.schema)
    assert found.partitions == dict.fromkeys(range(4), (0, 0))
    assert (found.rows, found.bytes, found.batches, found.sampled) == (0, 0, 0, 0)
    assert (found.last_append, found.first_time, found.last_time, found.key_skew) == (None, None, None, None)
    assert found.disorder == {}


def test_rows_bytes_and_batches_are_those_that_can_be_read(log: Log, plain: Topic) -> None:
    for n in range(5):
        plain.append([{"n": n}] * 4)
    plain.trim(9)
    found = plain.describe()
    assert (found.rows, found.batches, found.partitions) == (11, 3, {0: (9, 20)})
    assert found.bytes == log.statistics().bytes
    assert found.by_partition == {0: PartitionFacts(11, found.bytes, 3)}
    last = [batch.append_time for batch in plain.read()][-1]
    assert found.last_append == datetime.fromtimestamp(last / 1e6, UTC)
    assert (found.first_time, found.disorder, found.key_skew) == (None, {}, None), (
        "it has neither time nor key"
    )


TIMES = st.lists(st.integers(0, 500) | st.none(), min_size=1, max_size=60)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(times=TIMES, cuts=st.sets(st.integers(1, 59)), partitions=st.integers(1, 3))
def test_disorder_and_times_are_those_of_the_rows(
    log: Log, times: list[int | None], cuts: set[int], partitions: int
) -> None:
    if "t" in log:
        log.delete_topic("t")
    topic = log.create_topic("t", {"ts": pl.Datetime("us"), "n": int}, partitions=partitions, time="ts")
    bounds = [0, *sorted(cut for cut in cuts if cut < len(times)), len(times)]
    lags: list[int] = []
    latest: dict[int, int] = {}
    for part, (start, end) in enumerate(itertools.pairwise(bounds)):
        moments = [None if t is None else START + timedelta(seconds=t) for t in times[start:end]]
        topic.append([{"ts": m, "n": 0} for m in moments], partition=part % partitions)
        for time in times[start:end]:
            if time is not None:
                latest[part % partitions] = max(latest.get(part % partitions, 0), time)
                lags.append(latest[part % partitions] - time)
    found = topic.describe()
    known = [t for t in times if t is not None]
    assert found.sampled == len(times)
    if not known:
        assert (found.first_time, found.last_time, found.disorder) == (None, None, {})
        return
    assert found.first_time == START + timedelta(seconds=min(known))
    assert found.last_time == START + timedelta(seconds=max(known))
    assert found.disorder == {
        q: timedelta(seconds=int(np.quantile(lags, q, method="higher"))) for q in (0.5, 0.9, 0.99, 0.999, 1.0)
    }


@pytest.mark.parametrize(
    ("dtype", "moment"),
    [
        (pl.Date, date(2024, 2, 29)),
        (pl.Datetime("ms"), START),
        (pl.Datetime("ns"), START),
        (pl.Datetime("us", "Europe/Paris"), START.replace(tzinfo=UTC)),
    ],
)
def test_times_are_given_in_the_type_of_their_column(log: Log, dtype: Any, moment: Any) -> None:
    topic = log.create_topic("t", {"ts": dtype, "n": int}, time="ts")
    topic.append(pl.DataFrame({"ts": pl.Series([moment]).cast(dtype), "n": [1]}))
    found = topic.describe()
    assert found.first_time == found.last_time == moment
    assert found.disorder[1.0] == timedelta(0)


@pytest.mark.parametrize(
    ("dtype", "day"),
    [(pl.Datetime("us"), 86_400_000_000), (pl.Datetime("ms", "UTC"), 86_400_000), (pl.Date, 1)],
)
def test_times_that_python_does_not_have_are_given_in_ticks(log: Log, dtype: Any, day: int) -> None:
    """As of nanoseconds that were taken for microseconds."""
    topic = log.create_topic("t", {"ts": dtype}, time="ts")
    least, most = -719_163 * day, 2**31 - 1 if day == 1 else 2**62
    ticks = pl.Series("ts", [most, least], dtype=pl.Int64)
    topic.append(ticks.cast(pl.Int32 if day == 1 else pl.Int64).cast(dtype).to_frame())
    found = topic.describe()
    assert (found.first_time, found.last_time) == (least, most)
    assert found.disorder[1.0].days == min((most - least) // day, timedelta.max.days)
    assert found.sampled == 2


def test_rows_that_were_trimmed_out_of_a_batch_do_not_count(log: Log) -> None:
    topic = log.create_topic("t", {"ts": pl.Datetime("us"), "s": str}, time="ts", key="s")
    topic.append([{"ts": START + timedelta(hours=9 - n), "s": "old" if n < 6 else "new"} for n in range(10)])
    topic.append([{"ts": START + timedelta(hours=1), "s": "other"}])
    topic.trim(7)
    found = topic.describe()
    assert (found.rows, found.sampled, found.key_skew) == (4, 4, (0.75, "new"))
    assert (found.first_time, found.last_time) == (START, START + timedelta(hours=2))
    topic.trim(10)
    found = topic.describe()
    assert (found.first_time, found.last_time) == (START + timedelta(hours=1),) * 2
    assert found.key_skew == (1.0, "other")


def test_what_is_in_a_partition_is_told_of_each(trades: Topic) -> None:
    for partition, rows in ((0, 3), (2, 40)):
        trades.append([{"symbol": "x"}] * rows, partition=partition)
    trades.append([{"symbol": "x"}], partition=2)
    found = trades.describe()
    assert {p: (part.rows, part.batches) for p, part in found.by_partition.items()} == {
        0: (3, 1), 1: (0, 0), 2: (41, 2), 3: (0, 0)
    }  # fmt: skip
    assert sum(part.bytes for part in found.by_partition.values()) == found.bytes
    assert found.by_partition[2].bytes > found.by_partition[0].bytes > found.by_partition[1].bytes == 0


def test_the_skew_names_the_key_that_has_most_rows(trades: Topic) -> None:
    trades.append([{"symbol": s} for s in ["A", "B", "B", "B", "C", None, None, "A"]])
    assert trades.describe().key_skew == (3 / 8, "B")
    trades.append([{"symbol": None}] * 2)
    assert trades.describe().key_skew == (0.4, None)


def test_the_skew_of_a_key_of_several_columns_names_all_of_them(log: Log) -> None:
    topic = log.create_topic("t", {"a": str, "b": int}, key=["a", "b"], partitions=2)
    topic.append([{"a": "x", "b": 1}, {"a": "x", "b": 2}, {"a": "x", "b": 2}])
    assert topic.describe().key_skew == (2 / 3, ("x", 2))


def test_only_recent_rows_are_looked_at(trades: Topic) -> None:
    # Of each of the four partitions a quarter.
    recent = description._SAMPLED_ROWS // 4
    for n, (symbol, rows) in enumerate((("old", 1_000), ("old", 1_000), ("new", recent))):
        frame = pl.select(ts=pl.repeat(START + timedelta(hours=n), rows), symbol=pl.lit(symbol))
        trades.append(frame.with_columns(price=pl.lit(None, float), size=pl.lit(None, int)), partition=0)
    found = trades.describe()
    assert (found.rows, found.sampled) == (2_000 + recent, recent)
    assert found.key_skew == (1.0, "new")
    assert (found.first_time, found.last_time) == (START, START + timedelta(hours=2)), "times are of all rows"


def test_an_ended_topic_is_described_as_such(plain: Topic) -> None:
    plain.append([{"n": 1}])
    plain.end()
    assert plain.describe().ended
    assert len(rows_of(plain)) == 1
