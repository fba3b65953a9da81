"""Row verbs give the same for rows that lie in chunks as for rows that lie together."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

from mamba_stream.operators import rows as module
from mamba_stream.operators.rows import Dropped, Extended, Filtered, Renamed, RowSteps, RowVerb, Selected
from tests.sizes import examples

# Of one row alone, Polars divides otherwise than of many.
NINTHS = (pl.col("x") / 49).floor()
SIFT = Filtered([NINTHS == 0.0, pl.col("word").str.len_chars() > 1])
CHAINS: dict[str, list[RowVerb]] = {
    "a filter": [SIFT],
    "a filter, then others": [SIFT, Extended([(pl.col("x") / 7).alias("y")]), Filtered([pl.col("y") < 6.9])],
    "renamed before": [Renamed({"x": "z"}), Filtered([(pl.col("z") / 49).floor() == 0.0]), Dropped(["word"])],
    "picked before": [Selected([pl.col("x")]), Filtered([NINTHS == 0.0])],
    "computed before": [Extended([(pl.col("x") / 3).alias("y")]), Filtered([pl.col("y") < 9])],
    "renamed only": [Renamed({"x": "z"})],
}


@pytest.mark.parametrize("chain", list(CHAINS))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    height=st.sampled_from([2, 3, 10, 60]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    most=st.sampled_from([48, 49, 50, 200]),
    seed=st.integers(0, 1 << 32),
)
def test_rows_in_chunks_give_what_they_give_together(monkeypatch, chain, height, cuts, most, seed):
    monkeypatch.setattr(module, "_MANY", 2)
    chance = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "x": chance.integers(most - 2, most + 1, height),
            "word": chance.choice(["", "a", "bc", "d" * 20], height),
        }
    )
    ends = sorted({0, height, *(cut for cut in cuts if cut < height)})
    chunked = pl.concat([frame[first:end] for first, end in pairwise(ends)], rechunk=False)
    steps = RowSteps(CHAINS[chain])
    # Beside rows that all go their own way no row is ever alone.
    beside = pl.concat([frame, pl.DataFrame({"x": [0, 0], "word": ["zz", "zz"]}, schema=frame.schema)])
    expected = steps(beside)
    expected = expected.head(expected.height - 2)
    for in_chunks in (False, True):
        made = RowSteps(CHAINS[chain], in_chunks=in_chunks)(chunked)
        assert_frame_equal(made, expected)


def test_a_filter_over_many_rows_does_not_put_them_together_first(monkeypatch):
    copied: list[int] = []
    written_out = module.written_out

    def noted(frame: pl.DataFrame) -> pl.DataFrame:
        copied.append(frame.height)
        return written_out(frame)

    monkeypatch.setattr(module, "written_out", noted)
    part = pl.DataFrame({"x": range(20_000), "word": ["word"] * 20_000})
    made = RowSteps([Filtered([pl.col("x") % 100 == 0]), Dropped(["word"])])(
        pl.concat([part, part], rechunk=False)
    )
    assert made.height == 400
    assert copied == [400]


def test_what_a_filter_leaves_stays_in_chunks_for_whoever_takes_them(monkeypatch):
    monkeypatch.setattr(module, "written_out", None)
    part = pl.DataFrame({"x": range(20_000)})
    chunked = pl.concat([part, part], rechunk=False)
    made = RowSteps([Filtered([pl.col("x") % 100 == 0])], in_chunks=True)(chunked)
    assert made.n_chunks() == 2
    assert_frame_equal(made, chunked.filter(pl.col("x") % 100 == 0))
