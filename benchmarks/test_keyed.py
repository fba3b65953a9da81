"""Keyed state among a million keys; run with ``make bench``, compare with ``--benchmark-compare``."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.keyindex import KeyIndex

PRESENT = 1_000_000
VALUES = {"sum": pl.Int64(), "mean": pl.Float64()}


def keys(kind: str, numbers: np.ndarray) -> pl.DataFrame:
    column = pl.Series("key", numbers)
    return (
        column.to_frame()
        if kind == "int"
        else pl.select(pl.format("customer-number-{}", column).alias("key"))
    )


def values(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(1)
    return pl.DataFrame({"sum": random.integers(0, 1 << 40, rows), "mean": random.random(rows)})


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    """Twice as many as are put into the state: the others are unknown."""
    return np.random.default_rng(0).permutation(2 * PRESENT)


def filled(kind: str, numbers: np.ndarray) -> KeyedTable:
    known = keys(kind, numbers[:PRESENT])
    table = KeyedTable(known.schema, VALUES)
    table.put(table.slots(known, insert=True), values(PRESENT))
    table.delta()
    return table


@pytest.fixture(scope="module", params=["int", "text"])
def table(request: Any, numbers: np.ndarray) -> tuple[str, KeyedTable]:
    return request.param, filled(request.param, numbers)


@pytest.mark.parametrize("rows", [100, 65_536])
def test_find_get_and_put(
    benchmark: Any, table: tuple[str, KeyedTable], numbers: np.ndarray, rows: int
) -> None:
    kind, state = table
    batch, new = (
        keys(kind, np.random.default_rng(2).choice(numbers[:PRESENT], rows, replace=False)),
        values(rows),
    )

    def turn() -> pl.DataFrame:
        slots = state.slots(batch, insert=True)
        before = state.get(slots)
        state.put(slots, new)
        return before

    assert benchmark(turn).height == rows
    assert state.rows == PRESENT


@pytest.mark.parametrize("present", [PRESENT, 10 * PRESENT])
@pytest.mark.parametrize("rows", [1_000, 65_536, 524_288])
def test_insert_and_remove(benchmark: Any, present: int, rows: int) -> None:
    every = np.random.default_rng(0).permutation(present + rows)
    index = KeyIndex({"key": pl.Int64()})
    index.slots(keys("int", every[:present]), insert=True)
    batch = keys("int", every[present:])
    benchmark.pedantic(lambda: index.remove(index.slots(batch, insert=True)), rounds=5, warmup_rounds=1)
    assert index.rows == present


def test_delta_of_ten_thousand_changes(
    benchmark: Any, table: tuple[str, KeyedTable], numbers: np.ndarray
) -> None:
    kind, state = table
    slots, new = state.slots(keys(kind, numbers[:10_000])), values(10_000)
    state.delta()
    parts = benchmark.pedantic(state.delta, setup=lambda: state.put(slots, new), rounds=20)
    assert parts["rows"].height == 10_000


def test_restore(benchmark: Any, table: tuple[str, KeyedTable]) -> None:
    _, state = table
    snapshot = state.snapshot()

    def restored() -> int:
        other = KeyedTable(state.keys(np.arange(1)).schema, VALUES)
        for part, frame in snapshot.items():
            other.restore(part, frame)
        return other.rows

    assert benchmark.pedantic(restored, rounds=3) == PRESENT


@pytest.mark.parametrize("rows", [100, 65_536])
def test_match_add_and_expire(benchmark: Any, rows: int) -> None:
    """One side of a join that keeps a million rows of 300,000 keys: a batch meets its matches and pushes others out."""
    random = np.random.default_rng(3)
    state = KeyedRows({"key": pl.Int64()}, VALUES, timed=True)
    state.add(keys("int", random.integers(0, 300_000, PRESENT)), values(PRESENT), np.arange(PRESENT))
    batch, new, now = keys("int", random.integers(0, 300_000, rows)), values(rows), PRESENT

    def turn() -> int:
        nonlocal now
        found = state.matching(batch)
        state.add(batch, new, np.arange(now, now + rows))
        now += rows
        state.expire(now - PRESENT)
        return state.get(found.ids).height

    assert benchmark(turn) > rows
    assert state.rows == PRESENT
