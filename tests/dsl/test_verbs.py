"""What single verbs do, where it is not simply what Polars does."""

from __future__ import annotations

import contextlib
import io
from datetime import date, datetime, timedelta

import pandas as pd
import polars as pl
import polars.selectors as cs
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba

EPOCH = datetime(2024, 1, 1)


def table(*seconds: float | None, **columns: list[object]) -> pl.DataFrame:
    times = [None if s is None else EPOCH + timedelta(seconds=s) for s in seconds]
    rows = {"ts": times, "n": list(range(len(seconds))), **columns}
    return pl.DataFrame(rows, schema_overrides={"ts": pl.Datetime("us"), "n": pl.Int64})


def counted(stream: mamba.Stream, *more: pl.Expr, **named: pl.Expr) -> mamba.Stream:
    return stream.window(mamba.tumbling("10s")).agg(pl.len(), *more, **named)


def test_frames_of_every_kind_are_sources():
    frame = table(1, 2)
    for source in (frame, frame.to_arrow(), frame.to_dicts(), pd.DataFrame(frame.to_dict(as_series=False))):
        found = counted(mamba.stream(source, time="ts")).collect()
        assert found.get_column("len").to_list() == [2]


def test_a_stream_is_immutable_and_may_go_into_several():
    rows = mamba.stream(table(1, 2, 3), time="ts")
    low, high = rows.filter(pl.col("n") < 1), rows.filter(pl.col("n") >= 1)
    assert low.collect().height + high.collect().height == rows.collect().height == 3


def test_columns_may_be_given_by_whatever_holds_several():
    rows = mamba.stream(table(1, 2, m=[3, 4]), time="ts")
    assert rows.select(pl.col(name) for name in ("n", "m")).collect().columns == ["n", "m"]
    assert rows.filter(pl.col(name) > 0 for name in ("n", "m")).collect().height == 1
    dropped = rows.drop(name for name in ("n", "m"))
    assert dropped.collect().columns == ["ts"] == dropped.collect().columns
    assert rows.drop({"n"}).collect().columns == ["ts", "m"]
    by = rows.window(mamba.tumbling("1h"), by=(name for name in ("n", "m"))).agg(pl.len())
    assert by.collect().columns[:2] == ["n", "m"]


@pytest.mark.parametrize("name", ["_rows", "_key", "order", "rows", "literal"])
def test_columns_may_be_called_what_the_engine_might_call_its_own(name):
    rows = mamba.stream(table(1, 2, **{name: [5, 5]}), time="ts")
    more = {"first": pl.col("n").first(), "kept": pl.col("n").cum_sum().last()}
    by = rows.window(mamba.tumbling("10s"), by=name).agg(pl.len().alias("many"), **more)
    assert by.select(name, "many", "first", "kept").collect().rows() == [(5, 2, 0, 1)]
    assert counted(rows, pl.col(name).sum(), **more).select(name).collect().rows() == [(10,)]
    assert counted(rows, pl.col("n").sum().alias(name)).select(name).collect().rows() == [(1,)]


def test_a_stream_united_with_itself_gives_every_row_twice():
    rows = mamba.stream(table(1, 2), time="ts")
    assert counted(mamba.concat([rows, rows]), pl.col("n").sum()).collect().row(0)[2:] == (4, 2)


def test_no_rows_give_a_frame_of_the_right_columns():
    empty = mamba.stream(table().clear(), time="ts")
    assert counted(empty).collect().schema == {
        "window_start": pl.Datetime("us"),
        "window_end": pl.Datetime("us"),
        "len": pl.UInt32,
    }
    assert counted(empty).late.collect().schema == {
        "ts": pl.Datetime("us"),
        "n": pl.Int64,
        "late_by": pl.Duration("us"),
        "late_reason": pl.String,
    }
    assert empty.rejected.collect().columns == ["ts", "n", "rejected_reason"]


def test_head_stops_reading_as_soon_as_it_has_its_rows():
    seen = []
    rows = mamba.stream(table(*range(100_000)), time="ts").inspect(lambda frame: seen.append(frame.height))
    assert rows.head(3).get_column("n").to_list() == [0, 1, 2]
    assert sum(seen) < 10_000
    assert rows.head(0).height == 0
    assert counted(rows).head(2).height == 2
    with pytest.raises(mamba.PipelineRefused, match="number of rows"):
        rows.head(-1)


def test_head_returns_what_there_is_where_there_is_less():
    assert counted(mamba.stream(table(1), time="ts")).head(7).height == 1


def test_inspect_prints_unless_told_otherwise():
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        mamba.stream(table(1), time="ts").inspect().collect()
    assert "ts" in printed.getvalue() and "__mamba" not in printed.getvalue()


