"""Joins of which it is said that keys of a side are unique: what Polars gives with the same, and a state that lets go."""

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
from mamba_stream.operators.changes import table_of
from mamba_stream.operators.joined import Outcome
from mamba_stream.operators.unboundedjoin import UnboundedJoin, UnboundedSettings
from mamba_stream.operators.uniquekeys import Wanted
from tests.runtime.model import SCHEMA, SEEDS, Row, frame
from tests.runtime.test_interval_join import feed
from tests.runtime.test_same_rows import MEMORY

SIDES = {"m:1": (False, True), "1:m": (True, False), "1:1": (True, True)}


def side(height: int, *, unique: bool, chance: np.random.Generator) -> list[Row]:
    """Rows whose keys, as words and as numbers, are all different or not; nulls are no keys."""
    span = 2 * height + 5
    numbers = chance.permutation(span)[:height] if unique else chance.integers(0, span, height)
    nulls = chance.random(height) < 0.1
    return [
        Row(place, None if null else f"k{number}", int(number))
        for place, (number, null) in enumerate(zip(numbers.tolist(), nulls, strict=True))
    ]


def in_partitions(rows: list[Row], chance: np.random.Generator) -> list[list[Row]]:
    count = int(chance.integers(1, 4))
    places = chance.integers(0, count, len(rows))
    return [
        [row for row, place in zip(rows, places, strict=True) if place == number] for number in range(count)
    ]


def in_rows(table: pl.DataFrame) -> list[str]:
    return sorted(map(repr, table.rows()))


FILTERS: dict[str, list[pl.Expr]] = {
    "none": [],
    "the right side": [pl.col("value_right") % 3 == 0],
    "both sides": [pl.col("value_right") % 3 == 0, pl.col("value") % 2 == 0],
    "the left side": [pl.col("ts") > pl.lit(1_704_067_203_000).cast(pl.Datetime("ms"))],
    "what may be null": [pl.col("ts_right").is_null() | (pl.col("value_right") > 4)],
}


