"""A stream meets a table as it was at each row's time; tables meet as they are, and what changes is taken back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from tests.runtime.joinmodel import judged
from tests.runtime.model import SCHEMA, SEEDS, at, partitions
from tests.runtime.test_asof_join import in_order
from tests.runtime.test_interval_join import feed
from tests.runtime.test_same_rows import MEMORY
from tests.sizes import examples


@settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    left=partitions(),
    right=partitions(),
    how=st.sampled_from(["inner", "left", "semi", "anti"]),
    lateness=st.sampled_from([0, 20]),
    seed=SEEDS,
)
def test_each_row_meets_the_table_as_it_was_at_its_time(left, right, how, lateness, seed):
    chance = np.random.default_rng(seed)
    stream, updates = (mamba.stream(name, lateness=f"{lateness}s") for name in ("left", "right"))
    result = stream.join(updates.table("key"), on="key", how=how)
    made = mamba.pipeline("job", result.to("out"))
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        for side, parts in (("left", left), ("right", right)):
            log.create_topic(side, SCHEMA, partitions=len(parts), time="ts")
        feed(log, made, {"left": left, "right": right}, chance)
        found = log["out"].scan().collect()
    table = in_order(judged(right, lateness)).with_columns(ts_right=pl.col("ts"))
    rows = in_order(judged(left, lateness))
    joined = rows.join_asof(table, on="ts", by="key", check_sortedness=False)
    met = pl.col("ts_right").is_not_null()
    if how in ("inner", "semi"):
        joined = joined.filter(met)
    elif how == "anti":
        joined = joined.filter(~met)
    assert found.columns == (
        rows.columns if how in ("semi", "anti") else [*rows.columns, "ts_right", "value_right"]
    )
    assert found.rows() == joined.select(found.columns).rows()


def rows(*values: tuple[Any, ...], columns: str) -> pl.DataFrame:
    names = columns.split()
    return pl.DataFrame([(at(value[0]), *value[1:]) for value in values], schema=names, orient="row")


def test_a_log_of_changes_says_when_a_key_is_gone():
    log = rows(
        (0, "+I", "a", 1), (10, "-U", "a", 1), (10, "+U", "a", 2), (20, "-D", "a", 2), columns="ts _op key v"
    )
    stream = rows((0, "a"), (9, "a"), (10, "a"), (19, "a"), (20, "a"), (30, "a"), columns="ts key")
    table = mamba.stream(log, time="ts", name="log").table("key")
    joined = mamba.stream(stream, time="ts", name="stream").join(table, on="key", how="left")
    assert joined.schema == pl.Schema(
        {"ts": pl.Datetime("us"), "key": pl.String, "ts_right": pl.Datetime("us"), "v": pl.Int64}
    )
    assert joined.collect().get_column("v").to_list() == [1, 1, 2, 2, None, None]


def test_two_tables_meet_as_they_are_in_the_end():
    one = rows((0, 1, "x"), (5, 2, "y"), (9, 1, "y"), columns="ts id ref")
    other = rows((1, "x", 10), (6, "y", 20), (7, "x", 11), (8, "z", 5), columns="ts ref w")
    left = mamba.stream(one, time="ts", name="one").table("id")
    right = mamba.stream(other, time="ts", name="other").table("ref")
    joined = left.join(right, on="ref", how="full")
    found = joined.collect().select("id", "ref", "ref_right", "w")
    assert sorted(found.rows(), key=repr) == sorted(
        [(2, "y", "y", 20), (1, "y", "y", 20), (None, None, "x", 11), (None, None, "z", 5)], key=repr
    )
    assert set(joined.changes().collect().get_column("_op")) <= {"+I", "-D"}


def test_totals_meet_a_table_and_are_taken_back():
    sales = rows((0, "a", 1), (1, "b", 2), (2, "a", 3), columns="ts shop sum")
    names = rows((0, "a", "A"), (0, "b", "B"), (5, "b", "BB"), columns="ts shop name")
    totals = mamba.stream(sales, time="ts", name="sales").group_by("shop").agg(total=pl.col("sum").sum())
    joined = totals.join(mamba.stream(names, time="ts", name="names").table("shop"), on="shop")
    assert joined.collect().select("shop", "total", "name").rows() == [("a", 4, "A"), ("b", 2, "BB")]
    assert joined.group_by("name").agg(pl.len()).collect().rows() == [("A", 1), ("BB", 1)]


def test_a_full_join_keeps_rows_of_both_sides_whose_key_is_null():
    one = rows((0, None, 1), (1, "a", 2), columns="ts key v")
    other = rows((0, None, 7), (1, None, 8), (2, "b", 3), columns="ts key w")
    left = mamba.stream(one, time="ts", name="one").group_by("key").agg(v=pl.col("v").sum())
    right = mamba.stream(other, time="ts", name="other").group_by("key").agg(w=pl.col("w").sum())
    found = left.join(right, on="key", how="full")
    expected = [(None, 1, None, None), ("a", 2, None, None), (None, None, None, 15), (None, None, "b", 3)]
    assert sorted(found.collect().rows(), key=repr) == sorted(expected, key=repr)
    assert found.group_by("key_right").agg(pl.len()).collect().rows() == [(None, 3), ("b", 1)]
