"""Nexmark: the generator's events, and every query against what DuckDB makes of the finished tables."""

from __future__ import annotations

import tempfile
from collections.abc import Container
from datetime import timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from benchmarks import nexmark_polars
from mamba_pipelines.nexmark import QUERIES, generate, side_input
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import OP_COLUMN, table_of
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.pipelines.nexmark_oracle import ORACLE, answer
from tests.sizes import crossed

Tables = dict[str, pl.DataFrame]
STREAMS = ("person", "auction", "bid")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Crashes of a process need no disk, and commits are many."""


@cache
def busy() -> Tables:
    """Fifty seconds at a thousand events a second."""
    return {**generate(0, 50_000, seed=3, rate=1_000), "side_input": side_input()}


@cache
def slow() -> Tables:
    """An event a second, out of order, over midnight: every tenth bid at the edge of a window, gaps of exactly 10 s,
    and prices so coarse that many are alike.
    """
    tables = generate(70_000, 30_000, seed=4, rate=1, disorder=40)
    coarse = pl.col("price") // 10_000_000 * 10_000_000 + 100
    return {**tables, "bid": tables["bid"].with_columns(coarse), "side_input": side_input()}


@cache
def crowded() -> Tables:
    """Thirty events a millisecond, and prices so coarse that many are alike: only ``seq`` tells which comes first."""
    tables = generate(0, 30_000, seed=5, rate=30_000)
    coarse = pl.col("price") // 10_000_000 * 10_000_000 + 100
    return {**tables, "bid": tables["bid"].with_columns(coarse), "side_input": side_input()}


@cache
def expected(query: str, tables) -> pl.DataFrame:
    return answer(query, tables())


def check(found: pl.DataFrame, query: str, tables) -> None:
    """The same rows as DuckDB's, in whatever order; further columns do no harm."""
    wanted = expected(query, tables)
    assert wanted.height > 0
    assert_frame_equal(found.select(wanted.columns), wanted, check_row_order=False, check_exact=True)


@pytest.mark.parametrize("disorder", [1, 64])
def test_events_are_the_same_however_the_stream_is_cut(disorder):
    whole = generate(100, 5_000, seed=7, rate=500, disorder=disorder)
    cuts = [100, 101, 149, 150, 1_033, 4_000, 5_100]
    parts = [generate(a, b - a, seed=7, rate=500, disorder=disorder) for a, b in pairwise(cuts)]
    for name in STREAMS:
        assert_frame_equal(pl.concat([part[name] for part in parts]), whole[name])
        assert not generate(100, 5_000, seed=8, rate=500)[name].equals(whole[name])


def test_events_have_the_standards_shape():
    events = generate(0, 100_000, seed=5, rate=10_000)
    person, auction, bid = (events[name] for name in STREAMS)
    assert (person.height, auction.height, bid.height) == (2_000, 6_000, 92_000)
    assert pl.concat([frame.select("seq") for frame in events.values()])["seq"].sort().to_list() == [
        *range(100_000)
    ]
    for ids in (person["id"], auction["id"]):
        assert ids.to_list() == [*range(1_000, 1_000 + len(ids))]
    # Half of the bids go to the hot auctions, three quarters come from the hot bidders, as many sellers are hot.
    assert bid.select((pl.col("auction") % 100 == 0).mean()).item() == pytest.approx(0.505, abs=0.01)
    assert bid.select((pl.col("bidder") % 100 == 1).mean()).item() == pytest.approx(0.7525, abs=0.01)
    assert auction.select((pl.col("seller") % 100 == 0).mean()).item() == pytest.approx(0.7525, abs=0.02)
    assert bid.select(pl.col("price").log(10).mean()).item() == pytest.approx(5, abs=0.02)
    assert bid["price"].min() >= 100 and bid["price"].max() <= 100_000_000
    assert (auction["expires"] > auction["dateTime"]).all()
    lasts = auction.select((pl.col("expires") - pl.col("dateTime")).dt.total_milliseconds().mean()).item()
    assert lasts == pytest.approx(167, rel=0.05)
    hot = bid.filter(pl.col("channel").is_in(["Google", "Facebook", "Baidu", "Apple"]))
    assert hot.height / bid.height == pytest.approx(0.5, abs=0.01)
    told = (
        bid.filter(pl.col("channel").str.starts_with("channel-"))["url"].str.contains("&channel_id=").mean()
    )
    assert told == pytest.approx(0.9, abs=0.02)


