"""Windows that give their results early, or again: the changelog is a lawful one, and folds to the model's windows."""

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
from mamba_stream.operators.changes import OP_COLUMN
from tests.runtime.desk import put
from tests.runtime.model import SCHEMA, SEEDS, Row, at, cuts, frame, partitions
from tests.runtime.test_same_rows import MEMORY, crash_along, one_step
from tests.runtime.test_window_kinds import AGGREGATES, Kind, growing, judged, moved, results, sessions
from tests.sizes import examples

KINDS = {
    "tumbling": moved(10, 10, 0),
    "hopping": moved(15, 5, 2),
    "cumulative": growing(20, 5),
    "session": sessions(4),
    "long session": sessions(15),
}
WAYS = {
    "update": ({"emit": "update"}, 0),
    "update now and then": ({"emit": "update", "every": "7s"}, 0),
    "early": ({"every": "3s"}, 0),
    "corrected": ({"corrections": "15s"}, 15),
    "all of it": ({"emit": "update", "corrections": "15s"}, 15),
    "early and corrected": ({"every": "4s", "corrections": "20s"}, 20),
}
CASES = [(name, way) for name in KINDS for way in WAYS if "session" not in name or way == "update"]


def stream_of(source: Any, kind: Kind, way: dict[str, Any], keyed: bool) -> mamba.Stream:
    return source.window(kind.spec, by="key" if keyed else None, **way).agg(**AGGREGATES)


def replayed(log: pl.DataFrame, key: list[str]) -> list[tuple[Any, ...]]:
    """The table that a changelog makes, each of whose rows must be lawful where it comes."""
    table: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    places = [log.columns.index(name) - 1 for name in key]
    taken: tuple[Any, ...] | None = None
    for op, *values in log.rows():
        row = tuple(values)
        at = tuple(row[place] for place in places)
        if op == "+I":
            assert at not in table
        elif op == "-D":
            # A session that another one took in.
            assert repr(table.pop(at)) == repr(row)
            continue
        elif op == "-U":
            assert repr(table.pop(at)) == repr(row)
            taken = at
            continue
        else:
            assert op == "+U"
            assert taken == at
        taken = None
        table[at] = row
    return sorted(table.values(), key=repr)