def test_selectors_do_not_see_what_the_engine_added():
    # last() needs the order of rows, and a late row its watermark: both travel as columns.
    rows = mamba.stream(table(1, 50, 2, 51), time="ts")
    seen = (
        rows.with_columns(cs.integer() * 10)
        .select(pl.all(), flag=pl.lit(True))
        .filter(pl.all_horizontal(pl.all().is_not_null()))
        .filter(pl.any_horizontal(cs.integer() >= 0))
        .with_columns(pl.all().exclude("ts").name.suffix("_2"))
    )
    result = counted(seen, pl.col("n").last(), pl.col("n_2").sum())
    assert result.select("len", "n", "n_2").collect().rows() == [(1, 0, 0), (2, 30, 40)]
    assert result.late.collect().columns == ["ts", "n", "flag", "n_2", "flag_2", "late_by", "late_reason"]


def test_late_rows_say_by_how_much():
    rows = mamba.stream(table(1, 50, 2, 45, 39.5), time="ts", lateness="9s")
    late = counted(rows).late.collect()
    assert late.rows() == [
        (EPOCH + timedelta(seconds=2), 2, timedelta(seconds=31, microseconds=1), "watermark"),
        (EPOCH + timedelta(seconds=39.5), 4, timedelta(seconds=1, microseconds=1), "watermark"),
    ]
    enough = mamba.stream(
        table(1, 50, 2, 45, 39.5), time="ts", lateness=timedelta(seconds=40, microseconds=1)
    )
    assert counted(enough).late.collect().height == 0
    assert counted(mamba.stream(table(1, 50, 2), time="ts", lateness="40s")).late.collect().height == 1


def test_late_rows_of_dates_are_late_by_days():
    days = pl.DataFrame({"day": [date(2024, 1, 10), date(2024, 1, 3)]})
    late = (
        mamba.stream(days, time="day", lateness="2d")
        .window(mamba.tumbling("1d"))
        .agg(pl.len())
        .late.collect()
    )
    assert late.get_column("late_by").to_list() == [timedelta(days=5)]


def test_late_rows_can_be_windowed_again_by_longer_windows():
    rows = mamba.stream(table(1, 50, 2, 3), time="ts")
    again = counted(rows).late.window(mamba.tumbling("1m")).agg(again=pl.len(), last=pl.col("n").last())
    assert again.select("again", "last").collect().rows() == [(2, 3)]


def test_late_is_found_through_the_row_verbs_after_the_window():
    hot = (
        counted(mamba.stream(table(1, 50, 2), time="ts")).filter(pl.col("len") > 100).rename({"len": "rows"})
    )
    assert hot.late.select("n").collect().rows() == [(2,)]


def test_rows_without_a_time_are_rejected_and_reach_no_step():
    rows = mamba.stream(table(1, None, 2), time="ts")
    assert rows.collect().height == 2
    assert rows.filter(pl.col("n") > 0).rejected.collect().rows() == [(None, 1, "no time")]
    assert mamba.stream(table(1, None, 2)).collect().height == 3


def test_rows_too_far_ahead_of_their_append_are_rejected_and_move_no_watermark(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("rows", {"ts": pl.Datetime("ns", "UTC"), "n": pl.Int64}, time="ts")
        topic.append(table(1, 2).with_columns(pl.col("ts").cast(pl.Datetime("ns", "UTC"))))
        far = pl.DataFrame({"ts": [datetime(2099, 1, 1)], "n": [99]})
        topic.append(far.with_columns(pl.col("ts").cast(pl.Datetime("ns", "UTC"))))
        topic.append(table(3).with_columns(pl.col("ts").cast(pl.Datetime("ns", "UTC"))))
        trusting, wary = topic.stream(), topic.stream(ahead="1h")
        assert counted(trusting).late.collect().height == 1
        assert counted(wary).late.collect().height == 0
        assert counted(wary).collect().get_column("len").to_list() == [3]
        assert wary.rejected.select("n", "rejected_reason").collect().rows() == [(99, "ahead")]


def test_a_function_may_give_more_or_fewer_rows_and_late_ones_stay_late():
    rows = mamba.stream(table(1, 50, 2, 51, 3, 52), time="ts")
    doubled = rows.map_batches(lambda frame: pl.concat([frame, frame]))
    assert counted(doubled).collect().get_column("len").to_list() == [2, 6]
    assert sorted(counted(doubled).late.collect().get_column("n")) == [2, 2, 4, 4]
    fewer = rows.map_batches(lambda frame: frame.filter(pl.col("n") % 4 == 0))
    assert counted(fewer).late.collect().get_column("n").to_list() == [4]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda frame: frame.drop("n"), "lacks column 'n'"),
        (lambda frame: frame.with_columns(x=1), "gave column 'x', which schema= does not have"),
        (lambda frame: frame.cast({"n": pl.String}), "gave String in column 'n': schema= says Int64"),
        (lambda frame: frame.to_dicts(), "gave list: it must give a pl.DataFrame"),
        (lambda frame: frame.with_columns(pl.col("ts") + timedelta(1)), "changed the time column 'ts'"),
    ],
    ids=["fewer columns", "more columns", "other types", "no frame", "another time"],
)
def test_a_function_that_gives_something_else_fails_its_step(function, why):
    rows = counted(mamba.stream(table(1, 2), time="ts").map_batches(function), pl.col("n").sum())
    with pytest.raises(mamba.StepFailed, match=why):
        rows.collect()


