"""Joins in windows give what a model in plain Python gives, however rows are cut, and wherever a run crashes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from tests.runtime.joinmodel import Placed, joined
from tests.runtime.model import SCHEMA, SEEDS, Row, at, expect, partitions
from tests.runtime.test_interval_join import HOWS, feed, rows_in, rows_of
from tests.runtime.test_same_rows import MEMORY, late_in, late_of
from tests.sizes import examples

SPECS = st.sampled_from([(10, 10), (10, 5), (12, 5), (60, 60)])


def windows_of(parts: list[list[Row]], lateness: int, spec: tuple[int, int]) -> dict[int, list[Placed]]:
    """The rows of each window."""
    places = {id(row): (number, place) for number, rows in enumerate(parts) for place, row in enumerate(rows)}
    found: dict[int, list[Placed]] = {}
    for (_, start), rows in expect(parts, lateness=lateness, size=spec[0], every=spec[1]).windows.items():
        found.setdefault(start, []).extend(Placed(row, *places[id(row)]) for row in rows)
    return found


def results(
    left: list[list[Row]], right: list[list[Row]], how: str, lateness: int, spec: tuple[int, int]
) -> dict[int, list[tuple[Placed | None, Placed | None]]]:
    one, other = windows_of(left, lateness, spec), windows_of(right, lateness, spec)
    return {
        start: pairs
        for start in sorted({*one, *other})
        if (pairs := joined(one.get(start, []), other.get(start, []), how, lambda a, b: True))
    }


def distinct(parts: list[list[Row]]) -> list[list[Row]]:
    """The same rows, each an object of its own."""
    return [[Row(row.time, row.key, row.value) for row in rows] for rows in parts]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(HOWS),
    spec=SPECS,
    lateness=st.sampled_from([0, 5, 60]),
    seed=SEEDS,
)
def test_crashing_anywhere_and_cutting_anyhow_gives_the_models_pairs(left, right, how, spec, lateness, seed):
    left, right = distinct(left), distinct(right)
    chance = np.random.default_rng(seed)
    windows = (
        mamba.tumbling(f"{spec[0]}s") if spec[0] == spec[1] else mamba.hopping(f"{spec[0]}s", f"{spec[1]}s")
    )
    sides = [mamba.stream(name, lateness=f"{lateness}s") for name in ("left", "right")]
    result = sides[0].join(sides[1], on="key", how=how, window=windows)
    values = [pl.col("value").cast(pl.String)]
    if how not in ("semi", "anti"):
        values.append(pl.col("value_right").cast(pl.String))
    in_turn = result.rename({"window_start": "began", "window_end": "ended"}).window(
        mamba.tumbling(f"{spec[1]}s"), by="began"
    )
    listed = in_turn.agg(listed=pl.concat_str(values, separator=" ", ignore_nulls=True))
    shown = result if how != "right" else result.with_columns(key_right=pl.col("key"), key=pl.lit("x"))
    made = mamba.pipeline(
        "job",
        shown.to("out"),
        result.late.to("late"),
        result.late_other.to("late_other"),
        listed.to("listed"),
    )
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        expected = results(left, right, how, lateness, spec)
        out = log["out"].scan().collect()
        for start, pairs in expected.items():
            assert rows_in(out.filter(pl.col("window_start") == at(start)), how) == rows_of(pairs)
        assert out.height == sum(map(len, expected.values()))
        assert set(
            out.select((pl.col("window_end") - pl.col("window_start")).dt.total_seconds()).to_series()
        ) <= {spec[0]}
        for topic, parts in (("late", left), ("late_other", right)):
            model = expect(parts, lateness=lateness, size=spec[0], every=spec[1])
            assert late_in(log[topic].scan().collect()) == late_of(model)
        found = dict(log["listed"].scan().select("began", "listed").collect().rows())
        assert found == {at(start): texts(pairs) for start, pairs in expected.items()}


def texts(pairs: list[tuple[Placed | None, Placed | None]]) -> list[str]:
    def place(pair: tuple[Placed | None, Placed | None]) -> Any:
        return [(-1, -1, -1) if one is None else (one.partition, one.offset) for one in pair]

    return [
        " ".join(str(one.row.value) for one in pair if one is not None) for pair in sorted(pairs, key=place)
    ]


def test_a_window_of_a_join_is_whole():
    rows = pl.DataFrame({"ts": [at(s) for s in (0, 1, 2, 10, 11)], "key": ["a"] * 5, "n": [1, 2, 3, 4, 5]})
    one, other = (mamba.stream(rows, time="ts", name=name) for name in ("left", "right"))
    joined = one.join(other, on="key", window=mamba.tumbling("10s"))
    best = joined.filter(
        pl.col("n") + pl.col("n_right") == (pl.col("n") + pl.col("n_right")).max().over("window_start")
    )
    assert best.collect().select("n", "n_right").rows() == [(3, 3), (5, 5)]


def test_the_state_of_a_join_shows_the_rows_of_open_windows(log):
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts").append(
            pl.DataFrame([(at(0), "a", 1), (at(50), "b", 2)], schema=SCHEMA, orient="row")
        )
    joined = mamba.stream("left").join(
        mamba.stream("right"), on="key", window=mamba.tumbling("10s"), name="same"
    )
    made = mamba.pipeline("job", joined.to("out"))
    mamba.run(made, log, until="now")
    state = mamba.start(made, log, until="now").state("same")
    assert state.select("side", "window_start", "key", "key_right").sort("side").rows() == [
        ("left", at(50), "b", None),
        ("right", at(50), None, "b"),
    ]
