"""The best rows are those of a sorted frame: of rows, of tables, and of windows, however cut and wherever crashed."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from tests.runtime.model import SEEDS
from tests.runtime.pipelines import tables
from tests.runtime.tables import check_crashing, crashed_and_resumed, in_stream_order, memory_log, same
from tests.sizes import examples

PER = st.sampled_from([[], ["key"], ["small", "flag"], ["day"]])
BY = st.sampled_from([["num"], ["flt"], ["flt", "num"], ["ts"], ["flag", "ts"]])


def best(
    rows: pl.DataFrame, k: int, by: list[str], per: list[str], reverse: list[bool], rank: str | None
) -> pl.DataFrame:
    ordered = rows.sort(by, descending=[not back for back in reverse], nulls_last=True, maintain_order=True)
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    ranked = ordered.with_columns((place.over(per) if per else place).alias(rank or "__rank"))
    kept = ranked.filter(pl.col(rank or "__rank") <= k)
    return kept if rank else kept.drop("__rank")


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, list[str], list[str], list[bool], str | None]:
    by, per = draw(BY), draw(PER)
    by = [name for name in by if name not in per] or ["num"]
    reverse = [draw(st.booleans()) for _ in by]
    return draw(st.sampled_from([1, 2, 5])), by, per, reverse, draw(st.sampled_from([None, "rank"]))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=3), chosen=choices(), seed=SEEDS)
def test_the_best_of_rows(parts, chosen, seed):
    k, by, per, reverse, rank = chosen
    expected = best(in_stream_order(parts), k, by, per, reverse, rank)

    def build(stream):
        return stream.top_k(k, by=by, per=per, reverse=reverse, rank=rank)

    if rank or k == 1:
        check_crashing(parts, build, [*per, rank] if rank else per, expected, seed)
    else:
        check_bag(parts, build, expected, seed)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=2), chosen=choices(), seed=SEEDS)
def test_the_best_of_a_table(parts, chosen, seed):
    k, by, per, reverse, rank = chosen
    key = ["key", "num"]
    # A table has the order of its key; without one, of its columns.
    table = in_stream_order(parts).unique(key, keep="last").sort(key)

    def build(stream):
        latest = stream.table(key)
        return latest.top_k(k, by=by, per=per, reverse=reverse, rank=rank)

    expected = best(table, k, by, per, reverse, rank)
    check_crashing(parts, build, [*per, rank] if rank else per if k == 1 else key, expected, seed)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(tables(), min_size=1, max_size=2), chosen=choices(), seed=SEEDS)
def test_what_follows_the_best_takes_back_what_is_best_no_more(parts, chosen, seed):
    k, by, per, reverse, rank = chosen
    kept = best(in_stream_order(parts), k, by, per, reverse, rank)
    expected = kept.group_by("key").agg(pl.len(), pl.col("small").cast(pl.Int64).sum(), m=pl.col("flt").max())
    check_crashing(
        parts,
        lambda stream: (
            stream.top_k(k, by=by, per=per, reverse=reverse, rank=rank)
            .group_by("key")
            .agg(pl.len(), pl.col("small").cast(pl.Int64).sum(), m=pl.col("flt").max())
        ),
        ["key"],
        expected,
        seed,
    )


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(tables(), min_size=1, max_size=2),
    more=st.sampled_from([[], ["flag"]]),
    k=st.sampled_from([1, 2]),
    rank=st.sampled_from([None, "rank"]),
    seed=SEEDS,
)
def test_the_best_of_windows_come_once(parts, more, k, rank, seed):
    keys = ["key", *more]
    exprs = {"n": pl.len(), "total": pl.col("num").sum()}
    hourly = (
        in_stream_order(parts)
        .group_by(*keys, window_start=pl.col("ts").dt.truncate("1h"))
        .agg(**exprs)
        .sort("window_start", *keys)
    )
    per = ["window_start", *more]
    expected = best(hourly, k, ["n", "total"], per, [False, True], rank)
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, partitions=len(parts), time="ts")
        windows = mamba.stream("rows", lateness="10000d").window(mamba.tumbling("1h"), by=keys).agg(**exprs)
        top = windows.top_k(k, by=["n", "total"], per=per, reverse=[False, True], rank=rank).drop(
            "window_end"
        )
        crashed_and_resumed(log, parts, mamba.pipeline("job", top.to("out")), np.random.default_rng(seed))
        columns = [*keys, "window_start", *exprs, *([rank] if rank else [])]
        same(log["out"].scan().collect().select(columns), expected.select(columns))
        assert "_op" not in log["out"].scan().collect_schema()


def check_bag(parts, build, expected, seed):
    """As ``check_crashing``, of a changelog whose rows nothing tells apart."""
    with memory_log() as log:
        log.create_topic("rows", parts[0].schema, partitions=len(parts), time="ts")
        table = build(mamba.stream("rows", lateness="10000d"))
        crashed_and_resumed(log, parts, mamba.pipeline("job", table.to("out")), np.random.default_rng(seed))
        rows = log["out"].scan().collect()
        columns = expected.columns
        there: dict[str, int] = {}
        for op, *row in rows.select("_op", *columns).iter_rows():
            at = repr(row)
            there[at] = there.get(at, 0) + (1 if op in ("+I", "+U") else -1)
            assert there[at] >= 0, f"{op} {row} was not there"
        told = sorted(at for at, count in there.items() for _ in range(count))
        assert told == sorted(repr(list(row)) for row in expected.iter_rows())
        same(table.collect(log), expected)