def test_out_of_order_events_are_those_in_order_at_other_places():
    kept, moved = (generate(0, 4_300, seed=5, rate=100, disorder=disorder) for disorder in (1, 430))
    for name in STREAMS:
        assert not moved[name]["dateTime"].is_sorted()
        assert moved[name]["seq"].is_sorted()
        columns = [column for column in kept[name].columns if column != "seq"]
        assert_frame_equal(moved[name].select(columns), kept[name].select(columns), check_row_order=False)
    behind = moved["bid"].select((pl.col("dateTime").cum_max() - pl.col("dateTime")).max()).item()
    assert timedelta() < behind <= timedelta(seconds=4.3)


def test_the_side_input_has_ten_thousand_rows():
    assert side_input()["key"].to_list() == [*range(10_000)]


@pytest.mark.parametrize(("query", "tables"), crossed(ORACLE, [busy, slow], every=2))
def test_the_batch_query_that_we_are_held_against_gives_what_duckdb_gives(query, tables):
    lazy = {name: frame.lazy() for name, frame in tables().items()}
    found = nexmark_polars.QUERIES[query](**lazy).collect()
    assert set(found.columns) == set(expected(query, tables).columns)
    check(found, query, tables)


def streams(tables: Tables) -> dict[str, mamba.Stream]:
    """The tables as they stand; where rows are out of order, so late that none is lost."""
    return {name: mamba.stream(tables[name], time="dateTime", lateness="60s", name=name) for name in STREAMS}


@pytest.mark.parametrize("tables", [busy, slow])
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_collected_over_frames_gives_what_duckdb_gives(query, tables):
    given = tables()
    check(QUERIES[query](**streams(given), side_input=given["side_input"]).collect(), query, tables)


@pytest.mark.parametrize(("query", "tables", "partitions"), crossed(QUERIES, [busy, slow], [1, 3], every=4))
def test_crashing_and_resuming_over_topics_changes_nothing(query, tables, partitions):
    chance = np.random.default_rng(partitions)
    given = tables()
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for name in STREAMS:
            log.create_topic(name, given[name], partitions=partitions, time="dateTime")
        topics = {name: mamba.stream(name, lateness="60s") for name in STREAMS}
        result = QUERIES[query](**topics, side_input=given["side_input"])
        pipeline = mamba.pipeline("job", result.to("out"))
        lost = 0
        for some in portions(given, 6, chance):
            append(log, some, partitions, chance)
            run = Run(pipeline, log, options(int(chance.integers(200, 1_500))), SystemClock())
            uncommitted = 0
            for _ in range(int(chance.integers(1, 10))):
                uncommitted += run.step()
                if chance.random() < 0.3:
                    run.commit("running")
                    uncommitted = 0
            # The run is dropped here: what it did since its last commit never happened.
            lost += uncommitted
        assert lost > 0
        for name in STREAMS:
            log[name].end()
        mamba.run(pipeline, log)
        rows = log["out"].scan().collect()
        check(table_of(rows) if OP_COLUMN in rows.columns else rows, query, tables)


@pytest.mark.parametrize("query", ["q9", "q18", "q19"])
def test_seq_decides_between_equal_times_whatever_partition_they_are_in(query):
    test_crashing_and_resuming_over_topics_changes_nothing(query, crowded, partitions=3)


def portions(tables: Tables, count: int, chance: np.random.Generator) -> list[Tables]:
    """The streams' rows one after the other, cut at the same places of the whole stream."""
    first, last = (int(getattr(tables["bid"]["seq"], end)()) for end in ("min", "max"))
    cuts = [0, *sorted(chance.integers(first, last, count - 1).tolist()), last + 1]
    seq = pl.col("seq")
    return [
        {name: tables[name].filter(seq >= start, seq < end) for name in STREAMS}
        for start, end in pairwise(cuts)
    ]


def append(
    log: mamba.Log,
    tables: Tables,
    partitions: int,
    chance: np.random.Generator,
    keyed: Container[str] = (),
) -> None:
    """In batches of various sizes; which partition a row goes to is left to chance, or to the keys of some streams."""
    for name in STREAMS:
        for rows in tables[name].iter_slices(int(chance.integers(1_000, 6_000))):
            if name in keyed:
                log[name].append(rows)
                continue
            where = pl.Series(chance.integers(0, partitions, rows.height))
            for partition in range(partitions):
                log[name].append(rows.filter(where == partition), partition=partition)


def options(rows: int) -> RunOptions:
    return RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=rows)
