"""Joins without bounds give what a join of Polars gives of both sides as they are in the end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.operators.changes import folded
from mamba_stream.operators.columns import OP, OP_TYPE
from mamba_stream.operators.joined import Outcome
from mamba_stream.operators.unboundedjoin import UnboundedJoin, UnboundedSettings
from tests.runtime.model import SCHEMA, SEEDS, Row, frame, partitions
from tests.runtime.test_interval_join import HOWS, feed
from tests.runtime.test_same_rows import MEMORY
from tests.sizes import examples

KEYS = ["a", "b", "c", None]
TYPES = {"key": pl.String(), "value": pl.Int64()}


def in_rows(table: pl.DataFrame) -> list[str]:
    return sorted(map(repr, table.rows()))


def polars_join(left: pl.DataFrame, right: pl.DataFrame, how: Any) -> pl.DataFrame:
    return left.join(right, on="key", how=how)


def all_rows(parts: list[list[Row]]) -> pl.DataFrame:
    return frame([row for rows in parts for row in rows])


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(left=partitions(), right=partitions(), how=st.sampled_from(HOWS), seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_gives_the_join_of_all_rows(left, right, how, seed):
    # Rows without a time are rejected at their source.
    left, right = (
        [[row for row in rows if row.time is not None] for rows in parts] for parts in (left, right)
    )
    chance = np.random.default_rng(seed)
    result = mamba.stream("left").join(mamba.stream("right"), on="key", how=how, ttl="forever")
    made = mamba.pipeline("job", result.to("out"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        out = log["out"].scan().collect()
        expected = polars_join(all_rows(left), all_rows(right), how)
        if how in ("inner", "semi"):
            assert out.schema == expected.schema
            assert in_rows(out) == in_rows(expected)
        else:
            words = {"+I": 0, "-D": 3}
            changes = out.with_columns(pl.col("_op").replace_strict(words, return_dtype=OP_TYPE).alias(OP))
            assert in_rows(folded(changes, (), expected.columns)) == in_rows(expected)
        assert in_rows(result.collect(log)) == in_rows(expected)


def changelog(height: int, chance: np.random.Generator, *, deletes: bool) -> pl.DataFrame:
    """Rows that are added and taken back, never more often than they were added."""
    rows: list[tuple[str | None, int | None, int]] = []
    there: list[tuple[str | None, int | None]] = []
    for _ in range(height):
        if deletes and there and chance.random() < 0.45:
            rows.append((*there.pop(int(chance.integers(0, len(there)))), int(chance.choice([1, 3]))))
        else:
            row = KEYS[chance.integers(0, 4)], [None, 0, 1, 2][chance.integers(0, 4)]
            there.append(row)
            rows.append((*row, int(chance.choice([0, 2]))))
    return pl.DataFrame(rows, schema={"key": pl.String, "value": pl.Int64, OP: OP_TYPE}, orient="row")


def step_of(how: Any, changes: tuple[bool, bool]) -> tuple[UnboundedJoin, list[str], bool]:
    both = polars_join(pl.DataFrame(schema=TYPES), pl.DataFrame(schema=TYPES), how)
    own = {"key": (1 if how == "right" else 0, "key"), "key_right": (1, "key"), "value": (0, "value")}
    columns: dict[str, Any] = {name: own.get(name, (1, "value")) for name in both.columns}
    gives = any(changes) or how not in ("inner", "semi")
    made = UnboundedSettings(
        on=(("key",), ("key",)),
        how=how,
        changes=changes,
        outcome=Outcome(columns, dict(both.schema)),
        gives_changes=gives,
        types=(TYPES, TYPES),
    )
    return UnboundedJoin(made), both.columns, gives


@settings(max_examples=examples(200), deadline=None)
@given(
    how=st.sampled_from(HOWS),
    changes=st.tuples(st.booleans(), st.booleans()),
    heights=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    seed=SEEDS,
)
def test_retractions_of_either_side_are_followed_through_cuts_and_restores(how, changes, heights, seed):
    chance = np.random.default_rng(seed)
    sides = [changelog(height, chance, deletes=own) for height, own in zip(heights, changes, strict=True)]
    step, columns, gives = step_of(how, changes)
    saved: list[tuple[str, pl.DataFrame]] = []
    gathered: list[pl.DataFrame] = []
    places = [0, 0]
    while any(place < side.height for place, side in zip(places, sides, strict=True)):
        port = int(chance.integers(0, 2))
        batch = sides[port].slice(places[port], int(chance.integers(1, 15)))
        places[port] += batch.height
        if not batch.height:
            continue
        made = step.add(batch if changes[port] else batch.drop(OP), port)
        if made.rows is not None:
            gathered.append(made.rows)
        if chance.random() < 0.3:
            whole = chance.random() < 0.3
            parts = step.snapshot() if whole else step.delta()
            saved = ([] if whole else saved) + list(parts.items())
            step, _, _ = step_of(how, changes)
            for part, rows in saved:
                step.restore(part, rows)
            step.restored(0)
    tables = [folded(side, (), ["key", "value"]) for side in sides]
    expected = polars_join(tables[0], tables[1], how)
    found = pl.concat(gathered) if gathered else pl.DataFrame(schema=expected.schema)
    if gives and gathered:
        found = folded(found, (), columns)
    assert in_rows(found.select(columns)) == in_rows(expected)
    shown = step.view()
    for word, table in zip(("left", "right"), tables, strict=True):
        kept = shown.filter(pl.col("side") == word).height
        assert kept <= table.height


def test_what_is_taken_back_leaves_the_state():
    step, _, _ = step_of("inner", (True, True))
    for number in range(500):
        row = pl.DataFrame({"key": ["a"], "value": [number]})
        step.add(row.with_columns(pl.lit(0, dtype=OP_TYPE).alias(OP)), 0)
        step.add(row.with_columns(pl.lit(3, dtype=OP_TYPE).alias(OP)), 0)
    step.delta()
    assert step.rows == 0


def test_rows_that_only_matter_by_being_there_are_kept_once():
    step, _, _ = step_of("semi", (False, False))
    rows = pl.DataFrame({"key": ["a", "b"] * 500, "value": range(1_000)})
    step.add(rows, 1)
    assert step.rows == 2
    made = step.add(rows, 0)
    assert made.rows is not None
    assert made.rows.height == 1_000
    assert step.rows == 2


def test_more_pairs_than_can_be_held_are_an_error():
    step, _, _ = step_of("inner", (False, False))
    rows = pl.DataFrame({"key": ["a"] * 20_000, "value": range(20_000)})
    step.add(rows, 0)
    with pytest.raises(ValueError, match="400,000,000 pairs, which are too many"):
        step.add(rows, 1)


def test_a_time_to_live_lets_rows_meet_that_are_no_further_apart(log):
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
    log["left"].append(frame([Row(0, "a", 1), Row(90, "a", 2)]))
    log["right"].append(frame([Row(60, "a", 3), Row(200, "a", 4)]))
    result = mamba.stream("left").join(mamba.stream("right"), on="key", ttl="1m")
    assert sorted(result.collect(log).select("value", "value_right").rows()) == [(1, 3), (2, 3)]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=5_000, deadline=None)
@given(
    how=st.sampled_from(HOWS),
    changes=st.tuples(st.booleans(), st.booleans()),
    heights=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    seed=SEEDS,
)
def test_retractions_are_followed_many_times(how, changes, heights, seed):
    test_retractions_of_either_side_are_followed_through_cuts_and_restores.hypothesis.inner_test(
        how, changes, heights, seed
    )
