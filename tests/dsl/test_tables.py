"""Verbs whose results change: what single calls give, and what they refuse."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.operators.columns import OP

EPOCH = datetime(2024, 1, 1)
SALES = pl.DataFrame(
    {
        "ts": [EPOCH + timedelta(hours=hour) for hour in (1, 2, 30, 31)],
        "shop": ["a", "b", "a", None],
        "sum": [2, 1, 3, 5],
    }
)


def sales() -> mamba.Stream:
    return mamba.stream(SALES, time="ts", lateness="10d")


def test_group_by_keeps_a_table_of_totals():
    totals = sales().group_by("shop").agg(pl.col("sum").sum(), best=pl.col("sum").max(), n=pl.len())
    assert totals.collect().rows() == [(None, 5, 5, 1), ("a", 5, 3, 2), ("b", 1, 1, 1)]
    assert totals.schema == {"shop": pl.String, "sum": pl.Int64, "best": pl.Int64, "n": pl.UInt32}
    assert totals.head(1).rows() == [(None, 5, 5, 1)]


def test_group_by_takes_expressions_as_keys():
    by_day = sales().group_by(pl.col("shop"), day=pl.col("ts").dt.date()).agg(pl.col("sum").sum())
    assert by_day.collect().rows() == [
        (None, date(2024, 1, 2), 5),
        ("a", date(2024, 1, 1), 2),
        ("a", date(2024, 1, 2), 3),
        ("b", date(2024, 1, 1), 1),
    ]


def test_group_by_without_keys_has_one_row_once_there_is_one():
    whole = sales().group_by().agg(pl.len(), pl.col("sum").sum())
    assert whole.collect().rows() == [(4, 11)]
    assert sales().filter(pl.col("sum") > 9).group_by().agg(pl.len()).collect().height == 0


def test_changes_say_what_is_taken_back(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("sales", SALES, time="ts")
        totals = mamba.stream("sales", lateness="1d").group_by("shop").agg(pl.col("sum").sum())
        made = mamba.pipeline("job", totals.to("totals"))
        for row in range(3):
            topic.append(SALES[row : row + 1])
            mamba.run(made, log, until="now")
        assert log["totals"].scan().collect().rows() == [
            ("+I", "a", 2),
            ("+I", "b", 1),
            ("-U", "a", 2),
            ("+U", "a", 5),
        ]


def test_what_did_not_change_says_nothing(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("sales", SALES, time="ts")
        best = mamba.stream("sales").group_by("shop").agg(pl.col("sum").max())
        made = mamba.pipeline("job", best.to("best"))
        topic.append(SALES)
        mamba.run(made, log, until="now")
        topic.append(SALES)
        mamba.run(made, log, until="now")
        assert set(log["best"].scan().collect().get_column("_op")) == {"+I"}


def test_a_key_is_let_go_of_when_its_time_is_over(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("sales", SALES, time="ts")
        exprs = {"sum": pl.col("sum").sum(), "n": pl.col("sum").n_unique(), "all": pl.col("sum")}
        totals = mamba.stream("sales").group_by("shop", ttl="20h").agg(**exprs)
        made = mamba.pipeline("job", totals.to("totals"))
        for row in (0, 1, 2, 3):
            topic.append(SALES[row : row + 1])
            mamba.run(made, log, until="now")
        assert log["totals"].scan().collect().rows() == [
            ("+I", "a", 2, 1, [2]),
            ("+I", "b", 1, 1, [1]),
            ("-U", "a", 2, 1, [2]),
            ("+U", "a", 5, 2, [2, 3]),
            ("-D", "b", 1, 1, [1]),
            ("+I", None, 5, 1, [5]),
        ]
        assert "lets go of a key 20h after its last row" in totals.explain()
        # Where the sources are over, time has come as far as their rows.
        topic.end()
        assert totals.collect(log).get_column("shop").to_list() == [None, "a"]


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda rows: rows.group_by("shopp").agg(pl.len()), "no column 'shopp'.*did you mean 'shop'"),
        (lambda rows: rows.group_by(3), "takes columns and expressions, not 3"),
        (
            lambda rows: rows.group_by(pl.col("ts").dt.date()).agg(pl.len()),
            r"give it another with .alias\(...\)",
        ),
        (lambda rows: rows.group_by(pl.col("ts", "sum") * 2), "has no single name"),
        (lambda rows: rows.group_by("shop", "shop").agg(pl.len()), "'shop' is a key twice"),
        (lambda rows: rows.group_by("shop").agg(shop=pl.len()), "two columns 'shop'"),
        (lambda rows: rows.group_by("shop").agg(), "at least one expression"),
        (lambda rows: rows.group_by("shop", ttl="3").agg(pl.len()), "ttl"),
        (lambda rows: rows.drop("ts").group_by("shop", ttl="3h").agg(pl.len()), "needs the stream's time"),
        (
            lambda rows: rows.group_by("shop").agg(pl.len()).window(mamba.tumbling("1h")).agg(pl.len()),
            "window takes rows that stay, and these are a changelog.*before the step that makes.*changes",
        ),
        (lambda rows: rows.changes(), "changes is for changelogs"),
        (
            lambda rows: rows.group_by("shop").agg(n=pl.len(), t=pl.col("ts").max()).late,
            "late belongs to the result of a verb that goes by time",
        ),
    ],
)
def test_refusals(build, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        build(sales())


def test_row_verbs_on_a_table_see_what_comes_and_what_goes():
    table = sales().group_by("shop").agg(pl.col("sum").sum())
    changed = table.filter(pl.col("sum") > 1).with_columns(twice=pl.col("sum") * 2).rename({"shop": "name"})
    assert changed.select("name", "twice").collect().rows() == [(None, 10), ("a", 10)]
    names = pl.DataFrame({"shop": ["a", "a", None], "label": ["x", "y", "z"]})
    joined = table.join(names, on="shop", how="left").collect()
    assert sorted(joined.select("shop", "label").rows(), key=repr) == [
        ("a", "x"),
        ("a", "y"),
        ("b", None),
        (None, None),
    ]
    both = mamba.concat([table, table]).group_by("shop").agg(pl.col("sum").sum(), pl.len())
    assert both.collect().rows() == [(None, 10, 2), ("a", 10, 2), ("b", 2, 2)]
    assert OP not in table.changes().collect().columns


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda rows: rows.table("shopp"), "no column 'shopp'"),
        (lambda rows: rows.table([]), "table needs a key"),
        (lambda rows: rows.table("shop").table("sum"), "by sum of a table by shop.*group_by\\('sum'\\)"),
        (
            lambda rows: mamba.concat([rows.table("shop"), rows.table("shop")]).table("shop"),
            "of a table without a key",
        ),
        (
            lambda rows: rows.with_columns(_op=pl.lit(1)).table("shop"),
            "'_op' for what a row does, and it is Int32",
        ),
        (lambda rows: rows.with_columns(_op=pl.lit("+I")).table("_op"), "cannot be its key"),
        (lambda rows: rows.table("shop").to("out", partitions=2), r"give key= too.*\(shop\)"),
        (lambda rows: rows.table("shop").to("out", key="sum"), "a row may change these columns"),
        (
            lambda rows: rows.table("shop").changes().window(mamba.tumbling("1h")).agg(pl.len()),
            "come when they come",
        ),
        (lambda rows: rows.table("shop").unique("sum", within="1h"), "unique takes rows that stay"),
        (lambda rows: rows.unique("sum", keep="none"), "choose 'first' or 'last'"),
        (lambda rows: rows.unique("sum", order="time"), "choose 'stream' or 'arrival'"),
        (lambda rows: rows.unique("sum", keep="last", within="1h"), "leave out within="),
        (lambda rows: rows.unique(keep="last"), "needs a subset"),
        (lambda rows: rows.drop("ts").unique("sum", within="1h"), "needs the stream's time"),
        (lambda rows: rows.unique("summ", within="1h"), "no column 'summ'"),
        (lambda rows: rows.unique("sum", within="-1h"), "within"),
    ],
)
def test_refusals_of_tables_and_unique_rows(build, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        build(sales())


def test_unique_without_a_bound_warns_at_the_users_line():
    with pytest.warns(
        mamba.UnboundedState, match="step 'unique shop' keeps every key for ever.*give within="
    ) as seen:
        once = sales().unique("shop")
    assert seen[0].filename == __file__
    assert once.collect().get_column("sum").to_list() == [2, 1, 5]
    assert "keeps its keys for ever" in once.explain()


def test_unique_keeps_the_last_as_a_table():
    assert sales().unique("shop", keep="last").collect().get_column("sum").to_list() == [5, 3, 1]
    assert sales().unique("shop", within="1h").collect().height == 4
    assert sales().unique("shop", within="40h", order="arrival").collect().height == 3


def test_tables_can_be_asked_while_a_job_runs_and_afterwards(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("sales", SALES, time="ts").append(SALES)
        rows = mamba.stream("sales", lateness="1d")
        totals = rows.group_by("shop", name="totals").agg(pl.col("sum").sum(), n=pl.col("sum").n_unique())
        latest, first = rows.table("shop", name="latest"), rows.unique("shop", within="90d", name="first")
        made = mamba.pipeline("job", totals.to("a"), latest.to("b"), first.to("c"))
        job = mamba.start(made, log)
        job.checkpoint()
        while job.status.rows_in < 4:
            job.checkpoint()
        running = job.state("totals")
        job.stop()
        assert running.rows() == job.state("totals").rows() == [(None, 5, 1), ("a", 5, 2), ("b", 1, 1)]
        assert job.state("latest").rows() == latest.collect(log).rows()
        assert job.state("first").rows() == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda rows: rows.top_k(0, by="sum"), "give a number of rows from 1 on"),
        (lambda rows: rows.top_k(1, by=[]), "needs by="),
        (lambda rows: rows.top_k(1, by="summ"), "no column 'summ'"),
        (lambda rows: rows.top_k(1, by="sum", per="shopp"), "no column 'shopp'"),
        (lambda rows: rows.top_k(1, by="sum", reverse=[True, False]), "one for each column of by="),
        (lambda rows: rows.top_k(1, by="sum", rank="shop"), "there is a column of this name"),
        (lambda rows: rows.top_k(1, by="sum", rank=1), "the name of a column to add"),
        (lambda rows: rows.with_columns(l=pl.concat_list("sum")).top_k(1, by="l"), "has no greatest values"),
        (lambda rows: rows.top_k(1, by="sum").unique("sum", within="1h"), "unique takes rows that stay"),
    ],
)
def test_refusals_of_the_best_rows(build, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        build(sales())


def test_the_best_rows_so_far_and_per_window():
    assert sorted(sales().top_k(1, by="sum", per="shop").collect().get_column("sum")) == [1, 3, 5]
    ranked = sales().top_k(2, by="sum", rank="place")
    assert ranked.select("place", "sum").collect().rows() == [(1, 5), (2, 3)]
    daily = sales().window(mamba.tumbling("1d"), by="shop").agg(pl.col("sum").sum())
    top = daily.top_k(1, by="sum", per="window_start", rank="place")
    assert top.select("shop", "sum", "place").collect().rows() == [("a", 2, 1), (None, 5, 1)]
    assert "of whole windows: each comes once" in top.explain()
    # What comes whole can be looked at whole again.
    assert top.filter(pl.len().over("window_start") == 1).collect().height == 2


def test_a_table_by_its_own_key_is_itself_without_what_nobody_reads():
    totals = sales().group_by("shop").agg(pl.col("sum").sum(), n=pl.len())
    again = totals.table("shop").select("shop", "n").rename({"n": "sum"})
    assert again.collect().rows() == [(None, 1), ("a", 2), ("b", 1)]
    latest = sales().table("shop").table(["shop"])
    assert latest.drop("sum").rename({"shop": "sum"}).collect().get_column("sum").to_list() == [
        None,
        "a",
        "b",
    ]


def test_rows_of_changes_can_be_looked_at_in_the_order_in_which_they_came():
    changes = sales().group_by("shop").agg(pl.col("sum").sum()).group_by().agg(pl.col("sum").sum()).changes()
    assert changes.group_by("_op").agg(first=pl.col("sum").first(), all=pl.col("sum")).collect().rows() == [
        ("+I", 11, [11])
    ]
    assert changes.group_by().agg(pl.col("sum").last()).collect().item() == 11
