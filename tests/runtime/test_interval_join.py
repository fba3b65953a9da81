"""Interval joins give the pairs of a model in plain Python, however rows are cut, and wherever a run crashes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream import testing
from mamba_stream.operators import intervaljoin
from mamba_stream.operators.changes import table_of
from mamba_stream.operators.columns import TIME
from mamba_stream.operators.pairing import close_pairs
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.run import Run
from tests.runtime.desk import ManualClock, put
from tests.runtime.joinmodel import Placed, in_order, joined, judged
from tests.runtime.model import SCHEMA, SEEDS, Row, at, cuts, frame, partitions
from tests.runtime.test_same_rows import MEMORY, one_step
from tests.sizes import examples

HOWS = ["inner", "left", "right", "full", "semi", "anti"]
BOUNDS = [(-5, 5), (0, 20), (-20, 0), (3, 9), (-9, -3), (0, 0), (-1, 40), None]
"""In seconds; ``None`` stands for an upper bound that each left row has for itself."""


def within(bounds: tuple[int, int] | None) -> Any:
    if bounds is None:
        own = pl.when(pl.col("value") != 3).then(pl.duration(seconds=4 * pl.col("value")))
        return ("-2s", own)
    return (timedelta(seconds=bounds[0]), timedelta(seconds=bounds[1]))


def meets(bounds: tuple[int, int] | None, left: Row, right: Row) -> bool:
    assert left.time is not None and right.time is not None
    apart = right.time - left.time
    if bounds is None:
        return left.value != 3 and -2 <= apart <= 4 * left.value
    return bounds[0] <= apart <= bounds[1]


def streams(lateness: int) -> tuple[mamba.Stream, mamba.Stream]:
    left = mamba.stream("left", lateness=f"{lateness}s")
    return left, mamba.stream("right", lateness=f"{lateness}s")


def pipeline(how: Any, bounds: tuple[int, int] | None, lateness: int) -> Pipeline:
    left, right = streams(lateness)
    result = left.join(right, on="key", how=how, within=within(bounds))
    if how == "right":
        result = result.with_columns(key_right=pl.col("key"), key=pl.lit(None, dtype=pl.String))
    return mamba.pipeline("job", result.to("out"), result.late.to("late"), result.late_other.to("late_other"))


def rows_of(pairs: list[tuple[Placed | None, Placed | None]]) -> list[tuple[object, ...]]:
    """Times and values of both sides."""
    return sorted((tuple(_shown(placed) for placed in pair) for pair in pairs), key=repr)


def _shown(placed: Placed | None) -> object:
    return None if placed is None else (at(placed.time), placed.row.value)


def rows_in(out: pl.DataFrame, how: str) -> list[tuple[object, ...]]:
    if how in ("semi", "anti"):
        return sorted((((ts, value), None) for ts, value in out.select("ts", "value").rows()), key=repr)
    found = out.select("ts", "value", "ts_right", "value_right").rows()
    return sorted(
        (((a, b) if a is not None else None, (c, d) if c is not None else None) for a, b, c, d in found),
        key=repr,
    )


def feed(
    log: mamba.Log, made: Pipeline, sides: dict[str, list[list[Row]]], chance: np.random.Generator
) -> None:
    """Appends rows in batches of any size, with runs in between that end in the middle of something."""
    batches = [(side, *batch) for side, parts in sides.items() for batch in cuts(parts, chance)]
    # The order of batches of a partition stays; those of the sides are shuffled into each other.
    order = chance.permutation([side for side, _, _ in batches])
    waiting = {side: [batch for batch in batches if batch[0] == side] for side in sides}
    for side in order:
        _, number, batch = waiting[side].pop(0)
        log[side].append(frame(batch), partition=number)
        if chance.random() < 0.7:
            continue
        run = one_step(log, made, int(chance.integers(1, 9)))
        for _ in range(int(chance.integers(0, 30))):
            run.step()
            if chance.random() < 0.3:
                run.commit("running")
        # The run is dropped here: what it did since its last commit never happened.
    for side in sides:
        log[side].end()
    mamba.run(made, log)


def check(
    left: list[list[Row]],
    right: list[list[Row]],
    how: Any,
    bounds: tuple[int, int] | None,
    lateness: int,
    seed: int,
) -> None:
    chance = np.random.default_rng(seed)
    made = pipeline(how, bounds, lateness)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        one, other = judged(left, lateness), judged(right, lateness)
        expected = joined(one.on_time, other.on_time, how, lambda a, b: meets(bounds, a, b))
        assert rows_in(log["out"].scan().collect(), how) == rows_of(expected)
        for topic, side in (("late", one), ("late_other", other)):
            late = log[topic].scan().collect()
            shown = late.select("ts", "value", pl.col("late_by").dt.total_seconds()).rows()
            assert sorted(shown) == sorted((at(row.time or 0), row.value, by) for row, by in side.late)
        again = mamba.run(made, log)
        assert (again.rows_in, again.rows_out) == (0, 0)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(HOWS),
    bounds=st.sampled_from(BOUNDS),
    lateness=st.sampled_from([0, 5, 60]),
    seed=SEEDS,
)
def test_crashing_anywhere_and_cutting_anyhow_gives_the_models_pairs(
    left, right, how, bounds, lateness, seed
):
    check(left, right, how, bounds, lateness, seed)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(HOWS),
    bounds=st.sampled_from(BOUNDS),
    lateness=st.sampled_from([0, 20]),
    seed=SEEDS,
)
def test_what_depends_on_order_sees_the_results_in_one_order(left, right, how, bounds, lateness, seed):
    chance = np.random.default_rng(seed)
    one, other = streams(lateness)
    result = one.join(other, on="key", how=how, within=within(bounds))
    values = [pl.col("value").cast(pl.String)]
    if how not in ("semi", "anti"):
        values.append(pl.col("value_right").cast(pl.String))
    listed = result.window(mamba.tumbling("30s")).agg(
        listed=pl.concat_str(values, separator=" ", ignore_nulls=True)
    )
    made = mamba.pipeline("job", listed.to("out"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        found = log["out"].scan().sort("window_start").collect().get_column("listed").to_list()
    pairs = joined(
        judged(left, lateness).on_time, judged(right, lateness).on_time, how, lambda a, b: meets(bounds, a, b)
    )
    windows: dict[int, list[str]] = {}
    for pair in in_order(pairs):
        there = [placed for placed in pair if placed is not None]
        window = max(placed.time for placed in there) // 30
        windows.setdefault(window, []).append(" ".join(str(placed.row.value) for placed in there))
    assert found == [windows[window] for window in sorted(windows)]


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(HOWS),
    bounds=st.sampled_from(BOUNDS),
    lateness=st.sampled_from([0, 20]),
    k=st.sampled_from([1, 2, 5]),
    seed=SEEDS,
)
def test_of_results_that_are_equally_good_the_first_in_the_one_order_are_the_best(
    left, right, how, bounds, lateness, k, seed
):
    """Also while they do not wait for their place: where two rows are from says which of their results is the first."""
    chance = np.random.default_rng(seed)
    one, other = streams(lateness)
    result = one.join(other, on="key", how=how, within=within(bounds)).filter(pl.lit(value=True))
    if how in ("semi", "anti"):
        result = result.with_columns(value_right=pl.lit(None, dtype=pl.Int64))
    best = result.with_columns(good=pl.col("value") % 2).top_k(k, by="good", per="key", rank="rank")
    made = mamba.pipeline("job", best.select("key", "value", "value_right", "rank").to("out"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        assert len(Prepared(made, log).analysis.by_sides) > 1
        feed(log, made, {"left": left, "right": right}, chance)
        found = table_of(log["out"].scan().collect()).select("key", "value", "value_right", "rank").rows()
    pairs = joined(
        judged(left, lateness).on_time, judged(right, lateness).on_time, how, lambda a, b: meets(bounds, a, b)
    )
    groups: dict[Any, list[tuple[Any, Any]]] = {}
    for pair in in_order(pairs):
        values = [None if placed is None else placed.row.value for placed in pair]
        # The key is the left row's, but for a right join.
        key_of = pair[1] if how == "right" else pair[0]
        groups.setdefault(None if key_of is None else key_of.row.key, []).append((values[0], values[1]))
    expected = [
        (key, *values, rank)
        for key, rows in groups.items()
        for rank, values in enumerate(
            sorted(rows, key=lambda pair: -1 if pair[0] is None else pair[0] % 2, reverse=True)[:k], 1
        )
    ]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_a_result_that_comes_later_is_the_best_where_its_rows_are_from_earlier_places(log):
    log.create_topic("left", SCHEMA, partitions=2, time="ts")
    log.create_topic("right", SCHEMA, partitions=2, time="ts")
    one, other = streams(60)
    best = one.join(other, on="key", within="20s").top_k(1, by="key", per="key")
    made = mamba.pipeline("job", best.select("key", "value", "value_right").to("out"))

    def best_after(side: str, partition: int, *rows: tuple[int, str, int]) -> list[tuple[object, ...]]:
        put(log[side], partition, *rows)
        # Each time as after a crash.
        run = one_step(log, made, 10)
        while run.step():
            pass
        run.commit("running")
        run.close()
        return sorted(table_of(log["out"].scan().collect()).rows())

    put(log["left"], 1, (5, "a", 1))
    assert best_after("right", 1, (10, "a", 10)) == [("a", 1, 10)]
    # All these have the time of the later row, which is the same.
    assert best_after("left", 0, (6, "a", 2)) == [("a", 2, 10)]
    assert best_after("left", 0, (6, "a", 3)) == [("a", 2, 10)]
    assert best_after("right", 0, (10, "a", 20)) == [("a", 2, 20)]
    # An earlier time is before any place.
    assert best_after("right", 1, (7, "a", 30)) == [("a", 2, 30)]


AFTER: dict[str, tuple[Callable[[mamba.Stream], mamba.Stream], bool]] = {
    "top_k": (
        lambda joined: joined.filter(pl.col("value") > 1).rename({"value": "v"}).top_k(2, by="v"),
        False,
    ),
    "top_k twice": (lambda joined: joined.top_k(2, by="value").top_k(1, by="value"), False),
    "unique": (lambda joined: joined.unique("key", within="1m"), True),
    "explode": (
        lambda joined: (
            joined.with_columns(v=pl.concat_list("value", "value_right")).explode("v").top_k(2, by="v")
        ),
        True,
    ),
    "map_batches": (
        lambda joined: joined.map_batches(lambda rows: rows, schema=dict(joined.schema)).top_k(2, by="value"),
        True,
    ),
    "concat": (lambda joined: mamba.concat([joined, joined]).top_k(2, by="value"), True),
    "unique, top_k": (lambda joined: joined.unique("key", within="1m").top_k(2, by="value"), True),
}


@pytest.mark.parametrize("name", AFTER)
def test_results_wait_for_their_place_where_a_step_needs_it(log, name):
    after, waits = AFTER[name]
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
    left, right = (log[side].stream() for side in ("left", "right"))
    made = mamba.pipeline("job", after(left.join(right, on="key", within="5s")).to("out"))
    assert (not Prepared(made, log).analysis.by_sides) == waits


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(most=1), seed=SEEDS, size=st.integers(1, 300))
def test_joining_with_itself_pairs_every_row_with_its_neighbours(rows, seed, size):
    (side,) = rows
    one = mamba.stream(frame(side), time="ts", lateness="1000d")
    found = one.join(one, on="key", within="7s").collect()
    placed = judged(rows, 100_000_000).on_time
    assert rows_in(found, "inner") == rows_of(
        joined(placed, placed, "inner", lambda a, b: abs(b.time - a.time) <= 7)
    )


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    height = draw(st.sampled_from([0, 1, 7, 60, 300]))
    chance = np.random.default_rng(draw(SEEDS))
    span = draw(st.sampled_from([50, 3_000]))

    def of(choices: list[Any]) -> list[Any]:
        return [choices[i] for i in chance.integers(0, len(choices), height)]

    return pl.DataFrame(
        {
            "ts": [at(int(second)) for second in chance.integers(0, span, height)],
            "text": of(["a", "b", "", None]),
            "number": of([0, 1, 2, 3, None]),
            "wide": of([-(1 << 62), 0, 1 << 62, None]),
            "flt": of([0.0, -0.0, float("nan"), 1.5, None]),
            "flag": of([True, False, None]),
            "value": chance.integers(0, 1000, height),
        },
        schema={
            "ts": pl.Datetime("us"),
            "text": pl.String,
            "number": pl.Int16,
            "wide": pl.Int64,
            "flt": pl.Float64,
            "flag": pl.Boolean,
            "value": pl.Int64,
        },
    )


KEYS = st.lists(
    st.sampled_from(["text", "number", "wide", "flt", "flag"]), min_size=1, max_size=3, unique=True
)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=tables(),
    right=tables(),
    keys=KEYS,
    how=st.sampled_from(["inner", "left", "semi", "anti", "right", "full"]),
)
def test_keys_of_any_type_are_equal_as_in_a_join_of_polars(left, right, keys, how):
    one = mamba.stream(left, time="ts", lateness="1000d", name="left")
    other = mamba.stream(right, time="ts", lateness="1000d", name="right")
    found = one.join(other, on=keys, how=how, within="10000d").collect()
    expected = left.join(right, on=keys, how=how)
    shown = found.drop("join_time", strict=False)
    assert shown.columns == expected.columns
    assert shown.schema == expected.schema
    assert sorted(map(repr, shown.rows())) == sorted(map(repr, expected.rows()))


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(left=tables(), right=tables(), low=st.integers(-90, 30), span=st.integers(0, 100), seed=SEEDS)
def test_an_inner_join_is_a_range_join_of_duckdb(left, right, low, span, seed):
    one = mamba.stream(left, time="ts", lateness="1000d", name="left")
    other = mamba.stream(right, time="ts", lateness="1000d", name="right")
    bounds = (timedelta(seconds=low), timedelta(seconds=low + span))
    found = one.join(other, left_on="text", right_on="text", within=bounds).collect()
    expected = duckdb.sql(
        f"""select l.value, r.value from "left" l join "right" r on l.text = r.text
            and r.ts between l.ts + interval ({low}) second and l.ts + interval ({low + span}) second"""
    ).fetchall()
    assert sorted(found.select("value", "value_right").rows()) == sorted(expected)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=tables(),
    right=tables(),
    low=st.integers(-90, 30),
    span=st.integers(0, 100),
    how=st.sampled_from(HOWS),
)
def test_few_keys_and_many_rows_are_paired_by_time(left, right, low, span, how):
    streams = [
        mamba.stream(t, time="ts", lateness="1000d", name=n) for t, n in ((left, "left"), (right, "right"))
    ]
    bounds = (timedelta(seconds=low), timedelta(seconds=low + span))
    joined = streams[0].join(streams[1], on=["flag", "number"], how=how, within=bounds)
    with pytest.MonkeyPatch.context() as patch:
        plain = joined.collect()
        patch.setattr(intervaljoin.IntervalJoin, "_pairs", always_by_time)
        by_time = joined.collect()
    assert sorted(map(repr, by_time.rows())) == sorted(map(repr, plain.rows()))


def always_by_time(step, frame, batch, run, port):
    sides = (batch, frame.get_column(TIME).to_numpy()), (run.keys, run.times())
    (left, lefts), (right, rights) = sides if port == 0 else sides[::-1]
    found = close_pairs(left, lefts, right, rights, step._set.lower, step._set.upper)
    return found if port == 0 else found[::-1]


def test_many_rows_of_three_keys_meet_their_neighbours_only():
    height = 300_000
    chance = np.random.default_rng(1)
    one, other = (
        pl.DataFrame({"ts": chance.integers(0, 300_000_000, height), "key": chance.integers(0, 3, height)})
        .sort("ts")
        .with_columns(pl.col("ts").cast(pl.Datetime("ms")))
        for _ in range(2)
    )
    joined = mamba.stream(one, time="ts", name="one").join(
        mamba.stream(other, time="ts", name="other"), on="key", within="1s"
    )
    found = joined.collect().height
    expected = 0
    for key in range(3):
        here, there = (
            rows.filter(pl.col("key") == key).get_column("ts").cast(pl.Int64).to_numpy()
            for rows in (one, other)
        )
        expected += int(
            (np.searchsorted(there, here + 1_000, "right") - np.searchsorted(there, here - 1_000)).sum()
        )
    assert found == expected


def test_more_pairs_than_can_be_held_stop_the_job_and_say_why():
    rows = pl.DataFrame({"ts": [at(0)] * 20_000, "key": [1] * 20_000, "far": [timedelta(1)] * 20_000})
    one, other = (mamba.stream(rows, time="ts", name=name) for name in ("one", "other"))
    with pytest.raises(
        mamba.StepFailed, match=r"400,000,000 pairs, which are too many.*join on further columns"
    ):
        one.join(other, on="key", within=("0s", pl.col("far"))).collect()


def test_state_leaves_when_time_has_passed_it(log):
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
    left, right = streams(0)
    result = left.join(right, on="key", how="left", within=("0s", "10s"))
    run = one_step(log, mamba.pipeline("job", result.to("out")), 100)
    (step,) = run.engine.flow.steps.values()
    for second in range(0, 300, 10):
        for side in ("left", "right"):
            put(log[side], 0, *((second + more, "a", 1) for more in range(10)))
        run = one_step(log, mamba.pipeline("job", result.to("out")), 100)
        while run.step():
            pass
        run.commit("running")
        (step,) = run.engine.flow.steps.values()
        assert step.rows <= 60
        assert step.horizon == step.closed - 10_000


def test_a_silent_side_holds_back_time_until_it_counts_as_idle(log):
    clock = ManualClock()
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
    result = mamba.stream("left", idle="5s").join(
        mamba.stream("right", idle="5s"), on="key", how="anti", within="1s"
    )
    made = mamba.pipeline("job", result.to("out"), result.late_other.to("late"))
    options = RunOptions(until="stopped", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=100)
    run = Run(made, log, options, clock)
    put(log["left"], 0, (0, "a", 1), (100, "a", 2), (200, "a", 3))
    run.step()
    run.step()
    assert run.rows_out == 0
    clock.seconds += 6
    run.step()
    run.commit("running")
    assert log["out"].scan().collect().get_column("value").to_list() == [1, 2]
    put(log["right"], 0, (100, "a", 9), (200, "a", 9))
    run.step()
    run.commit("running")
    assert log["late"].scan().collect().select("value", "late_reason").rows() == [(9, "idle")]


def test_the_state_of_a_join_shows_the_rows_that_wait(log):
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
        put(log[side], 0, (0, "a", 1), (50, "b", 2))
    left, right = streams(0)
    made = mamba.pipeline("job", left.join(right, on="key", within="10s", name="near").to("out"))
    mamba.run(made, log, until="now")
    state = mamba.start(made, log, until="now").state("near")
    assert state.sort("side").rows() == [
        ("left", "b", at(50), 2, None, None, None),
        ("right", None, None, None, "b", at(50), 2),
    ]
    assert state.columns == ["side", "key", "ts", "value", "key_right", "ts_right", "value_right"]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(HOWS),
    bounds=st.sampled_from(BOUNDS),
    lateness=st.sampled_from([0, 5, 60]),
    seed=SEEDS,
)
def test_crashing_anywhere_gives_the_models_pairs_many_times(left, right, how, bounds, lateness, seed):
    check(left, right, how, bounds, lateness, seed)


def test_a_row_that_only_earlier_ones_could_have_met_comes_out_when_it_comes_whatever_crashes():
    # It cannot meet any more when it comes: its bounds end before the watermark, which its own time does not.
    joined_ = mamba.stream("left", lateness="1s").join(
        mamba.stream("right", lateness="1s"), on="key", how="left", within=("-9s", "-5s")
    )
    first = [testing.Rows(side, [{"ts": at(100), "key": "a", "value": 1}]) for side in ("left", "right")]
    script = [
        *first,
        testing.Rows("left", [{"ts": at(101), "key": "b", "value": 2}]),
        testing.Commit(),
        testing.Crash(),
        testing.End("left"),
        testing.End("right"),
    ]
    played = testing.play(joined_, script, time="ts")
    assert sorted(played["out"].get_column("value")) == [1, 2]