def test_a_function_that_loses_the_origin_of_rows_cannot_stand_before_a_step_that_depends_on_their_order():
    fewer = mamba.stream(table(1, 2), time="ts").map_batches(lambda frame: frame.head(1))
    with pytest.raises(mamba.StepFailed, match="depends on the order of single rows"):
        counted(fewer, pl.col("n").first()).collect()


def test_columns_that_a_function_gives_in_another_order_are_put_in_order():
    turned = mamba.stream(table(1), time="ts").map_batches(lambda frame: frame.select("n", "ts"))
    assert turned.collect().columns == ["ts", "n"]


def test_the_first_of_rows_that_a_lookup_multiplied_is_the_tables_first():
    lookup = pl.DataFrame({"n": [0, 0, 1], "name": ["x", "y", "z"]})
    joined = mamba.stream(table(2, 1), time="ts").join(lookup, on="n")
    result = counted(joined, first=pl.col("name").first(), last=pl.col("name").last(), all=pl.col("name"))
    assert result.select("first", "last", "all").collect().rows() == [("z", "y", ["z", "x", "y"])]


def test_a_null_key_is_a_key_like_any_other():
    rows = mamba.stream(table(1, 2, 3, key=["a", None, None]), time="ts")
    found = rows.window(mamba.tumbling("1h"), by="key").agg(pl.len()).select("key", "len").collect()
    assert found.rows() == [(None, 2), ("a", 1)]


def test_windows_come_out_in_the_order_of_time_and_key():
    rows = mamba.stream(table(31, 1, 2, 12, key=list("bbaa")), time="ts", lateness="1h")
    found = rows.window(mamba.tumbling("10s"), by="key").agg(pl.len()).select("window_start", "key").collect()
    assert found.equals(found.sort("window_start", "key"))


def test_windows_may_be_grouped_by_several_keys_of_any_plain_type():
    frame = table(*range(200)).with_columns(
        text=pl.col("n").cast(pl.String).str.slice(0, 1),
        flag=pl.col("n") % 2 == 0,
        real=(pl.col("n") % 3) / 2,
        day=pl.col("ts").dt.date(),
        pair=pl.struct(pl.col("n") % 2, x=pl.lit("c")),
        kind=(pl.col("n") % 2).cast(pl.String).cast(pl.Enum(["0", "1"])),
    )
    keys = ["text", "flag", "real", "day", "pair", "kind"]
    found = mamba.stream(frame, time="ts").window(mamba.tumbling("1m"), by=keys).agg(pl.col("n").sum())
    expected = frame.group_by(*keys, pl.col("ts").dt.truncate("1m").alias("window_start")).agg(
        pl.col("n").sum()
    )
    assert_frame_equal(
        found.collect().drop("window_end"), expected, check_row_order=False, check_column_order=False
    )


def test_time_goes_through_renaming_selecting_and_another_zone():
    frame = table(1, 2).with_columns(pl.col("ts").dt.replace_time_zone("America/New_York"))
    moved = (
        mamba.stream(frame, time="ts")
        .rename({"ts": "when"})
        .select(pl.col("when").alias("t"), "n")
        .with_columns(pl.col("t").dt.convert_time_zone("UTC"))
    )
    daily = moved.window(mamba.tumbling("1d")).agg(pl.len())
    assert daily.collect().get_column("window_start").to_list() == [
        datetime(2024, 1, 1, tzinfo=daily.collect().get_column("window_start")[0].tzinfo)
    ]


def test_over_the_window_sees_the_whole_window_and_further_keys():
    rows = mamba.stream(table(*range(40), key=list("abcd") * 10), time="ts", lateness="1h")
    counts = rows.window(mamba.tumbling("10s"), by="key").agg(pl.len(), most=pl.col("n").max())
    best = counts.filter(pl.col("len") > 0).filter(
        pl.col("most") == pl.col("most").max().over("window_start")
    )
    assert best.collect().get_column("most").to_list() == [9, 19, 29, 39]
    shared = counts.with_columns(same=pl.len().over("window_start", "len"))
    assert shared.collect().height == 16


def test_the_schema_of_a_stream_is_known_as_soon_as_its_source_is():
    assert mamba.stream(table(1), time="ts").select("n").schema == {"n": pl.Int64}
    assert mamba.stream("some-topic").schema is None
    assert repr(mamba.stream(table(1), time="ts")) == "Stream(stream: ts, n)"
    assert "call .agg(...)" in repr(mamba.stream(table(1), time="ts").window(mamba.tumbling("1h")))


def test_what_lazyframe_has_and_streams_do_not_is_simply_not_there():
    assert not hasattr(mamba.Stream, "sort")


def test_collect_begins_at_the_earliest_row_and_heeds_an_explicit_start(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        topic = log.create_topic("rows", table(1), time="ts")
        topic.append(table(1, 20, 30))
        assert topic.stream(start="latest").collect().height == 3
        assert topic.stream(start=1).collect().height == 2
        assert topic.stream(start=EPOCH + timedelta(seconds=25)).collect().height == 1
        lsn = log.lsn()
        counted(topic.stream()).collect()
        assert log.lsn() == lsn and log.groups() == [] and log.topics(internal=True) == ["rows"]
