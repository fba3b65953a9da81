"""Reads with a predicate: the rows of the same filter over a frame, each with its own offset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from polars.testing import assert_frame_equal

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.errors import ColumnNotFound, ExpressionRefused, InvalidInput
from mamba_stream.log import Log, Topic, open_log
from tests.sizes import examples

DAY = datetime(2024, 1, 1)
ROWS = pl.DataFrame(
    {
        "ts": [DAY + timedelta(minutes=n) for n in range(1_000)],
        "symbol": ["A", "B", None, "D"] * 250,
        "price": [float(n % 97) for n in range(1_000)],
    }
)
FILTERS: dict[str, pl.Expr] = {
    "number": pl.col("price") > 90,
    "text": pl.col("symbol") == "B",
    "null": pl.col("symbol").is_null(),
    "time": pl.col("ts").is_between(DAY + timedelta(hours=2), DAY + timedelta(hours=3)),
    "several": (pl.col("price") > 50) & pl.col("symbol").is_in(["A", "D"]),
    "none": pl.col("price") > 1e9,
    "all": pl.col("price") >= 0,
}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with open_log(tmp_path / "log") as opened:
        yield opened


@pytest.fixture
def topic(log: Log) -> Topic:
    made = log.create_topic("rows", ROWS, partitions=3, time="ts")
    for part in range(3):
        for cut in (0, 1, 2, 150, 333):
            begin = part * 333 + cut
            following = part * 333 + {0: 1, 1: 2, 2: 150, 150: 333, 333: 333}[cut]
            if begin < following:
                made.append(ROWS[begin:following], partition=part)
    made.append(ROWS[999:], partition=2)
    return made


def rows_of(batches: Any) -> pl.DataFrame:
    """What was read, with partitions and offsets."""
    frames = [
        frame_from_batch(batch.data).with_columns(
            partition=pl.lit(batch.partition, pl.Int64), offset=pl.Series(batch.offsets, dtype=pl.Int64)
        )
        for batch in batches
    ]
    empty = ROWS.clear().with_columns(partition=pl.lit(0, pl.Int64), offset=pl.lit(0, pl.Int64))
    return pl.concat([empty, *frames]).sort("partition", "offset")


ORACLE = ROWS.with_columns(
    partition=(pl.int_range(1_000) // 333).clip(0, 2),
    offset=pl.int_range(1_000) - (pl.int_range(1_000) // 333).clip(0, 2) * 333,
)


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
def test_the_rows_are_those_of_the_filter_and_know_their_offsets(topic: Topic, where: pl.Expr) -> None:
    assert_frame_equal(rows_of(topic.read(where=where)), ORACLE.filter(where))


@pytest.mark.parametrize("where", FILTERS.values(), ids=FILTERS)
def test_what_is_asked_for_decides_whether_or_not_it_is_wanted(topic: Topic, where: pl.Expr) -> None:
    found = list(topic.read(where=where, columns=["ts"]))
    assert all(batch.data.schema.names == ["ts"] for batch in found)
    assert (
        sorted(t for batch in found for t in batch.data["ts"].to_pylist())
        == ORACLE.filter(where)["ts"].to_list()
    )


def test_a_number_of_rows_is_of_those_that_are_kept_and_reading_goes_on_behind_them(topic: Topic) -> None:
    where = FILTERS["several"]
    for most in (0, 1, 7, 40, 10_000):
        batches = list(topic.read(where=where, max_rows=most, partitions=[1], start={1: 5}))
        wanted = ORACLE.filter(where, pl.col("partition") == 1, pl.col("offset") >= 5)
        assert_frame_equal(rows_of(batches), wanted.head(most))
        if batches:
            following = rows_of(topic.read(where=where, partitions=[1], start={1: batches[-1].next_offset}))
            assert_frame_equal(following, wanted[most:])


def test_starts_and_ends_hold_as_without(topic: Topic) -> None:
    where = FILTERS["number"]
    found = rows_of(topic.read(where=where, start={0: 100, 1: 200}, end={0: 200, 2: 0}))
    between = (pl.col("partition") == 0) & pl.col("offset").is_between(100, 199)
    wanted = ORACLE.filter(where, between | ((pl.col("partition") == 1) & (pl.col("offset") >= 200)))
    assert_frame_equal(found, wanted)


def test_a_follower_gets_what_comes_and_passes_over_the_rest(topic: Topic) -> None:
    follower = topic.read(start="latest", follow=True, where=pl.col("price") == 12_345.0)
    for n in range(20):
        topic.append(ROWS.head(50), partition=n % 3)
    topic.append(ROWS.head(2).with_columns(price=pl.Series([0.0, 12_345.0])), partition=1)
    batch = next(follower)
    assert batch.data["price"].to_pylist() == [12_345.0]
    assert (batch.partition, batch.offsets.tolist()) == (1, [topic.offsets()[1][1] - 1])
    topic.end()
    assert list(follower) == []


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        (
            pl.col("price") > pl.col("price").mean(),
            ExpressionRefused,
            r"filter the rows that come, or use scan\(\)",
        ),
        (
            pl.col("price").map_elements(bool, return_dtype=pl.Boolean),
            ExpressionRefused,
            "comparisons of columns",
        ),
        (pl.col("prise") > 3, ColumnNotFound, "no column 'prise'"),
        (pl.col("price") + 1, InvalidInput, "not true or false"),
        ("price > 3", ExpressionRefused, "where=price > 3"),
    ],
    ids=["aggregate", "function", "column", "no question", "text"],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_read(
    topic: Topic, where: Any, error: type[Exception], words: str
) -> None:
    for read in (topic.read, topic.reader):
        with pytest.raises(error, match=words):
            read(where=where)


def test_a_row_that_cannot_be_asked_is_an_error(log: Log) -> None:
    topic = log.create_topic("texts", {"text": pl.String})
    topic.append([{"text": "1"}, {"text": "two"}])
    with pytest.raises(InvalidInput):
        list(topic.read(where=pl.col("text").cast(pl.Int64) > 0))


@settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(1, 120), min_size=1, max_size=12),
    least=st.integers(0, 100),
    poll=st.integers(1, 300),
)
def test_however_rows_were_appended_and_are_polled(log: Log, cuts: list[int], least: int, poll: int) -> None:
    name = f"t{len(log.topics())}"
    topic = log.create_topic(name, {"n": pl.Int64, "v": pl.Int64})
    values = [(7 * n) % 101 for n in range(sum(cuts))]
    at = 0
    for cut in cuts:
        topic.append(pl.DataFrame({"n": range(at, at + cut), "v": values[at : at + cut]}))
        at += cut
    reader = topic.reader(where=pl.col("v") >= least, columns=["n"])
    found: list[tuple[int, int]] = []
    take: Callable[[], list[Any]] = lambda: reader.poll(max_rows=poll)  # noqa: E731
    while batches := take():
        for batch in batches:
            found += zip(batch.offsets.tolist(), batch.data["n"].to_pylist(), strict=True)
    assert found == [(n, n) for n, value in enumerate(values) if value >= least]
    assert reader.positions == {0: len(values)}
    assert reader.at_end
