"""Every kind of window gives what a model in plain Python gives, however rows are cut, and wherever a run crashes."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.operators import window
from tests.runtime.model import SCHEMA, SEEDS, Row, at, cuts, frame, partitions
from tests.runtime.test_same_rows import MEMORY, crash_along
from tests.sizes import examples

Found = dict[tuple[Any, ...], list[Row]]
Judge = Callable[[int, int | None], int | None]
"""From a row's time and the watermark that it met: by how many seconds it is late, if it is."""


@dataclass(frozen=True)
class Kind:
    """A kind of window with its model.

    Attributes:
        spec: The windows.
        late_by: When a row is late.
        windows: The windows of rows that were not, in the stream's order, each with the watermark that it met: by
            (key, start, end in milliseconds).
    """

    spec: Any
    late_by: Judge
    windows: Callable[[list[tuple[Row, int | None]], bool], Found]


def sessions(gap: int) -> Kind:
    def windows(rows: list[tuple[Row, int | None]], keyed: bool) -> Found:
        by_key: dict[Any, list[list[Row]]] = defaultdict(list)
        for row, _ in rows:
            runs = by_key[row.key if keyed else None]
            if not runs or row.time - runs[-1][-1].time > gap:
                runs.append([])
            runs[-1].append(row)
        return {
            (key, run[0].time * 1_000, (run[-1].time + gap) * 1_000): run
            for key, runs in by_key.items()
            for run in runs
        }

    return Kind(mamba.session(f"{gap}s"), late_beyond(gap), windows)


def counted(count: int) -> Kind:
    def windows(rows: list[tuple[Row, int | None]], keyed: bool) -> Found:
        by_key: dict[Any, list[Row]] = defaultdict(list)
        for row, _ in rows:
            by_key[row.key if keyed else None].append(row)
        found = {}
        for key, members in by_key.items():
            for number, first in enumerate(range(0, len(members), count)):
                run = members[first : first + count]
                found[key, run[0].time * 1_000, run[-1].time * 1_000 + 1, number] = run
        return found

    return Kind(mamba.rows(count), late_beyond(0), windows)


def late_beyond(grace: int) -> Judge:
    def late_by(time: int, watermark: int | None) -> int | None:
        return None if watermark is None or time + grace >= watermark else watermark - time - grace

    return late_by


def bounded(spec: Any, of: Callable[[int], list[tuple[int, int]]]) -> Kind:
    """Windows by time: ``of`` gives those of a time, start and end in seconds since ``EPOCH``."""

    def late_by(time: int, watermark: int | None) -> int | None:
        last = max(end for _, end in of(time))
        return None if watermark is None or last > watermark else watermark - last

    def windows(rows: list[tuple[Row, int | None]], keyed: bool) -> Found:
        found: Found = defaultdict(list)
        for row, watermark in rows:
            for start, end in of(row.time):
                if watermark is None or end > watermark:
                    found[row.key if keyed else None, start * 1_000, end * 1_000].append(row)
        return dict(found)

    return Kind(spec, late_by, windows)


def growing(size: int, step: int, offset: int = 0) -> Kind:
    def of(time: int) -> list[tuple[int, int]]:
        start = (time - offset) // size * size + offset
        return [(start, end) for end in range(start + step, start + size + 1, step) if end > time]

    return bounded(mamba.cumulative(f"{size}s", f"{step}s", offset=f"{offset}s"), of)


def moved(size: int, every: int, offset: int) -> Kind:
    def of(time: int) -> list[tuple[int, int]]:
        last = (time - offset) // every * every + offset
        return [(start, start + size) for start in range(last, time - size, -every)]

    return bounded(mamba.hopping(f"{size}s", f"{every}s", offset=f"{offset}s"), of)


KINDS = {
    "session": sessions(4),
    "long session": sessions(15),
    "rows": counted(3),
    "single rows": counted(1),
    "cumulative": growing(20, 5),
    "cumulative offset": growing(30, 10, -3),
    "tumbling offset": moved(10, 10, 3),
    "hopping offset": moved(15, 5, 7),
}


