"""A window step in two halves gives what the whole gives: rows, late rows and their reasons, and the same state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.operators.changes import in_words, table_of
from mamba_stream.operators.columns import (
    BEHIND,
    OFFSET,
    ORDINAL,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    tick_values,
)
from mamba_stream.operators.halves import FirstHalf, SecondHalf
from mamba_stream.operators.lateness import FOREVER, NEVER, rows_behind, watermark_of
from mamba_stream.operators.step import Made, StatefulStep
from mamba_stream.operators.window import WindowStep
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis, analyse
from mamba_stream.plan.changelogs import Totals
from mamba_stream.plan.halves import in_halves, partials_schema
from mamba_stream.runtime.halves import first_half_of, second_half_of
from mamba_stream.runtime.latecounts import LateCounts
from mamba_stream.runtime.steps import step_of
from tests.runtime.model import SEEDS, Row, frame, partitions
from tests.sizes import examples

VALUE = pl.col("value")
AGGREGATES = {
    "count": pl.len(),
    "total": VALUE.sum(),
    "mean": VALUE.mean(),
    "most": VALUE.max(),
    "first": VALUE.first(),
    "last": VALUE.last(),
    "few": VALUE.filter(VALUE > 0).first(),
    "different": VALUE.n_unique(),
    "middle": VALUE.median(),
}
WINDOWS = {
    "tumbling": mamba.tumbling("10s"),
    "hopping": mamba.hopping("12s", "5s"),
    "many": mamba.hopping("60s", "7s"),
    "cumulative": mamba.cumulative("60s", "20s"),
    "by the calendar": mamba.tumbling("1mo"),
}
MILLISECONDS = 1000


def planned(spec: Any, by: str | None) -> tuple[n.Window, Analysis]:
    stream = mamba.stream(frame([]), time="ts").window(spec, by=by).agg(**AGGREGATES)
    node = stream._node
    assert isinstance(node, n.Window)
    return node, analyse([node], {})


@dataclass
class Partition:
    """A partition on the way to a step: through a first half, and as it is."""

    half: FirstHalf
    left: list[Row]
    lateness: int
    number: int
    offset: int = 0
    greatest: int = NEVER
    idle: bool = False
    rows: list[pl.DataFrame] = field(default_factory=list)
    partials: list[pl.DataFrame] = field(default_factory=list)
    said: int = NEVER

    def read(self, count: int, seen: LateCounts) -> None:
        """Some rows come, in a batch of their own."""
        batch, self.left = self.left[:count], self.left[count:]
        given = frame([row for row in batch if row.time is not None])
        behind, self.greatest = rows_behind(tick_values(given, "ts").to_numpy(), self.greatest, self.lateness)
        origin = {SOURCE: 0, PARTITION: self.number, OFFSET: pl.int_range(pl.len()) + self.offset, ORDINAL: 0}
        given = given.with_columns(
            (pl.lit(value) if isinstance(value, int) else value).cast(ORIGIN_TYPES[name]).alias(name)
            for name, value in origin.items()
        )
        if behind is not None:
            met = pl.Series(BEHIND, behind.watermark).to_frame()
            met = met.with_columns(pl.when(pl.Series(behind.rows)).then(BEHIND).alias(BEHIND))
            given = given.hstack(met)
        self.offset += len(batch)
        self.rows.append(given)
        note(self.half.add(given, 0), seen)
        seen.rows += given.height

    def commit(self) -> None:
        """What is held goes on, and how far time came is said."""
        partials = self.half.take()
        if partials is not None:
            self.partials.append(partials)
        self.said = watermark_of(self.greatest, self.lateness)


def note(made: Made, counts: LateCounts) -> None:
    if made.late is not None:
        counts.count(made.late)


def counted(counts: LateCounts) -> tuple[object, ...]:
    return counts.rows, counts.by_watermark, counts.by_idleness, sorted(counts.short.counts.items())


def rows_of(step: StatefulStep, watermark: int) -> list[tuple[object, ...]]:
    if watermark <= step.closed:
        return []
    given = [made.rows for made in step.advance(watermark) if made.rows is not None]
    return sorted((row for rows in given for row in rows.rows()), key=repr)


def check(parts: list[list[Row]], spec: Any, by: str | None, lateness: int, seed: int) -> tuple[int, int]:
    """Runs both over the same rows; how many rows were late, by reason."""
    node, analysis = planned(spec, by)
    assert in_halves(node, analysis)
    schema = partials_schema(node, analysis)
    chance = np.random.default_rng(seed)
    through = [
        Partition(first_half_of(node, analysis), list(rows), lateness * MILLISECONDS, number)
        for number, rows in enumerate(parts)
    ]
    whole: StatefulStep = step_of(node, analysis)
    second: StatefulStep = second_half_of(node, analysis)
    assert isinstance(whole, WindowStep)
    assert isinstance(second, SecondHalf)
    of_whole, of_halves = LateCounts(), LateCounts()
    while any(one.left or one.rows for one in through):
        one = through[int(chance.integers(len(through)))]
        if one.left and chance.random() < 0.7:
            one.idle = False
            one.read(int(chance.integers(1, 30)), of_halves)
            continue
        if chance.random() < 0.1:
            one.half.rest()
        one.commit()
        one.idle = not one.rows and chance.random() < 0.5
        for rows in one.rows:
            of_whole.rows += rows.height
            note(whole.add(rows, 0), of_whole)
        if one.partials:
            partials = pl.concat(one.partials)
            assert partials.schema == schema
            assert partials.height <= sum(rows.height for rows in one.rows)
            note(second.add(partials, 0), of_halves)
        one.rows, one.partials = [], []
        awake = [other.said for other in through if not other.idle]
        reached = min(awake, default=NEVER)
        assert rows_of(second, reached) == rows_of(whole, reached)
        if chance.random() < 0.2:
            # Each goes on from what the other left.
            states = second.snapshot(), whole.snapshot()
            closed = whole.closed
            whole, second = step_of(node, analysis), second_half_of(node, analysis)
            for step, state in zip((whole, second), states, strict=True):
                for part, saved in state.items():
                    step.restore(part, saved)
                step.restored(closed)
    assert rows_of(second, FOREVER) == rows_of(whole, FOREVER)
    assert counted(of_halves) == counted(of_whole)
    return of_whole.by_watermark, of_whole.by_idleness


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=partitions(),
    spec=st.sampled_from(list(WINDOWS)),
    by=st.sampled_from(["key", None]),
    lateness=st.sampled_from([0, 5, 20, 60]),
    seed=SEEDS,
)
def test_two_halves_do_what_the_whole_does(parts, spec, by, lateness, seed):
    check(parts, WINDOWS[spec], by, lateness, seed)


@pytest.mark.parametrize("spec", ["tumbling", "hopping", "many", "cumulative"])
def test_rows_are_late_for_both_reasons(spec):
    chance = np.random.default_rng(7)
    late = [0, 0]
    for seed in range(6):
        # At the very ends of windows, too.
        times = np.cumsum(chance.integers(-5, 6, (3, 150), endpoint=True), axis=1) * 5
        parts = [[Row(int(time), "a", int(time) % 7) for time in some] for some in times]
        found = check(parts, WINDOWS[spec], "key", 5, seed)
        late = [before + more for before, more in zip(late, found, strict=True)]
    assert min(late) > 0


def test_what_is_not_done_in_halves():
    rows = mamba.stream(frame([]), time="ts")
    tumbling = rows.window(mamba.tumbling("10s"), by="key")

    def split(*outputs: mamba.Stream) -> bool:
        nodes = [stream._node for stream in outputs]
        analysis = analyse(nodes, {})
        return in_halves(next(node for node in analysis.nodes if isinstance(node, n.Stateful)), analysis)

    count = tumbling.agg(count=pl.len())
    assert split(count)
    assert not split(count, count.late)
    assert not split(tumbling.agg(listed=VALUE))
    assert not split(rows.window(mamba.session("5s"), by="key").agg(count=pl.len()))
    assert not split(rows.window(mamba.rows(5), by="key").agg(count=pl.len()))
    assert not split(rows.window(mamba.tumbling("10s"), by="key", emit="update").agg(count=pl.len()))
    assert split(rows.group_by("key").agg(count=pl.len()))
    assert not split(rows.group_by("key").agg(different=VALUE.n_unique()))
    assert not split(rows.group_by("key").agg(listed=VALUE))
    assert not split(rows.group_by("key", ttl="1m").agg(count=pl.len()))


ROWS = mamba.stream(frame([]), time="ts")
OF_ROWS = {name: AGGREGATES[name] for name in ("count", "total", "mean", "most", "first", "last", "few")}
TOTALS = {
    "by key": ROWS.group_by("key").agg(**OF_ROWS),
    "of all": ROWS.group_by().agg(**OF_ROWS),
    "of a table": ROWS.group_by("key", "value")
    .agg(count=pl.len())
    .group_by("count")
    .agg(keys=pl.len(), total=VALUE.sum(), mean=VALUE.mean()),
}


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=partitions(), totals=st.sampled_from(list(TOTALS)), seed=SEEDS)
def test_totals_in_halves_fold_to_the_same_table(parts, totals, seed):
    node = TOTALS[totals]._node
    assert isinstance(node, Totals)
    analysis = analyse([node], {})
    assert in_halves(node, analysis)
    chance = np.random.default_rng(seed)
    before = [step_of(node.parent, analysis) if isinstance(node.parent, Totals) else None for _ in parts]
    halves = [first_half_of(node, analysis) for _ in parts]
    whole, second = step_of(node, analysis), second_half_of(node, analysis)
    changes: dict[str, list[pl.DataFrame]] = {"whole": [], "halves": []}
    waiting = [with_origin(rows, number) for number, rows in enumerate(parts)]
    while any(rows.height for rows in waiting):
        at = int(chance.integers(len(parts)))
        count = int(chance.integers(1, 30))
        some, waiting[at] = waiting[at][:count], waiting[at][count:]
        first = before[at]
        rows = some if first is None else first.add(some, 0).rows
        if rows is not None:
            changes["whole"].append(whole.add(rows, 0).rows)
            halves[at].add(rows, 0)
        for half in halves:
            if chance.random() < 0.2 and (partials := half.take()) is not None:
                assert partials.select(partials_schema(node, analysis).names()).schema == partials_schema(
                    node, analysis
                )
                changes["halves"].append(second.add(partials, 0).rows)
            assert not half.snapshot()
        if chance.random() < 0.1:
            states = whole.snapshot()
            whole = step_of(node, analysis)
            for part, saved in states.items():
                whole.restore(part, saved)
            whole.restored(NEVER)
    for half in halves:
        if (partials := half.take()) is not None:
            changes["halves"].append(second.add(partials, 0).rows)
    tables = [
        table_of(pl.concat(in_words(one) for one in given)).rows()
        for given in ([one for one in some if one is not None] for some in changes.values())
        if given
    ]
    of_whole, of_halves = (sorted(table, key=repr) for table in tables) if tables else ([], [])
    assert of_halves == of_whole
    state = step_of(node, analysis)
    for part, saved in second.snapshot().items():
        state.restore(part, saved)
    state.restored(NEVER)
    assert state.view().equals(whole.view())


def with_origin(rows: list[Row], number: int) -> pl.DataFrame:
    given = frame([row for row in rows if row.time is not None])
    origin = {SOURCE: 0, PARTITION: number, ORDINAL: 0}
    return given.with_columns(
        *(pl.lit(value, ORIGIN_TYPES[name]).alias(name) for name, value in origin.items()),
        pl.int_range(pl.len(), dtype=pl.Int64).alias(OFFSET),
    )