@pytest.mark.parametrize("behind", list(FILTERS))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    validate=st.sampled_from(list(SIDES)),
    how=st.sampled_from(["inner", "inner", "inner", "left", "right", "full"]),
    on=st.sampled_from(["key", "value", "both"]),
    heights=st.tuples(st.sampled_from([0, 1, 7, 60]), st.sampled_from([0, 1, 7, 60])),
    seed=SEEDS,
)
def test_crashing_anywhere_and_cutting_anyhow_gives_what_polars_gives(
    validate, how, on, behind, heights, seed
):
    chance = np.random.default_rng(seed)
    keys: Any = ["key", "value"] if on == "both" else on
    rows = [
        side(height, unique=unique, chance=chance)
        for height, unique in zip(heights, SIDES[validate], strict=True)
    ]
    parts = {word: in_partitions(own, chance) for word, own in zip(("left", "right"), rows, strict=True)}
    # Under names of its own, each column is there whatever the join is on.
    names = {"value": "value_right", "ts": "ts_right", "key": "key_right"}
    own_keys = [names[name] for name in ([keys] if isinstance(keys, str) else keys)]
    joined: dict[str, Any] = {"left_on": keys, "right_on": own_keys, "how": how}
    result = mamba.stream("left").join(
        mamba.stream("right").rename(names), **joined, validate=validate, ttl="forever"
    )
    expected = frame(rows[0]).join(frame(rows[1]).rename(names), **joined)
    predicates = [expr for expr in FILTERS[behind] if set(expr.meta.root_names()) <= set(expected.columns)]
    if predicates:
        result, expected = result.filter(*predicates), expected.filter(*predicates)
    made = mamba.pipeline("job", result.to("out"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for word, own in parts.items():
            log.create_topic(word, SCHEMA, partitions=len(own), time="ts")
        feed(log, made, parts, chance)
        out = log["out"].scan().collect()
        table = out if how == "inner" else table_of(out)
        assert in_rows(table.select(expected.columns)) == in_rows(expected)
        assert in_rows(result.collect(log)) == in_rows(expected)
        if how == "inner":
            # Whether they met before or after a restart, who has met is gone.
            many = ("left", "right")[SIDES[validate].index(False)] if validate != "1:1" else ""
            met = set() if predicates else set(expected.get_column("ts" if many == "left" else "ts_right"))
            shown = state_of(log, made).filter(pl.col("side") == many)
            times = shown.get_column("ts" if many == "left" else "ts_right")
            assert not many or not met & set(times)


def state_of(log: mamba.Log, made: Any) -> pl.DataFrame:
    job = mamba.start(made, log=log, until="now")
    job.wait()
    (step,) = job.status.state_bytes
    return job.state(step)


def topics(log: mamba.Log) -> mamba.Stream:
    for word in ("left", "right"):
        log.create_topic(word, SCHEMA, time="ts")
    return mamba.stream("left").join(mamba.stream("right"), on="value", validate="m:1", ttl="forever")


def kept(log: mamba.Log, made: Any) -> list[tuple[str, int]]:
    return sorted(state_of(log, made).select("side", pl.coalesce("value", "value_right")).rows())


def test_rows_that_have_met_theirs_leave_the_state_and_do_not_come_back_with_it(log):
    made = mamba.pipeline("job", topics(log).to("out"))
    log["left"].append(frame([Row(0, "a", 1), Row(1, "b", 2), Row(2, "c", 3)]))
    assert kept(log, made) == [("left", 1), ("left", 2), ("left", 3)]
    log["right"].append(frame([Row(0, "x", 2)]))
    assert kept(log, made) == [("left", 1), ("left", 3), ("right", 2)]
    log["left"].append(frame([Row(3, "d", 2), Row(4, "e", 2), Row(5, "f", 9)]))
    assert kept(log, made) == [("left", 1), ("left", 3), ("left", 9), ("right", 2)]
    assert sorted(log["out"].scan().collect().get_column("key")) == ["b", "d", "e"]


def test_of_rows_that_the_filter_behind_leaves_out_the_key_is_kept(log):
    result = topics(log).filter(pl.col("key_right") == "wanted")
    made = mamba.pipeline("job", result.to("out"))
    log["left"].append(frame([Row(0, "a", 1), Row(1, "b", 2), Row(2, "c", 3)]))
    log["right"].append(frame([Row(0, "other", 2), Row(1, "wanted", 1)]))
    assert kept(log, made) == [("left", 3), ("right", 1)]
    log["left"].append(frame([Row(3, "d", 2), Row(4, "e", 1)]))
    assert kept(log, made) == [("left", 3), ("right", 1)]
    assert sorted(log["out"].scan().collect().get_column("key")) == ["a", "e"]


def test_rows_that_find_theirs_there_never_enter_the_state():
    types = {"key": pl.Int64(), "value": pl.Int64()}
    columns = {"key": (0, "key"), "value": (0, "value"), "value_right": (1, "value")}
    made = UnboundedSettings(
        on=(("key",), ("key",)),
        how="inner",
        changes=(False, False),
        outcome=Outcome(columns, {name: pl.Int64() for name in columns}),
        gives_changes=False,
        types=(types, types),
        unique=(False, True),
        said="said",
        wanted=Wanted([pl.col("value_right") > 0], {"value_right": "value"}),
    )
    step = UnboundedJoin(made)
    step.add(pl.DataFrame({"key": [1, 2, 3], "value": [0, 0, 1]}), 1)
    step.snapshot()
    made = step.add(pl.DataFrame({"key": [1, 2, 3, 4, None], "value": [10, 20, 30, 40, 50]}), 0)
    assert made.rows is not None
    assert made.rows.rows() == [(3, 30, 1)]
    (rows,) = step.delta().values()
    assert rows.rows() == [(4, 40)]
    assert step.rows == 3 + 1


def test_another_filter_behind_it_needs_another_state(log):
    joined = topics(log)
    log["right"].append(frame([Row(0, "one", 1), Row(1, "two", 2)]))
    one = joined.filter(pl.col("key_right") == "one")
    mamba.run(mamba.pipeline("job", one.to("out")), log=log, until="now")
    two = joined.filter(pl.col("key_right") == "two")
    with pytest.raises(mamba.PipelineRefused, match="does not fit the state"):
        mamba.run(mamba.pipeline("job", two.to("out")), log=log, until="now")


def test_a_filter_that_raises_over_a_row_that_meets_none_does_no_harm(log):
    number = pl.col("key_right").cast(pl.Int64)
    result = topics(log).filter(number > 5)
    log["right"].append(frame([Row(0, "no number", 1), Row(1, "7", 2)]))
    log["left"].append(frame([Row(0, "a", 2)]))
    assert result.collect(log).get_column("key").to_list() == ["a"]
    log["left"].append(frame([Row(1, "b", 1)]))
    with pytest.raises(mamba.StepFailed, match="no number"):
        result.collect(log)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_second_row_of_a_key_fails_the_job_and_says_which(log, together, wanted):
    result = topics(log)
    if not wanted:
        result = result.filter(pl.col("key_right") == "nothing")
    made = mamba.pipeline("job", result.to("out"))
    rows = [Row(0, "x", 1), Row(1, "y", 2), Row(2, "z", 1)]
    for batch in [rows] if together else [rows[:2], rows[2:]]:
        log["right"].append(frame(batch))
    with pytest.raises(
        mamba.StepFailed, match=r"validate='m:1'\) says that .* another row with value = 1: take"
    ):
        mamba.run(made, log=log, until="now")


def test_nor_is_a_second_row_of_a_key_left_out_for_which_that_is_may_be_chance(log):
    made = mamba.pipeline("job", topics(log).to("out"), on_error="skip")
    log["right"].append(frame([Row(0, "x", 1), Row(1, "y", 1)]))
    with pytest.raises(mamba.StepFailed, match="another row with value = 1"):
        mamba.run(made, log=log, until="now")


def test_a_null_key_may_come_as_often_as_it_likes(log):
    for word in ("left", "right"):
        log.create_topic(word, SCHEMA, time="ts")
    result = mamba.stream("left").join(mamba.stream("right"), on="key", validate="1:1", ttl="forever")
    for word in ("left", "right"):
        log[word].append(frame([Row(0, None, 1), Row(1, "a", 2), Row(2, None, 3)]))
    assert result.collect(log).select("value", "value_right").rows() == [(2, 2)]
