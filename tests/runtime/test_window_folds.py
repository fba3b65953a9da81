"""Aggregates that are added up in arrays give what a model in plain Python gives, however rows are cut and a run crashes."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.operators import folding, grouping, rows as row_steps, window
from tests.runtime.model import SCHEMA, SEEDS, Row, at, cuts, frame, partitions
from tests.runtime.test_same_rows import MEMORY, crash_along
from tests.runtime.test_window_kinds import BY_TIME, KINDS, LATENESS, Kind, judged
from tests.sizes import examples

AGGREGATES = {
    "count": pl.len(),
    "total": pl.col("value").sum(),
    "mean": pl.col("value").mean(),
    "least": pl.col("value").min(),
    "greatest": (pl.col("value") * 0.5).max(),
    "ups": pl.col("value").filter(pl.col("value") > 0).count(),
}


def results(kind: Kind, on_time: list[tuple[Row, int | None]], keyed: bool) -> list[Any]:
    rows = []
    for (key, start, end, *_), members in kind.windows(on_time, keyed).items():
        values = [row.value for row in members]
        edges = (at(0) + timedelta(milliseconds=start), at(0) + timedelta(milliseconds=end))
        ups = sum(value > 0 for value in values)
        mean = sum(values) / len(values)
        row = (*edges, len(values), sum(values), mean, min(values), max(values) * 0.5, ups)
        flag = None if key is None else key == "a"
        rows.append((flag, None if flag is None else 5 * flag - 7, *row) if keyed else row)
    return sorted(rows, key=repr)


def pipeline(kind: Kind, lateness: int, keyed: bool) -> mamba.Pipeline:
    rows = mamba.stream("rows", lateness=f"{lateness}s").with_columns(flag=pl.col("key") == "a")
    rows = rows.with_columns(number=pl.col("flag").cast(pl.Int16) * 5 - 7)
    keys = ["flag", "number"] if keyed else None
    return mamba.pipeline("job", rows.window(kind.spec, by=keys).agg(**AGGREGATES).to("out"))


@settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(name=BY_TIME, parts=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(name, parts, lateness, keyed, seed):
    kind, chance = KINDS[name], np.random.default_rng(seed)
    made = pipeline(kind, lateness, keyed)
    with (
        pytest.MonkeyPatch.context() as patched,
        tempfile.TemporaryDirectory(dir=MEMORY) as place,
        mamba.open(Path(place) / "log") as log,
    ):
        patched.setattr(grouping, "_WORTH_IT", 0)
        patched.setattr(grouping, "_CELLS_A_ROW", 1_000)
        patched.setattr(window, "_SMALL", int(chance.choice([0, 40])))
        topic = log.create_topic("rows", SCHEMA, partitions=len(parts), time="ts")
        crash_along(log, made, [(number, frame(batch)) for number, batch in cuts(parts, chance)], chance)
        topic.end()
        mamba.run(made, log)
        on_time, _ = judged(parts, lateness, kind.late_by)
        assert sorted(log["out"].scan().collect().rows(), key=repr) == results(kind, on_time, keyed)


SUMS = {
    "rows": pl.len(),
    "total": pl.col("x").sum(),
    "most": pl.col("x").max(),
    "even": (pl.col("x") % 2 == 0).sum(),
}


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    height=st.sampled_from([2, 10, 60]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    least=st.sampled_from([None, -9, -2, 3]),
    keyed=st.booleans(),
    seed=SEEDS,
)
def test_rows_that_lie_in_chunks_give_what_they_give_together(height, cuts, least, keyed, seed):
    """From their source to where they are added up, with a filter on the way or without."""
    chance = np.random.default_rng(seed)
    whole = pl.DataFrame(
        {
            "ts": [at(int(second)) for second in chance.integers(0, 200, height)],
            "id": chance.integers(0, 3, height),
            "x": chance.integers(-5, 6, height),
        }
    )
    ends = sorted({0, height, *(cut for cut in cuts if cut < height)})
    rows = pl.concat([whole[first:end] for first, end in pairwise(ends)], rechunk=False)
    stream = mamba.stream(rows, time="ts", lateness="1d")
    if least is not None:
        stream, whole = stream.filter(pl.col("x") > least), whole.filter(pl.col("x") > least)
    windows = stream.window(mamba.tumbling("1m"), by="id" if keyed else None).agg(**SUMS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(grouping, "_WORTH_IT", 0)
        patched.setattr(grouping, "_CELLS_A_ROW", 1_000)
        patched.setattr(window, "_SMALL", 0)
        patched.setattr(row_steps, "_MANY", 2)
        found = windows.collect()
    keys = ["window_start", "id"] if keyed else ["window_start"]
    expected = whole.with_columns(window_start=pl.col("ts").dt.truncate("1m")).group_by(keys).agg(**SUMS)
    assert_frame_equal(found.select(expected.columns).sort(keys), expected.sort(keys))


def test_a_window_over_whole_numbers_close_together_is_added_up(monkeypatch):
    """As many rows as come far behind: what the test above forces happens by itself."""
    added = []
    add = folding.Adding.add
    monkeypatch.setattr(
        folding.Adding, "add", lambda self, rows, cells: added.append(rows.height) or add(self, rows, cells)
    )
    count = 20_000
    part = pl.DataFrame(
        {"ts": [at(second // 100) for second in range(count)], "id": np.arange(count) % 700, "x": 0.5}
    )
    rows = pl.concat([part, part.with_columns(pl.col("ts") + timedelta(hours=1))], rechunk=False)
    windows = (
        mamba.stream(rows, time="ts")
        .filter(pl.col("id") > 0)
        .window(mamba.tumbling("1m"), by="id")
        .agg(rows=pl.len(), total=pl.col("x").sum(), most=pl.col("x").max())
    )
    found = windows.collect().sort("window_start", "id")
    expected = (
        rows.filter(pl.col("id") > 0)
        .group_by(window_start=pl.col("ts").dt.truncate("1m"), id=pl.col("id"))
        .agg(rows=pl.len(), total=pl.col("x").sum(), most=pl.col("x").max())
    )
    assert found.drop("window_end").select(expected.columns).equals(expected.sort("window_start", "id"))
    left = part.filter(pl.col("id") > 0).height
    assert added[:2] == [left, left]
