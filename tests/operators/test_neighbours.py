"""``rolling``, ``lag``, ``diff`` and ``match``: as Polars or a model row by row has it, however rows come."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.testing import assert_equivalent, strategies
from mamba_stream.testing.operators import StepContract
from tests.sizes import examples

SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "x": pl.Int64, "y": pl.Float64}
BEGIN = datetime(2024, 1, 1)


def random_rows(seed: int, rows: int = 150, span: int = 400, disorder: int = 40) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    seconds = np.sort(random.integers(0, span, rows)) + random.integers(-disorder, 1, rows)
    return pl.DataFrame(
        {
            "ts": [BEGIN + timedelta(seconds=int(second)) for second in seconds],
            "key": [[None, "a", "b", "c"][at] for at in random.integers(0, 4, rows)],
            "x": [None if x == 0 else int(x) for x in random.integers(0, 9, rows)],
            "y": random.integers(0, 4, rows) / 4,
        },
        schema=SCHEMA,
    )


DATA = [
    {"rows": random_rows(1)},
    {"rows": [random_rows(2), random_rows(3)]},
    {"rows": random_rows(4).head(1)},
    {"rows": random_rows(5).clear()},
]


def in_order(data) -> pl.DataFrame:
    parts = data["rows"] if isinstance(data["rows"], list) else [data["rows"]]
    numbered = [
        part.with_row_index("offset").with_columns(part=pl.lit(number)) for number, part in enumerate(parts)
    ]
    return pl.concat(numbered).sort("ts", "part", "offset").drop("part", "offset")


def rows(lateness: str = "10m") -> mamba.Stream:
    return mamba.stream("rows", lateness=lateness)


AGGREGATES = {
    "total": pl.col("x").sum(),
    "mean": pl.col("y").mean(),
    "most": pl.col("x").max(),
    "first": pl.col("x").first(),
    "count": pl.len(),
    "listed": pl.col("x").filter(pl.col("x") > 3),
}


class TestRolling(StepContract):
    data = DATA
    runs = examples(12, least=4)

    def stream(self) -> mamba.Stream:
        return rows().rolling("30s", by="key").agg(**AGGREGATES)

    def expected(self, data):
        ordered = in_order(data)
        if ordered.is_empty():
            return None
        return ordered.rolling("ts", period="30s", group_by="key").agg(**AGGREGATES)


class TestRollingWithoutKey(StepContract):
    data = DATA
    runs = examples(12, least=4)

    def stream(self) -> mamba.Stream:
        return (
            rows()
            .rolling("30s")
            .with_columns(total=pl.col("x").sum(), spread=pl.col("y").max() - pl.col("y").min())
        )

    def expected(self, data):
        ordered = in_order(data)
        results = ordered.rolling("ts", period="30s").agg(
            total=pl.col("x").sum(), spread=pl.col("y").max() - pl.col("y").min()
        )
        return ordered.hstack(results.drop("ts"))


class TestLag(StepContract):
    data = DATA
    runs = examples(12, least=4)

    def stream(self) -> mamba.Stream:
        return rows().lag(["x", "y"], 2, by="key")

    def expected(self, data):
        return in_order(data).with_columns(pl.col("x", "y").shift(2).over("key").name.suffix("_lag"))


class TestDiffWithoutKey(StepContract):
    data = DATA
    runs = examples(12, least=4)

    def stream(self) -> mamba.Stream:
        return rows().diff("x")

    def expected(self, data):
        return in_order(data).with_columns(x_diff=pl.col("x").diff())


LOW, HIGH = pl.col("x") <= 3, pl.col("x") >= 7
STEPS = [mamba.step("low", LOW), mamba.step("high", HIGH, within="20s"), mamba.step("again", LOW)]


def matches_of(data, *, overlapping: bool, keyed: bool = True) -> pl.DataFrame:
    """Row by row."""
    by_key: dict = defaultdict(list)
    for row in in_order(data).iter_rows(named=True):
        by_key[row["key"] if keyed else None].append(row)
    found = []
    for key, members in by_key.items():
        free = 0
        for at, first in enumerate(members):
            if at < free or first["x"] is None or first["x"] > 3:
                continue
            chain = [at]
            for holds, bound in ((lambda x: x >= 7, 20), (lambda x: x <= 3, None)):
                nxt = next(
                    (
                        i
                        for i in range(chain[-1] + 1, len(members))
                        if members[i]["x"] is not None and holds(members[i]["x"])
                    ),
                    None,
                )
                if nxt is None or members[nxt]["ts"] - first["ts"] > timedelta(seconds=60):
                    break
                if bound is not None and members[nxt]["ts"] - members[chain[-1]]["ts"] > timedelta(
                    seconds=bound
                ):
                    break
                chain.append(nxt)
            if len(chain) == 3:
                low, high, again = (members[i] for i in chain)
                found.append((key, low["ts"], again["ts"], low["x"] + high["x"], again["y"]))
                free = free if overlapping else chain[-1] + 1
    schema = {
        "key": pl.String,
        "match_start": pl.Datetime("us"),
        "match_end": pl.Datetime("us"),
        "both": pl.Int64,
        "y": pl.Float64,
    }
    frame = pl.DataFrame(found, schema=schema, orient="row")
    return frame if keyed else frame.drop("key")


class TestMatch(StepContract):
    data = DATA
    runs = examples(12, least=4)
    by: str | None = "key"
    overlapping = False

    def stream(self) -> mamba.Stream:
        return (
            rows()
            .match(STEPS, self.by, within="1m", overlapping=self.overlapping)
            .agg(both=pl.col("low.x") + pl.col("high.x"), y=pl.col("again.y"))
        )

    def expected(self, data):
        return matches_of(data, overlapping=self.overlapping, keyed=self.by is not None)


class TestMatchThatOverlaps(TestMatch):
    overlapping = True


class TestMatchWithoutKey(TestMatch):
    by = None


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=strategies.partitions(SCHEMA, time="ts", span="2m", max_rows=40),
    lateness=st.sampled_from(["0s", "10s", "5m"]),
)
def test_late_rows_are_the_same_however_rows_come(parts, lateness):
    data = {"rows": parts}
    for made in (
        rows(lateness).rolling("20s", by="key").with_columns(n=pl.len()),
        rows(lateness).lag("x", by="key"),
        rows(lateness).match(STEPS, "key", within="1m").agg(x=pl.col("low.x")),
    ):
        assert_equivalent(made, data, time="ts", runs=2)


def test_matches_of_random_rows_are_those_of_the_model():
    for seed in range(30):
        data = {"rows": random_rows(seed, rows=60, span=150)}
        for overlapping in (False, True):
            stream = mamba.stream(data["rows"], time="ts", lateness="10m")
            found = stream.match(STEPS, "key", within="1m", overlapping=overlapping).agg(
                both=pl.col("low.x") + pl.col("high.x"), y=pl.col("again.y")
            )
            assert_frame_equal(
                found.collect(), matches_of(data, overlapping=overlapping), check_row_order=False
            )


def test_rows_after_a_rolling_step_keep_their_order_and_feed_windows():
    data = {"rows": random_rows(7)}
    window = mamba.tumbling("1m")
    chained = (
        rows()
        .rolling("30s", by="key")
        .with_columns(n=pl.len())
        .window(window)
        .agg(firsts=pl.col("n").first(), all=pl.col("n"))
    )
    played = assert_equivalent(chained, data, time="ts", runs=4).played["out"]
    ordered = in_order(data)
    by_key = ordered.with_row_index("i").partition_by("key")
    counted = [part.hstack(part.rolling("ts", period="30s").agg(n=pl.len()).select("n")) for part in by_key]
    rolled = pl.concat(counted).sort("i")
    expected = rolled.group_by(window_start=pl.col("ts").dt.truncate("1m"), maintain_order=True).agg(
        all=pl.col("n")
    )
    assert played.select("window_start", "all").equals(expected)


def test_state_leaves_as_time_passes():
    from mamba_stream.operators.rolling import RollingStep
    from mamba_stream.plan.analysis import analyse
    from mamba_stream.runtime.steps import step_of

    table = pl.DataFrame(
        {"ts": [BEGIN + timedelta(seconds=s) for s in range(1_000)], "key": ["a"] * 1_000, "x": range(1_000)}
    )
    for made in (
        mamba.stream(table, time="ts").rolling("10s", by="key").agg(n=pl.len()),
        mamba.stream(table, time="ts").match(STEPS, "key", within="10s").agg(x=pl.col("low.x")),
    ):
        assert made.collect().height >= 0
        analysis = analyse([made._node], {})
        step = step_of(made._node, analysis)
        assert isinstance(step, RollingStep) or step.rows == 0


@pytest.mark.parametrize(
    ("verb", "error", "says"),
    [
        (lambda s: s.rolling("0s"), mamba.InvalidInput, "rolling period"),
        (lambda s: s.rolling("1m", by="kye").agg(n=pl.len()), mamba.ColumnNotFound, "no column 'kye'.*did you mean 'key'"),
        (lambda s: s.rolling("1m").agg(n=pl.col("z").sum()), mamba.ColumnNotFound, "'z'"),
        (lambda s: s.rolling("1m").agg(pl.col("x"), x=pl.len()), mamba.PipelineRefused, "two results are called 'x'"),
        (lambda s: s.rolling("1m").agg(ts=pl.len()), mamba.PipelineRefused, "two columns 'ts'"),
        (lambda s: s.rolling("1m").with_columns(ts=pl.len()), mamba.PipelineRefused, "replace the step's time or key"),
        (lambda s: s.drop("ts").rolling("1m").agg(n=pl.len()), mamba.PipelineRefused, "rolling needs the stream's time"),
        (lambda s: s.lag("x", 0), mamba.PipelineRefused, "n=0"),
        (lambda s: s.lag([]), mamba.PipelineRefused, "at least one column"),
        (lambda s: s.lag("x", suffix=""), mamba.PipelineRefused, "a column 'x' already"),
        (lambda s: s.diff("key"), mamba.PipelineRefused, "."),
        (lambda s: s.match([mamba.step("a", LOW)], within="1m"), mamba.PipelineRefused, "at least two"),
        (lambda s: s.match([mamba.step("a", LOW), mamba.step("a", HIGH)], within="1m"), mamba.PipelineRefused, "two steps are called 'a'"),
        (lambda s: s.match([mamba.step("a", LOW), mamba.step("b", pl.col("x"))], within="1m").agg(x=pl.col("a.x")), mamba.ExpressionRefused, "must be Boolean"),
        (lambda s: s.match([mamba.step("a", LOW), mamba.step("b", pl.col("x") > pl.col("x").mean())], within="1m").agg(x=pl.col("a.x")), mamba.ExpressionRefused, "looks at all rows"),
        (lambda s: s.match([mamba.step("a", LOW), mamba.step("b", HIGH)], within="1m").agg(x=pl.col("c.x")), mamba.ColumnNotFound, "'c.x'"),
        (lambda s: mamba.step("a b", LOW), mamba.PipelineRefused, "letters, digits and _"),
        (lambda s: mamba.step("a", "x > 3"), mamba.PipelineRefused, "takes an expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_at_the_users_line(verb, error, says):
    stream = mamba.stream(random_rows(1), time="ts")
    with pytest.raises(error, match=says):
        verb(stream)
