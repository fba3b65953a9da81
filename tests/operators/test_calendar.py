"""Windows by the calendar start where Polars truncates, follow each other without a gap, and never split a day."""

from __future__ import annotations

from datetime import datetime, timedelta

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given, settings

import mamba_stream as mamba
from mamba_stream.dsl.windows import tumbling
from mamba_stream.operators.calendar import Calendar
from mamba_stream.operators.columns import ticks
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.times import as_time
from mamba_stream.plan.windows import windows_of

SIZES = ["1d", "2d", "1w", "3w", "1mo", "5mo", "1q", "1y", "7y"]
ZONES = [
    "America/New_York",
    "America/Santiago",
    "Asia/Kolkata",
    "Asia/Beirut",
    "Europe/Paris",
    "Australia/Lord_Howe",
    "UTC",
    None,
]
SECONDS = st.lists(st.integers(-1_000_000_000, 3_000_000_000), min_size=1, max_size=20)


def moments(seconds: list[int], unit: str, zone: str | None) -> pl.DataFrame:
    utc = pl.Series("ts", [second * 1_000_000 for second in seconds]).cast(pl.Datetime("us", "UTC"))
    column = utc.dt.cast_time_unit(unit)
    return pl.DataFrame(column.dt.convert_time_zone(zone) if zone else column.dt.replace_time_zone(None))


def starts_and_ends(size: str, frame: pl.DataFrame) -> pl.DataFrame:
    dtype = frame.schema["ts"]
    windows = windows_of(tumbling(size), dtype)
    slot = windows.pane_of(ticks("ts"))
    bounds = zip(("start", "end"), windows.bounds(slot), strict=True)
    return frame.with_columns(as_time(bound, dtype).alias(name) for name, bound in bounds)


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from(["ms", "us", "ns"]), st.sampled_from(ZONES), SECONDS)
def test_starts_are_those_of_truncate(size, unit, zone, seconds):
    found = starts_and_ends(size, moments(seconds, unit, zone))
    assert found.get_column("start").to_list() == found.get_column("ts").dt.truncate(size).to_list()


@settings(deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from(ZONES), SECONDS)
def test_a_window_ends_where_the_next_one_starts(size, zone, seconds):
    found = starts_and_ends(size, moments(seconds, "us", zone))
    assert found.select((pl.col("start") <= pl.col("ts")) & (pl.col("ts") < pl.col("end"))).to_series().all()
    beyond = starts_and_ends(size, found.select(ts="end"))
    assert beyond.get_column("start").to_list() == found.get_column("end").to_list()
    before = starts_and_ends(size, found.select(ts=pl.col("end") - timedelta(microseconds=1)))
    assert before.get_column("start").to_list() == found.get_column("start").to_list()


def test_dates_are_grouped_by_month():
    frame = pl.DataFrame({"ts": [datetime(2024, 2, 29), datetime(1969, 12, 31)]}).cast(pl.Date)
    found = starts_and_ends("1mo", frame)
    assert [str(day) for day in found.row(0)] == ["2024-02-29", "2024-02-01", "2024-03-01"]
    assert [str(day) for day in found.row(1)] == ["1969-12-31", "1969-12-01", "1970-01-01"]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Paris", (2024, 3, 31), 23),
        ("Europe/Paris", (2024, 10, 27), 25),
        ("America/Santiago", (2023, 9, 3), 23),  # the day begins at one
        ("America/Havana", (2023, 11, 5), 25),  # midnight comes twice
        ("Australia/Lord_Howe", (2024, 4, 7), 24.5),
        ("Pacific/Apia", (2011, 12, 29), 24),  # the next day was left out
    ],
)
def test_a_day_has_as_many_hours_as_it_has_and_is_one_window(zone, day, hours):
    noon = datetime(*day, 12)
    around = [noon + timedelta(minutes=30 * step) for step in range(-60, 60)]
    utc = pl.Series("ts", around).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    frame = pl.DataFrame(utc.drop_nulls())
    instants = pl.datetime_range(
        frame.item(0, 0), frame.item(-1, 0), "15m", eager=True, time_zone=zone, closed="left"
    ).alias("ts")
    found = starts_and_ends("1d", pl.DataFrame(instants)).filter(pl.col("ts").dt.date() == noon.date())
    assert found.select("start", "end").unique().height == 1
    length = found.select(pl.col("end") - pl.col("start")).item(0, 0)
    assert length == timedelta(hours=hours)


