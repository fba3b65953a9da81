"""One row gives what it would give among others."""

from __future__ import annotations

from typing import Literal

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_stream.core.single import joined, twice
from mamba_stream.core.trees import nodes
from mamba_stream.operators.grouping import grouped
from mamba_stream.operators.rows import Extended, Filtered, Renamed, RowSteps

FLOOR = (pl.col("x") / 49).floor()


def test_polars_divides_one_row_otherwise_than_many():
    alone, among = pl.DataFrame({"x": [49.0]}), pl.DataFrame({"x": [49.0, 49.0]})
    assert alone.select(FLOOR).item() != among.select(FLOOR)["x"][0], "the reason for this module is gone"


def test_a_row_twice_keeps_its_types():
    frame = pl.DataFrame({"x": [1.5], "list": [[1, 2]], "none": pl.Series([None], dtype=pl.String)})
    assert_frame_equal(twice(frame), pl.concat([frame, frame]))


@pytest.mark.parametrize("others", [0, 1, 7])
def test_row_verbs_do_not_see_how_many_rows_there_are(others: int):
    frame = pl.DataFrame({"x": [49.0] + [7.0] * others, "keep": [True] + [False] * others})
    alone = RowSteps([Filtered([pl.col("keep")]), Extended([FLOOR.alias("floor")])])(frame)
    assert alone["floor"].to_list() == [0.0]


def test_a_group_of_one_row_is_grouped_as_among_others():
    frame = pl.DataFrame({"key": [1], "x": [49.0]})
    assert grouped(frame, ["key"], [FLOOR.sum()]).rows() == [(1, 0.0)]


def test_a_window_that_closes_alone_gives_what_it_gives_beside_others():
    rows = pl.DataFrame({"at": ["2026-01-01T00:00", "2026-01-01T01:00"], "x": [49.0, 49.0]}).with_columns(
        pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M")
    )

    def run(frame: pl.DataFrame) -> list[float]:
        windows = mamba.stream(frame, time="at").window(mamba.tumbling("1h"))
        return windows.agg(floor=(pl.col("x").sum() / 49).floor()).collect()["floor"].to_list()

    assert run(rows) == run(rows.head(1)) * 2


def test_expressions_over_a_window_see_each_row_once():
    frame = pl.DataFrame({"window_start": [1], "x": [2]})
    total = pl.col("x").sum().over("window_start").alias("total")
    assert "Over" in str(nodes(total))
    assert RowSteps([Extended([total])])(frame)["total"].to_list() == [2]


@pytest.mark.parametrize(
    "best", [pl.col("x").max(), pl.col("x").mean(), (pl.col("x").max() / 49).floor(), pl.len()]
)
def test_one_window_gives_what_it_gives_beside_others(best):
    """Whether the expression needs another window beside it or not."""
    verbs = RowSteps([Filtered([pl.col("x") / 49 >= 0]), Extended([best.over("window_start").alias("best")])])
    rows = pl.DataFrame({"window_start": [1, 1, 1], "x": [49.0, 7.0, 49.0]})
    other = pl.DataFrame({"window_start": [2, 2], "x": [1.0, 2.0]})
    assert_frame_equal(verbs(rows), verbs(pl.concat([rows, other])).head(3))


def test_what_only_picks_columns_behind_a_filter_is_run_with_it():
    verbs = RowSteps(
        [Filtered([pl.col("x") == pl.col("x").max().over("window_start")]), Renamed({"x": "most"})]
    )
    found = verbs(pl.DataFrame({"window_start": [1, 1], "x": [49.0, 7.0]}))
    assert found.rows() == [(1, 49.0)]


NAN = pl.DataFrame({"key": [float("nan")], "x": [1]})


def test_polars_joins_nan_otherwise_where_there_is_one_row():
    many = pl.DataFrame({"key": [float("nan")] * 2, "x": [1, 1]})
    assert NAN.join(NAN, on="key").height == 0, "the reason for this is gone"
    assert many.join(NAN, on="key").height == 2


@pytest.mark.parametrize("how", ["inner", "left", "semi"])
@pytest.mark.parametrize("others", [0, 1, 7])
def test_nan_meets_nan_however_few_rows_there_are(how: Literal["inner", "left", "semi"], others: int):
    left = pl.concat([NAN, *[pl.DataFrame({"key": [2.0], "x": [1]})] * others])
    found = joined(left, NAN, left_on=["key"], right_on=["key"], how=how, maintain_order="left")
    width = 2 if how == "semi" else 3
    assert str(found.row(0)) == str((float("nan"), 1, 1)[:width])
    assert found.columns == ["key", "x", "x_right"][:width]


def test_steps_find_rows_of_nan_by_key_however_rows_are_cut(mamba_log: mamba.Log):
    """Whatever joins rows to find those of a key: joins, a lookup, lag, and windows of so many rows."""
    rows = pl.DataFrame({"at": range(8), "key": [float("nan")] * 8, "x": range(8)}).cast(
        {"at": pl.Datetime("us")}
    )
    for name in ("rows", "other"):
        mamba_log.create_topic(name, rows, time="at")
    left, right = (mamba.stream(name) for name in ("rows", "other"))
    table = pl.DataFrame({"key": [float("nan")], "y": [5]})
    outputs = {
        "within": left.join(right, on="key", within="0s"),
        "ever": left.join(right, on="key", ttl="forever"),
        "found": left.join(table, on="key"),
        "lag": left.lag("x", by="key"),
        "rows_of_three": left.window(mamba.rows(3), by="key").agg(x=pl.col("x").cum_sum().last()),
    }
    made = mamba.pipeline("job", *[stream.to(name) for name, stream in outputs.items()])
    for part in rows.iter_slices(1):
        for name in ("rows", "other"):
            mamba_log[name].append(part)
            mamba.run(made, log=mamba_log, until="now")
    for name in ("rows", "other"):
        mamba_log[name].end()
    mamba.run(made, log=mamba_log)
    found = {name: mamba_log[name].scan().collect() for name in outputs}
    assert (found["within"].height, found["ever"].height) == (8, 64)
    assert found["found"]["y"].to_list() == [5] * 8
    assert found["lag"]["x_lag"].to_list() == [None, *range(7)]
    assert found["rows_of_three"]["x"].to_list() == [3, 12, 13]