def check(
    kind: Kind, parts: list[list[Row]], lateness: int, keyed: bool, out: pl.DataFrame, late: pl.DataFrame
):
    on_time, too_late = judged(parts, lateness, kind.late_by)
    # The end of a session is what is known of it by now; and of a window's end a late row lacks one tick more.
    of_rows = "session" in kind.spec.words
    key = [*(["key"] if keyed else []), "window_start", *([] if of_rows else ["window_end"])]
    assert replayed(out, key) == results(kind.windows(on_time, keyed), keyed)
    lacked = pl.col("late_by").dt.total_milliseconds() - (0 if of_rows else 1)
    found = late.select("ts", "key", "value", lacked).rows()
    expected = [(time, key, value, by * 1_000) for time, key, value, by in too_late]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def check_crashing(
    name: str, way: str, parts: list[list[Row]], lateness: int, keyed: bool, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    arguments, corrections = WAYS[way]
    stream = stream_of(mamba.stream("rows", lateness=f"{lateness}s"), KINDS[name], arguments, keyed)
    made = mamba.pipeline("job", stream.to("out"), stream.late.to("late"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=len(parts), time="ts")
        crash_along(log, made, [(number, frame(batch)) for number, batch in cuts(parts, chance)], chance)
        topic.end()
        mamba.run(made, log)
        out, late = (log[name].scan().collect() for name in ("out", "late"))
        check(KINDS[name], parts, lateness + corrections, keyed, out, late)


CASE = st.sampled_from(CASES)
LATENESS = st.sampled_from([0, 5, 20])


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASE, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(case, rows, lateness, keyed, seed):
    check_crashing(*case, rows, lateness, keyed, seed)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASE, rows=partitions(most=1), lateness=LATENESS, keyed=st.booleans())
def test_collecting_gives_the_table_and_changes_its_log(case, rows, lateness, keyed):
    name, way = case
    arguments, corrections = WAYS[way]
    source = mamba.stream(frame(rows[0]), time="ts", lateness=f"{lateness}s")
    stream = stream_of(source, KINDS[name], arguments, keyed)
    check(KINDS[name], rows, lateness + corrections, keyed, stream.changes().collect(), stream.late.collect())
    on_time, _ = judged(rows, lateness + corrections, KINDS[name].late_by)
    expected = results(KINDS[name].windows(on_time, keyed), keyed)
    assert sorted(stream.collect().rows(), key=repr) == expected


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=CASE, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_crashing_anywhere_changes_nothing_many_times(case, rows, lateness, keyed, seed):
    check_crashing(*case, rows, lateness, keyed, seed)


def given_after(log: mamba.Log, batches: list[list[int]], **way: Any) -> list[list[tuple[str, int, int]]]:
    """What each batch of times makes windows of ten seconds give: operation, start in seconds, count."""
    counts = mamba.stream("rows").window(mamba.tumbling("10s"), **way).agg(n=pl.len())
    made = mamba.pipeline("job", counts.to("out"))
    seen, found = 0, []
    for times in batches:
        put(log["rows"], 0, *((time, "a", 1) for time in times))
        mamba.run(made, log, until="now")
        out = log["out"].scan().collect()
        news = out.slice(seen).select(OP_COLUMN, (pl.col("window_start") - at(0)).dt.total_seconds(), "n")
        found.append(news.rows())
        seen = out.height
    return found


@pytest.fixture
def one(log: mamba.Log) -> mamba.Log:
    log.create_topic("rows", SCHEMA, time="ts")
    return log


def test_updates_come_with_every_batch(one):
    assert given_after(one, [[1, 2], [3], [12], [4]], emit="update") == [
        [("+I", 0, 2)],
        [("-U", 0, 2), ("+U", 0, 3)],
        [("+I", 10, 1)],
        [],
    ]


def test_early_results_come_when_time_has_come_another_step(one):
    assert given_after(one, [[1], [2], [4], [5], [9], [10], [12]], every="4s") == [
        [("+I", 0, 1)],
        [],
        [("-U", 0, 1), ("+U", 0, 3)],
        [],
        [("-U", 0, 3), ("+U", 0, 5)],
        [],
        [("+I", 10, 2)],
    ]


def test_corrections_come_at_once_for_as_long_as_they_may(one):
    batches = [[1], [12], [3], [16], [2], [30], [31]]
    assert given_after(one, batches, corrections="5s") == [
        [],
        [("+I", 0, 1)],
        [("-U", 0, 1), ("+U", 0, 2)],
        [],
        [],
        [("+I", 10, 2)],
        [],
    ]


def test_a_window_that_is_corrected_no_more_leaves_the_state(one):
    counts = mamba.stream("rows").window(mamba.tumbling("10s"), corrections="5s").agg(n=pl.len())
    put(one["rows"], 0, *((time, "a", 1) for time in range(200)))
    run = one_step(one, mamba.pipeline("job", counts.to("out")), 500)
    run.step()
    (step,) = run.engine.flow.steps.values()
    assert step.rows <= 4


def test_what_has_no_end_before_it_is_over_cannot_be_given_early():
    stream = mamba.stream(frame([Row(1, "a", 1)]), time="ts")
    for way in ({"emit": "update"}, {"every": "1s"}, {"corrections": "1s"}):
        with pytest.raises(
            mamba.PipelineRefused, match="3 rows gives its results once: several windows of a key"
        ):
            stream.window(mamba.rows(3), **way)
    for way in ({"every": "1s"}, {"corrections": "1s"}, {"emit": "update", "every": "1s"}):
        with pytest.raises(mamba.PipelineRefused, match="session 1s takes emit='update'"):
            stream.window(mamba.session("1s"), **way)
    with pytest.raises(mamba.PipelineRefused, match="choose 'final' or 'update'"):
        stream.window(mamba.tumbling("1s"), emit="always")
    with pytest.raises(mamba.InvalidInput, match="window every must be longer than nothing"):
        stream.window(mamba.tumbling("1s"), every="0s")
    with pytest.raises(mamba.InvalidInput, match="window corrections must not be negative"):
        stream.window(mamba.tumbling("1s"), corrections="-1s")
    with pytest.raises(mamba.PipelineRefused, match="whole ms"):
        stream.window(mamba.tumbling("1s"), every="1500us").agg(pl.len())


def test_what_would_look_at_whole_windows_is_refused_on_windows_that_change():
    stream = mamba.stream(frame([Row(1, "a", 1)]), time="ts")
    counts = stream.window(mamba.tumbling("1s"), by="key", emit="update").agg(n=pl.len())
    with pytest.raises(mamba.ExpressionRefused):
        counts.filter(pl.col("n") == pl.col("n").max().over("window_start"))
