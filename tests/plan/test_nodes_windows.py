"""Windows line up with Polars' own truncation, in every type of time column, or are refused."""

from __future__ import annotations

from datetime import timedelta

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given

from mamba_stream.dsl.windows import cumulative, hopping, rows, session, tumbling
from mamba_stream.errors import InvalidInput, PipelineRefused
from mamba_stream.operators.columns import ticks
from mamba_stream.operators.times import as_time
from mamba_stream.plan.windows import check_windows, grid_of, windows_of

SIZES = ["1ms", "7s", "15m", "90m", "1h", "5h", "1d", "3d", "7d", "1w", "2w", "3w"]
ZONES = [None, "UTC", "America/New_York", "Asia/Kolkata", "Europe/Paris", "Australia/Lord_Howe"]
TYPES = [pl.Datetime(unit, zone) for unit in ("ms", "us", "ns") for zone in ZONES] + [pl.Date()]


@given(st.sampled_from(SIZES), st.sampled_from(TYPES), st.lists(st.integers(0, 2_000_000_000), min_size=1))
def test_starts_are_those_of_truncate_or_the_windows_are_refused(size, dtype, seconds):
    moments = pl.Series("ts", [second * 1_000_000 for second in seconds]).cast(pl.Datetime("us", "UTC"))
    frame = pl.DataFrame(moments.cast(dtype if dtype == pl.Date else pl.Datetime(dtype.time_unit, "UTC")))
    if dtype != pl.Date:
        in_zone = pl.col("ts").dt.convert_time_zone(dtype.time_zone or "UTC")
        frame = frame.select(in_zone if dtype.time_zone else pl.col("ts").dt.replace_time_zone(None))
    try:
        grid = grid_of(tumbling(size), dtype)
    except InvalidInput:
        assert dtype == pl.Date or dtype.time_zone not in (None, "UTC")
        return
    found = frame.select(as_time(grid.last_start(ticks("ts")), dtype).alias("ts")).to_series()
    assert found.to_list() == frame.select(pl.col("ts").dt.truncate(size)).to_series().to_list()


def test_times_before_the_epoch_are_truncated_downwards():
    ts = pl.Series("ts", [-1, -3_600_000_000, -3_600_000_001, 0]).cast(pl.Datetime("us"))
    grid = grid_of(tumbling("1h"), ts.dtype)
    found = ts.to_frame().select(grid.last_start(ticks("ts")).cast(pl.Datetime("us")).alias("ts")).to_series()
    assert found.equals(ts.dt.truncate("1h"))


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_days_in_a_zone_are_refused_with_the_cure(zone):
    with pytest.raises(PipelineRefused, match="convert_time_zone"):
        grid_of(tumbling("1d"), pl.Datetime("us", zone))


def test_hours_in_a_zone_of_half_hours_are_refused_and_quarters_are_not():
    with pytest.raises(PipelineRefused, match="Asia/Kolkata"):
        grid_of(tumbling("1h"), pl.Datetime("us", "Asia/Kolkata"))
    assert grid_of(tumbling("15m"), pl.Datetime("us", "Asia/Kolkata")).size == 900_000_000


def test_what_a_type_cannot_hold_is_refused():
    with pytest.raises(InvalidInput, match="whole days"):
        grid_of(tumbling("1h"), pl.Date())
    with pytest.raises(InvalidInput, match="whole ms"):
        grid_of(tumbling("1500us"), pl.Datetime("ms"))


def test_windows_without_length_with_months_or_with_gaps_are_refused():
    with pytest.raises(InvalidInput, match="longer than nothing"):
        tumbling("0s")
    with pytest.raises(InvalidInput, match="a month has none"):
        tumbling("1mo2d")
    with pytest.raises(InvalidInput, match="a month has none"):
        hopping("1mo", "1d")
    with pytest.raises(PipelineRefused, match="longer than nothing"):
        tumbling("0mo")
    with pytest.raises(InvalidInput, match="no unit"):
        tumbling(60)  # type: ignore[arg-type]
    with pytest.raises(PipelineRefused, match="leave gaps"):
        hopping("1s", "2s")


def test_hopping_by_its_own_size_is_tumbling():
    assert hopping("1h", timedelta(hours=1)).kind == "tumbling"


def test_cumulative_windows_grow_by_equal_steps():
    assert cumulative("1d", "1h").words == "cumulative 1d by 1h"
    with pytest.raises(PipelineRefused, match="cannot grow by 7h"):
        cumulative("1d", "7h")
    with pytest.raises(PipelineRefused, match="do not line up"):
        windows_of(cumulative("1d", "1h"), pl.Datetime("us", "Europe/Paris"))


def test_sessions_and_counted_windows_say_what_they_take():
    with pytest.raises(InvalidInput, match="session gap must be longer than nothing"):
        session("0s")
    with pytest.raises(InvalidInput, match="whole days"):
        check_windows(session("1h"), pl.Date())
    for count in (0, -1, True, 2.0, "3"):
        with pytest.raises(PipelineRefused, match="give a number of rows"):
            rows(count)  # type: ignore[arg-type]


def test_an_offset_must_fit_the_time_column():
    with pytest.raises(InvalidInput, match="whole ms"):
        windows_of(tumbling("1mo", offset="1us"), pl.Datetime("ms"))
    with pytest.raises(InvalidInput, match="no unit"):
        tumbling("1h", offset=5)  # type: ignore[arg-type]
