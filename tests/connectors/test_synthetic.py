"""Rows from a seed, rows replayed, rows measured."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mamba_connectors import synthetic
from mamba_connectors.synthetic import made
from mamba_stream.errors import InvalidInput, MissingExtra
from mamba_stream.testing.sources import SourceContract, read_to_end

GOLDEN = [
    (datetime(2025, 12, 31, 23, 59, 51, 110005), "k56", 0, 54.38),
    (datetime(2026, 1, 1, 0, 0, 0, 1000), "k50", 1, 14.0),
    (datetime(2025, 12, 31, 23, 59, 57, 514148), "k89", 2, 60.6),
]
ALL = {"disorder": "5s", "disordered": 0.3, "idle": ("1s", "10s"), "skew": 1.0, "keys": 20, "rate": 50}


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> int:
        return 1_700_000_000_000_000 + int(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds


class TestMade(SourceContract):
    def source(self, place: Path) -> synthetic.MadeSource:
        return synthetic.source(rows=300, partitions=2, seed=7, **ALL)

    def expected(self, place: Path) -> pl.DataFrame:
        source = self.source(place)
        return pl.concat(pl.DataFrame(source.made(p, 0, 300)) for p in range(2))


class TestReplay(SourceContract):
    def source(self, place: Path) -> synthetic.ReplaySource:
        return synthetic.replay(self.expected(place))

    def expected(self, place: Path) -> pl.DataFrame:
        return pl.DataFrame({"number": range(60), "text": [None, "a", "ü"] * 20})


def test_a_row_depends_on_seed_partition_and_number_alone():
    source = synthetic.source(seed=3, **ALL)
    whole = pl.DataFrame(source.made(1, 0, 2_000))
    assert pl.DataFrame(source.made(1, 1_234, 100)).equals(whole.slice(1_234, 100))
    assert not pl.DataFrame(source.made(0, 0, 2_000)).equals(whole)
    assert not pl.DataFrame(synthetic.source(seed=4, **ALL).made(1, 0, 2_000)).equals(whole)


def test_rows_are_the_same_in_every_version():
    # The first two numbers that SplitMix64 gives from 0, as published with it.
    assert [int(word) for word in made._mixed(np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64))] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
    ]
    rows = pl.DataFrame(synthetic.source(seed=1, disorder="10s", disordered=0.5).made(0, 0, 3)).rows()
    assert rows == GOLDEN


def test_keys_are_as_skewed_as_was_asked_for():
    even = pl.DataFrame(synthetic.source(keys=4, skew=0).made(0, 0, 40_000))["key"].value_counts()
    assert all(abs(count - 10_000) < 500 for count in even["count"])
    skewed = dict(
        pl.DataFrame(synthetic.source(keys=4, skew=1).made(0, 0, 40_000))["key"].value_counts().rows()
    )
    assert abs(skewed["k0"] / skewed["k1"] - 2) < 0.1
    assert abs(skewed["k0"] / skewed["k3"] - 4) < 0.3


def test_disorder_lies_within_its_bounds_and_idle_phases_leave_gaps():
    frame = pl.DataFrame(synthetic.source(rate=100, disorder="2s", disordered=0.25).made(0, 0, 10_000))
    due = pl.Series([datetime(2026, 1, 1) + timedelta(milliseconds=10 * n) for n in range(10_000)])
    behind = due - frame["at"]
    assert behind.min() == timedelta(0)
    assert timedelta(seconds=1.9) < behind.max() <= timedelta(seconds=2)
    assert abs((behind > timedelta(0)).mean() - 0.25) < 0.02
    idle = (
        pl.DataFrame(synthetic.source(rate=100, idle=("1s", "1m")).made(0, 0, 1_000))["at"]
        .diff()
        .drop_nulls()
    )
    assert sorted(set(idle)) == [timedelta(milliseconds=10), timedelta(seconds=60, milliseconds=10)]


def test_paced_rows_come_when_they_are_due_and_the_pace_goes_on_after_a_restart():
    clock = HandClock()
    source = synthetic.source(rate=10, paced=True, idle=("1s", "5s"), clock=clock)
    reader = source.open("0", None)
    assert reader.read(100).batch.num_rows == 1
    assert reader.read(100) is None
    clock.seconds = 0.45
    assert reader.read(100).position == 5
    clock.seconds = 3.0
    assert reader.read(100).position == 10  # an idle phase lies behind it
    assert reader.read(100) is None
    clock.seconds = 6.2
    assert reader.read(100).position == 13
    again = source.open("0", 13)
    assert again.read(100).position == 14
    clock.seconds = 6.31
    assert again.read(100).position == 15


def test_a_replay_keeps_its_order_and_its_pace():
    clock = HandClock()
    start = datetime(2013, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame({"at": [start + timedelta(hours=h) for h in (0, 1, 0, 3)], "n": range(4)})
    reader = synthetic.replay(frame, time="at", speed=3600, clock=clock).open("all", None)
    assert reader.read(9).position == 1
    clock.seconds = 1.0
    assert reader.read(9).position == 3  # what lies behind comes right behind what it follows
    clock.seconds = 2.9
    assert reader.read(9) is None and not reader.ended
    clock.seconds = 3.0
    assert reader.read(9).position == 4 and reader.ended


def test_this_machine_is_measured():
    clock = HandClock()
    source = synthetic.machine(every="1s", rows=2, clock=clock)
    reader = source.open("all", None)
    first = reader.read(10)
    assert reader.read(10) is None
    clock.seconds = 1.0
    second = reader.read(10)
    assert reader.ended
    for rows in (first, second):
        assert rows.batch.schema == source.schema
        assert rows.batch.to_pylist()[0]["memory_used"] > 0
    assert source.delivery == "at-most-once"


def test_without_psutil_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mamba-stream\[machine\]'"):
        synthetic.machine()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rows": -1}, "rows=-1"),
        ({"keys": 0}, "keys=0"),
        ({"rate": 0}, "rate=0"),
        ({"skew": -1}, "skew=-1"),
        ({"disorder": 5}, "disorder has no unit"),
        ({"start": "today"}, "start='today'"),
        ({"idle": ("1s", "0s")}, "idle"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        synthetic.source(**arguments)


def test_a_replay_at_a_speed_needs_a_time():
    frame = pl.DataFrame({"at": [datetime(2026, 1, 1)], "n": [1]})
    with pytest.raises(InvalidInput, match="did you mean 'at'"):
        synthetic.replay(frame, time="att", speed=1)
    with pytest.raises(InvalidInput, match="time is a Datetime or a Date"):
        synthetic.replay(frame, time="n", speed=1)
    with pytest.raises(InvalidInput, match="takes a Polars frame"):
        synthetic.replay([1])


def test_endless_rows_do_not_end():
    reader = synthetic.source().open("0", 10**9)
    assert reader.read(5).batch.num_rows == 5 and not reader.ended
    assert not synthetic.source().bounded
    assert read_to_end(synthetic.source(rows=0), "0").height == 0
