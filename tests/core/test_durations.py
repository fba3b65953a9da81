"""Durations and moments are exact, or refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from fractions import Fraction

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from mamba_stream.core.durations import duration_in, duration_us, ticks_per_day, time_units, to_time
from mamba_stream.errors import InvalidInput

UNIT_US = {
    "us": 1,
    "ms": 10**3,
    "s": 10**6,
    "m": 60 * 10**6,
    "h": 3600 * 10**6,
    "d": 86400 * 10**6,
    "w": 604800 * 10**6,
}
TICKS = {
    pa.timestamp("s"): 1,
    pa.timestamp("ms", "UTC"): 10**3,
    pa.timestamp("us"): 10**6,
    pa.timestamp("ns", "Europe/Paris"): 10**9,
    pa.date32(): Fraction(1, 86400),
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(UNIT_US))), min_size=1, max_size=5))
def test_parts_add_up(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert duration_us(text, what="gap") == sum(number * UNIT_US[unit] for number, unit in parts)


@given(st.timedeltas(timedelta(0), timedelta(days=100_000_000)))
def test_a_timedelta_is_taken_to_the_microsecond(value: timedelta) -> None:
    assert timedelta(microseconds=duration_us(value, what="gap")) == value


@given(st.timedeltas(timedelta(days=-9999), timedelta(days=9999)))
def test_a_duration_that_polars_writes_reads_back(value: timedelta) -> None:
    written = pl.Series([value]).dt.to_string("polars").item().replace(" ", "").replace("µs", "us")
    units = {
        "d": "days",
        "h": "hours",
        "m": "minutes",
        "s": "seconds",
        "ms": "milliseconds",
        "us": "microseconds",
    }
    if value < timedelta(0):
        written = "-" + written.replace("-", "")
    assert set(written) <= set("-0123456789") | set("".join(units))
    assert duration_us(written, what="gap", negative=True) == value // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "not a duration"),
        ("5", "not a duration"),
        ("h", "not a duration"),
        ("1 h", "not a duration"),
        ("1h 2m", "not a duration"),
        ("1.5h", "not a duration"),
        ("1H", "not a duration"),
        ("--1h", "not a duration"),
        ("1hour", "unknown unit 'hour'"),
        ("3ns", "finest unit is 'us'"),
        ("1mo", "a month has none"),
        ("1y", "a year has none"),
        ("1q", "a quarter has none"),
        ("-1h", "must not be negative"),
        (timedelta(seconds=-1), "must not be negative"),
        ("9" * 30 + "us", "290,000 years"),
        ("99999999999999999999w", "290,000 years"),
        (5, "has no unit"),
        (5.0, "has no unit"),
        (None, "has no unit"),
        (True, "has no unit"),
    ],
)
def test_what_is_no_duration_is_refused_by_its_purpose(value: object, words: str) -> None:
    with pytest.raises(InvalidInput, match=r"^lateness ") as caught:
        duration_us(value, what="lateness")  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_nothing_at_all_is_refused_only_where_it_makes_no_sense() -> None:
    assert duration_us("0s", what="lateness") == 0
    with pytest.raises(InvalidInput, match="longer than nothing"):
        duration_us("0s", what="window", zero=False)


def test_backwards_is_allowed_only_where_it_is_asked_for() -> None:
    assert duration_us("-1h30m", what="within", negative=True) == -5_400_000_000


@pytest.mark.parametrize("dtype", TICKS)
def test_ticks_are_those_of_arrow(dtype: pa.DataType) -> None:
    assert ticks_per_day(dtype) == TICKS[dtype] * 86400
    if dtype != pa.date32():
        assert time_units(dtype) == TICKS[dtype]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (pl.Datetime("ms"), pa.timestamp("ms")),
        (pl.Datetime("ns", "UTC"), pa.timestamp("ns")),
        (pl.Duration("us"), pa.duration("us")),
        (pl.Date, pa.date32()),
        (pl.Date(), pa.date32()),
        (pl.Time, pa.time64("ns")),
        (pl.Time(), pa.time64("ns")),
    ],
)
def test_polars_types_tick_like_arrows(ours: pl.DataType, theirs: pa.DataType) -> None:
    assert ticks_per_day(ours) == ticks_per_day(theirs)


@pytest.mark.parametrize("dtype", [pa.int64(), pl.String, pl.Int64(), pa.large_string()])
def test_other_types_do_not_tick(dtype: object) -> None:
    with pytest.raises(InvalidInput, match="not a timestamp"):
        ticks_per_day(dtype)


def test_dates_have_no_ticks_in_a_second() -> None:
    with pytest.raises(InvalidInput, match="date32"):
        time_units(pa.date32())


@given(st.integers(-(10**15), 10**15), st.sampled_from(list(TICKS)))
def test_a_duration_is_whole_ticks_or_refused(length: int, dtype: pa.DataType) -> None:
    exact = Fraction(length, 10**6) * TICKS[dtype]
    if exact.denominator == 1 and abs(exact) < 2**63:
        assert duration_in(length, dtype) == exact
    else:
        with pytest.raises(InvalidInput):
            duration_in(length, dtype)


def test_a_window_finer_than_its_time_is_refused_in_words() -> None:
    with pytest.raises(InvalidInput, match=r"window of '90m' does not fit .* whole days"):
        duration_in("90m", pa.date32(), what="window")


@given(
    st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)),
    st.sampled_from(list(TICKS)),
    st.sampled_from(["up", "down", "exact"]),
)
def test_a_moment_lands_on_its_tick_or_the_one_asked_for(
    moment: datetime, dtype: pa.DataType, how: str
) -> None:
    us = (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    exact = Fraction(us, 10**6) * TICKS[dtype]
    if how == "exact" and exact.denominator != 1:
        with pytest.raises(InvalidInput, match="between two ticks"):
            to_time(moment, dtype, rounding="exact")
    else:
        found = to_time(moment, dtype, rounding=how)  # type: ignore[arg-type]
        assert abs(found - exact) < 1
        assert (found >= exact) if how == "up" else (found <= exact)


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(timezone(timedelta(hours=5.5))))
)
def test_text_and_zone_make_no_difference(moment: datetime) -> None:
    dtype = pa.timestamp("us")
    assert to_time(moment.isoformat(), dtype) == to_time(moment, dtype)
    assert to_time(moment.astimezone(UTC).replace(tzinfo=None), dtype) == to_time(moment, dtype)


def test_a_date_is_its_midnight() -> None:
    expected = 15_706 * 86_400_000
    for value in (date(2013, 1, 1), "2013-01-01", "2013-01-01T00:00Z", datetime(2013, 1, 1)):
        assert to_time(value, pa.timestamp("ms")) == expected
        assert to_time(value, pa.date32()) == 15_706


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:00.123456789Z", 123_456_789),
        ("1970-01-01T00:00:00.1234567", 123_456_700),
        ("1970-01-01T00:00:00.123456000000", 123_456_000),
        ("1969-12-31T23:59:59.999999999+00:00", -1),
    ],
)
def test_nanoseconds_in_text_are_kept(text: str, nanoseconds: int) -> None:
    assert to_time(text, pa.timestamp("ns")) == nanoseconds
    assert to_time(text, pa.timestamp("us"), rounding="down") == nanoseconds // 1000


@pytest.mark.parametrize(
    "value", ["", "yesterday", "2013-13-01", "12:00", "1970-01-01T00:00:00.1234567891", 5, None, 1.5, b"2013"]
)
def test_what_is_no_moment_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="start"):
        to_time(value, pa.timestamp("ns"), what="start")  # type: ignore[arg-type]


def test_a_moment_beyond_the_columns_reach_is_refused() -> None:
    with pytest.raises(InvalidInput, match="outside"):
        to_time(datetime(9999, 1, 1), pa.timestamp("ns"))