def test_an_offset_moves_days_in_local_time():
    dtype = pl.Datetime("us", "Europe/Paris")
    frame = pl.DataFrame({"ts": [datetime(2024, 3, 31, 5, 59), datetime(2024, 3, 31, 6)]}).select(
        pl.col("ts").dt.replace_time_zone("Europe/Paris")
    )
    windows = windows_of(tumbling("1d", offset="6h"), dtype)
    start = frame.select(as_time(windows.pane_of(ticks("ts")), dtype)).to_series()
    assert [str(moment)[:16] for moment in start] == ["2024-03-30 06:00", "2024-03-31 06:00"]


def test_days_of_utc_need_no_calendar_and_months_do():
    assert not isinstance(windows_of(tumbling("1d"), pl.Datetime("us")), Calendar)
    assert isinstance(windows_of(tumbling("1d"), pl.Datetime("us", "Europe/Paris")), Calendar)
    assert isinstance(windows_of(tumbling("1mo"), pl.Datetime("us")), Calendar)


def test_the_ends_of_time_are_behind_all_windows():
    windows = windows_of(tumbling("1mo"), pl.Datetime("us"))
    assert windows.first_open(FOREVER) == FOREVER
    assert windows.first_open(NEVER) == NEVER


def test_times_far_apart_are_truncated_all_the_same():
    frame = pl.DataFrame({"ts": [datetime(1, 1, 1, 5), datetime(9999, 11, 30, 7)]})
    stream = mamba.stream(frame.cast(pl.Datetime("ms", "UTC")), time="ts")
    windows = stream.window(mamba.tumbling("1mo")).agg(count=pl.len()).collect()
    assert [str(start)[:10] for start in windows.get_column("window_start")] == ["0001-01-01", "9999-11-01"]
    assert [str(end)[:10] for end in windows.get_column("window_end")] == ["0001-02-01", "9999-12-01"]


def paris(*moments: datetime) -> pl.DataFrame:
    frame = pl.DataFrame({"ts": list(moments), "value": range(len(moments))})
    return frame.with_columns(pl.col("ts").dt.replace_time_zone("Europe/Paris"))


def test_a_pipeline_counts_the_days_of_a_zone_and_knows_what_is_late():
    frame = paris(
        datetime(2024, 3, 30, 23, 59),
        datetime(2024, 3, 31, 0, 0),
        datetime(2024, 3, 31, 23, 59),
        datetime(2024, 4, 1, 0, 0),
        datetime(2024, 3, 31, 12, 0),
        datetime(2024, 4, 2, 0, 0),
    )
    days = mamba.stream(frame, time="ts").window(mamba.tumbling("1d")).agg(values=pl.col("value"))
    found = days.collect()
    assert found.get_column("values").to_list() == [[0], [1, 2], [3], [5]]
    lengths = found.select((pl.col("window_end") - pl.col("window_start")).dt.total_hours()).to_series()
    assert lengths.to_list() == [24, 23, 24, 24]
    late = days.late.collect()
    assert late.get_column("value").to_list() == [4]
    assert late.get_column("late_by").to_list() == [timedelta(microseconds=1)]


def test_months_of_days_add_up():
    stamps = pl.datetime_range(datetime(2023, 1, 1), datetime(2024, 12, 31), "7h", eager=True)
    stream = mamba.stream(pl.DataFrame({"ts": stamps}), time="ts")
    days = stream.window(mamba.tumbling("1d")).agg(count=pl.len())
    months = days.window(mamba.tumbling("1mo")).agg(count=pl.col("count").sum(), days=pl.len()).collect()
    expected = (
        pl.DataFrame({"ts": stamps}).group_by(pl.col("ts").dt.truncate("1mo"), maintain_order=True).len()
    )
    assert months.get_column("count").to_list() == expected.get_column("len").to_list()
    assert months.get_column("days").to_list()[:3] == [31, 28, 31]


def test_over_sees_the_whole_month():
    frame = pl.DataFrame({"ts": [datetime(2024, 1, day) for day in (1, 5, 9)], "key": ["a", "b", "b"]})
    monthly = mamba.stream(frame, time="ts").window(mamba.tumbling("1mo"), by="key").agg(count=pl.len())
    busiest = monthly.filter(pl.col("count") == pl.col("count").max().over("window_start")).collect()
    assert busiest.select("key", "count").rows() == [("b", 2)]
