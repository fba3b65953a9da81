"""Pairs of rows with equal keys are those of a join of Polars, by whatever way they are found."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
from hypothesis import given, settings

from mamba_stream.operators.pairing import Keyed, keyed
from tests.sizes import examples

TYPES: dict[str, tuple[pl.DataType, list[Any]]] = {
    "dense": (pl.Int64(), [*range(-3, 40), None]),
    "wide": (pl.Int32(), [-5, 0, 1, 65_530, 65_531, 65_535, 65_536, 66_200, None]),
    "unsigned": (pl.UInt64(), [0, 1, (1 << 64) - 1, 1 << 63, None]),
    "apart": (pl.Int64(), [-(1 << 63), (1 << 63) - 1, 0, 1, None]),
    "huge": (pl.Int128(), [-(1 << 100), 1 << 100, 0, None]),
    "small": (pl.Int8(), [-128, 127, 0, None]),
    "text": (pl.String(), ["", "a", "b", "ab", None]),
    "flag": (pl.Boolean(), [True, False, None]),
    "flt": (pl.Float64(), [0.0, -0.0, float("nan"), 1.5, None]),
    "day": (pl.Date(), [None]),
}


def frame_of(names: list[str], height: int, chance: np.random.Generator) -> pl.DataFrame:
    columns = [
        pl.Series(
            name, [TYPES[name][1][i] for i in chance.integers(0, len(TYPES[name][1]), height)], TYPES[name][0]
        )
        for name in names
    ]
    return pl.DataFrame(columns)


def expected(rows: pl.DataFrame, batch: pl.DataFrame) -> list[tuple[int, int]]:
    here, there = batch.with_row_index("batch"), rows.with_row_index("rows")
    return sorted(here.join(there, on=rows.columns).select("batch", "rows").rows())


@settings(max_examples=examples(300), deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=3, unique=True),
    heights=st.tuples(st.sampled_from([0, 1, 3, 40, 300]), st.sampled_from([0, 1, 3, 40, 300])),
    again=st.integers(1, 3),
    seed=st.integers(0, 1 << 32),
)
def test_pairs_are_those_of_a_join(names, heights, again, seed):
    chance = np.random.default_rng(seed)
    rows = frame_of(names, heights[0], chance)
    state = keyed(rows, names)
    for _ in range(again):
        batch = frame_of(names, heights[1], chance)
        assert state.pairs_with(keyed(batch, names)) == len(expected(rows, batch))
        here, there = state.meets(keyed(batch, names))
        assert sorted(zip(here.tolist(), there.tolist(), strict=True)) == expected(rows, batch)


def test_keys_that_lie_apart_are_not_looked_at():
    state = keyed(pl.DataFrame({"k": range(1_000)}), ["k"])
    assert [len(part) for part in state.meets(keyed(pl.DataFrame({"k": range(5_000, 5_100)}), ["k"]))] == [
        0,
        0,
    ]
    assert state.bytes == 0


def test_an_index_is_made_when_it_is_worth_it_and_counted():
    state = Keyed(pl.DataFrame({"k": np.random.default_rng(1).permutation(100_000)}))
    few = keyed(pl.DataFrame({"k": [1, 2]}), ["k"])
    for _ in range(2):
        state.meets(Keyed(few.keys.rename({few.keys.columns[0]: "k"})))
    assert state.bytes == 400_000