def judged(parts: list[list[Row]], lateness: int, late_by: Judge) -> tuple[list[Any], list[Any]]:
    """The rows on time in the stream's order, with the watermark that each met, and the late ones."""
    placed, late = [], []
    for partition, rows in enumerate(parts):
        greatest = None
        for offset, row in enumerate(rows):
            if row.time is None:
                continue
            watermark = None if greatest is None else greatest - lateness
            by = late_by(row.time, watermark)
            if by is None:
                placed.append((row.time, partition, offset, row, watermark))
            else:
                late.append((at(row.time), row.key, row.value, by))
            greatest = row.time if greatest is None else max(greatest, row.time)
    ordered = sorted(placed, key=lambda item: item[:3])
    return [(row, watermark) for *_, row, watermark in ordered], sorted(late, key=repr)


AGGREGATES = {
    "count": pl.len(),
    "total": pl.col("value").sum(),
    "first": pl.col("value").first(),
    "mean": pl.col("value").mean(),
    "kept": pl.col("value").cum_sum().last(),
    "listed": pl.col("value"),
}


def results(found: Found, keyed: bool) -> list[Any]:
    rows = []
    for (key, start, end, *_), members in found.items():
        values = [row.value for row in members]
        edges = (at(0) + timedelta(milliseconds=start), at(0) + timedelta(milliseconds=end))
        mean = sum(values) / len(values)
        row = (*edges, len(values), sum(values), values[0], mean, sum(values), values)
        rows.append((key, *row) if keyed else row)
    return sorted(rows, key=repr)


def check(
    kind: Kind, parts: list[list[Row]], lateness: int, keyed: bool, out: pl.DataFrame, late: pl.DataFrame
):
    on_time, too_late = judged(parts, lateness, kind.late_by)
    assert sorted(out.rows(), key=repr) == results(kind.windows(on_time, keyed), keyed)
    lacked = pl.col("late_by").dt.total_milliseconds()
    found = late.select("ts", "key", "value", lacked).rows()
    # Of a window's end, a row lacks one tick more.
    tick = 0 if kind.late_by.__qualname__.startswith("late_beyond") else 1
    expected = [(time, key, value, by * 1_000 + tick) for time, key, value, by in too_late]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def windowed(stream: mamba.Stream, kind: Kind, keyed: bool) -> mamba.Stream:
    return stream.window(kind.spec, by="key" if keyed else None).agg(**AGGREGATES)


def check_crashing(kind: Kind, parts: list[list[Row]], lateness: int, keyed: bool, seed: int) -> None:
    chance = np.random.default_rng(seed)
    stream = windowed(mamba.stream("rows", lateness=f"{lateness}s"), kind, keyed)
    made = mamba.pipeline("job", stream.to("out"), stream.late.to("late"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=len(parts), time="ts")
        crash_along(log, made, [(number, frame(batch)) for number, batch in cuts(parts, chance)], chance)
        topic.end()
        mamba.run(made, log)
        check(kind, parts, lateness, keyed, log["out"].scan().collect(), log["late"].scan().collect())


NAMES = st.sampled_from(sorted(KINDS))
LATENESS = st.sampled_from([0, 5, 20, 60])


@settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(name, rows, lateness, keyed, seed):
    check_crashing(KINDS[name], rows, lateness, keyed, seed)


BY_TIME = st.sampled_from([name for name in sorted(KINDS) if "session" not in name and "rows" not in name])


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(name=BY_TIME, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_rows_that_are_not_put_aside_give_the_same(name, rows, lateness, keyed, seed):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(window, "_SMALL", 0)
        check_crashing(KINDS[name], rows, lateness, keyed, seed)


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(name=BY_TIME, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_rows_that_are_put_aside_until_there_are_few_more_give_the_same(name, rows, lateness, keyed, seed):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(window, "_ENOUGH", 7)
        check_crashing(KINDS[name], rows, lateness, keyed, seed)


@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, rows=partitions(most=1), lateness=LATENESS, keyed=st.booleans())
def test_collecting_a_frame_gives_the_models_windows_and_late_rows(name, rows, lateness, keyed):
    stream = windowed(mamba.stream(frame(rows[0]), time="ts", lateness=f"{lateness}s"), KINDS[name], keyed)
    check(KINDS[name], rows, lateness, keyed, stream.collect(), stream.late.collect())


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, rows=partitions(), lateness=LATENESS, keyed=st.booleans(), seed=SEEDS)
def test_crashing_anywhere_changes_nothing_many_times(name, rows, lateness, keyed, seed):
    check_crashing(KINDS[name], rows, lateness, keyed, seed)
