"""As-of joins are those of Polars over the rows that came in time, however rows are cut, and wherever a run crashes."""

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
from tests.runtime.desk import put
from tests.runtime.joinmodel import Judged, judged
from tests.runtime.model import SCHEMA, SEEDS, at, frame, partitions
from tests.runtime.test_interval_join import feed
from tests.runtime.test_same_rows import MEMORY, one_step
from tests.sizes import examples


def in_order(side: Judged) -> pl.DataFrame:
    """The rows that came in time, in the order of the stream."""
    placed = sorted(side.on_time, key=lambda one: (one.time, one.partition, one.offset))
    return frame([one.row for one in placed])


def expected(
    left: Judged, right: Judged, *, keyed: bool, strategy: Any, tolerance: str | None
) -> pl.DataFrame:
    return in_order(left).join_asof(
        in_order(right).with_columns(ts_right=pl.col("ts")),
        on="ts",
        by="key" if keyed else None,
        strategy=strategy,
        tolerance=tolerance,
        check_sortedness=False,
    )


STRATEGIES = st.sampled_from(
    [("backward", None), ("backward", "7s"), ("forward", "7s"), ("nearest", "9s"), ("nearest", "0s")]
)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=STRATEGIES,
    keyed=st.booleans(),
    lateness=st.sampled_from([0, 5, 60]),
    seed=SEEDS,
)
def test_crashing_anywhere_and_cutting_anyhow_gives_the_as_of_join_of_polars(
    left, right, how, keyed, lateness, seed
):
    strategy, tolerance = how
    chance = np.random.default_rng(seed)
    sides = [mamba.stream(name, lateness=f"{lateness}s") for name in ("left", "right")]
    result = sides[0].join_asof(
        sides[1], by="key" if keyed else None, strategy=strategy, tolerance=tolerance, coalesce=False
    )
    listed = result.window(mamba.tumbling("30s")).agg(pl.col("value"), pl.col("value_right"))
    made = mamba.pipeline(
        "job",
        result.to("out"),
        result.late.to("late"),
        result.late_other.to("late_other"),
        listed.to("listed"),
    )
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        one, other = judged(left, lateness), judged(right, lateness)
        want = expected(one, other, keyed=keyed, strategy=strategy, tolerance=tolerance)
        columns = ["ts", "key", "value", "value_right", "ts_right"]
        out = log["out"].scan().select(columns).collect()
        assert out.rows() == want.select(columns).rows()
        for topic, side in (("late", one), ("late_other", other)):
            assert sorted(log[topic].scan().select("value").collect().rows()) == sorted(
                (row.value,) for row, _ in side.late
            )
        windows = want.group_by(pl.col("ts").dt.truncate("30s"), maintain_order=True).agg(
            "value", "value_right"
        )
        assert (
            log["listed"].scan().select("window_start", "value", "value_right").collect().rows()
            == windows.rows()
        )


def test_the_columns_are_those_of_polars():
    rows = pl.DataFrame({"ts": [at(0)], "k": [1], "v": [2], "w": [3]})
    one, other = (mamba.stream(rows, time="ts", name=name) for name in ("left", "right"))
    for by in ({"by": "k"}, {"by_left": "k", "by_right": "v"}, {}):
        plain = rows.join_asof(rows, on="ts", check_sortedness=False, **by)
        assert one.join_asof(other, **by).schema == plain.schema


def test_of_the_other_side_the_last_row_of_each_key_is_kept(log):
    for side in ("left", "right"):
        log.create_topic(side, SCHEMA, time="ts")
    result = mamba.stream("left").join_asof(mamba.stream("right"), by="key", name="latest")
    made = mamba.pipeline("job", result.to("out"))
    for second in range(0, 2_000, 50):
        put(log["right"], 0, *((second + more, "ab"[more % 2], second + more) for more in range(50)))
        put(log["left"], 0, (second + 49, "a", 0))
        run = one_step(log, made, 1_000)
        while run.step():
            pass
        run.commit("running")
        (step,) = run.engine.flow.steps.values()
        assert step.rows <= 12
    mamba.run(made, log, until="now")
    state = mamba.start(made, log, until="now").state("latest")
    kept = state.filter(pl.col("side") == "right").select("key_right", "value_right").rows()
    # The watermark is at 1,999: a row of that time may still meet the one before it.
    assert sorted(kept) == [("a", 1_998), ("b", 1_997), ("b", 1_999)]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=STRATEGIES,
    keyed=st.booleans(),
    lateness=st.sampled_from([0, 5, 60]),
    seed=SEEDS,
)
def test_crashing_anywhere_gives_the_as_of_join_many_times(left, right, how, keyed, lateness, seed):
    test = test_crashing_anywhere_and_cutting_anyhow_gives_the_as_of_join_of_polars
    test.hypothesis.inner_test(left, right, how, keyed, lateness, seed)
