from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines import demo, demo_killed, demo_show
from mamba_pipelines.flights import airlines, flights


@pytest.fixture(scope="module")
def fed(tmp_path_factory):
    """A log in which the demo has run to its end."""
    place = tmp_path_factory.mktemp("demo") / "log"
    with mamba.open(place) as log:
        demo.feed(log, lambda rows: None)
        mamba.run(demo.build(), log=log)
    return place


def test_the_result_is_that_of_an_independent_computation(fed):
    with mamba.open(fed) as log:
        assert demo_killed.differences(log) == []


def test_the_comparison_finds_a_row_too_many(fed, tmp_path):
    with mamba.open(fed) as log, mamba.open(tmp_path / "other") as other:
        for name in (demo.FLIGHTS, demo.DELAYS, demo.LATE):
            copy = other.create_topic(name, log[name].polars_schema)
            copy.append(log[name].scan().collect())
        assert demo_killed.differences(other) == []
        other[demo.LATE].append(log[demo.LATE].scan().head(1).collect())
        (found,) = demo_killed.differences(other)
        assert found.startswith("late_flights: ")


def test_a_plain_group_by_differs_by_the_late_rows(fed):
    counted = flights().filter(pl.col("dep_delay").is_not_null()).height
    with mamba.open(fed) as log:
        kept = log[demo.DELAYS].scan().select(pl.col("departures").sum()).collect().item()
        late = log[demo.LATE].scan().select(pl.len()).collect().item()
    assert (late, kept) == (2_057, counted - 2_057)


def test_the_lateness_that_it_names_would_keep_that_share():
    # Judged row by row with that lateness, and with a minute less.
    judged = flights().with_columns(
        watermark=pl.col("scheduled_at").cum_max().shift(1),
        window_end=pl.col("scheduled_at").dt.truncate("1h").dt.offset_by("1h"),
    )
    judged = judged.filter(pl.col("dep_delay").is_not_null())

    def lost(lateness):
        return judged.filter(pl.col("window_end") <= pl.col("watermark").dt.offset_by(f"-{lateness}")).height

    assert lost("5h") <= judged.height / 1000 < lost("4h59m")


def test_it_says_which_lateness_that_is(fed):
    with mamba.open(fed) as log:
        assert demo_show.lateness_for(log, 0.999) == (2_057, "5h")


def test_run_again_it_adds_nothing(fed, capsys):
    with mamba.open(fed) as log:
        before = {name: log[name].offsets() for name in log.topics()}
        assert demo.show(str(fed), fresh=False, kills=None, seed=None) == 0
        assert {name: log[name].offsets() for name in log.topics()} == before
        place = log.place
    shown = capsys.readouterr().out
    assert "appended   nothing" in shown
    assert "pipeline   nothing new" in shown
    assert "114,744 hours by airport and airline" in shown
    assert "A lateness of 5h would have kept 99.9% of all" in shown
    for line in ("import mamba_stream as mamba", f"log = mamba.open({place!r})"):
        assert f"    {line}\n" in shown


def test_a_feed_that_was_cut_short_is_completed_without_repeats(tmp_path):
    class Cut(Exception):
        pass

    def cut(rows):
        if rows > 100_000:
            raise Cut

    with mamba.open(tmp_path / "log") as log:
        with pytest.raises(Cut):
            demo.feed(log, cut)
        there = log[demo.FLIGHTS].offsets()[0][1]
        assert 0 < there < 336_776
        assert demo.feed(log, lambda rows: None) == 336_776 - there
        assert_frame_equal(log[demo.FLIGHTS].scan().collect(), flights())
        assert log[demo.FLIGHTS].ended


def test_fresh_starts_over(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        demo.feed(log, lambda rows: None)
        mamba.run(demo.build(), log=log)
        demo.forget(log)
        assert log[demo.FLIGHTS].offsets() == {0: (0, 0)}
        assert log[demo.DELAYS].scan().collect().height == 0
        demo.work(log)
        assert demo_killed.differences(log) == []


def test_fresh_does_not_touch_a_topic_that_is_not_the_demos(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic(demo.FLIGHTS, {"mine": pl.Int64}).append([{"mine": 1}])
        with pytest.raises(mamba.AlreadyExists, match="is not the demo's"):
            demo.forget(log)
        assert log[demo.FLIGHTS].scan().collect().rows() == [(1,)]


def test_killed_at_random_moments_it_gives_the_same(tmp_path, monkeypatch, environment, capsys):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    assert demo.show(str(tmp_path / "log"), fresh=False, kills=3, seed=7) == 0
    shown = capsys.readouterr().out
    assert shown.count("SIGKILL after") + shown.count("had finished before the kill") == 3
    assert shown.count("SIGKILL after") >= 2
    assert "exactly those of an independent computation" in shown


def test_every_flights_airline_has_a_name():
    assert flights().join(airlines(), on="carrier", how="anti").height == 0
