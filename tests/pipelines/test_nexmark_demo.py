"""The Nexmark demo gives what DuckDB gives, resumes, and starts over when told to."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines.nexmark import demo, generate, side_input
from mamba_stream.cli import loading
from tests.pipelines.nexmark_oracle import answer

EVENTS = 70_000


@pytest.fixture(scope="module")
def events():
    return {**generate(0, EVENTS, rate=demo.RATE), "side_input": side_input()}


def show(place, **options):
    return demo.show(str(place), **{"fresh": False, "kills": None, "seed": None, "events": EVENTS, **options})


def check(log, events):
    for query in demo.SHOWN:
        wanted = answer(query, events)
        assert wanted.height > 0
        assert_frame_equal(
            demo.rows(log, query).select(wanted.columns), wanted, check_row_order=False, check_exact=True
        )


def test_it_shows_rates_and_rows_and_run_again_it_adds_nothing(tmp_path, capsys, events):
    assert show(tmp_path / "log") == 0
    shown = capsys.readouterr().out
    assert f"appended {EVENTS:,} events" in shown
    assert shown.count("events/s: ") == len(demo.SHOWN)
    with mamba.open(tmp_path / "log") as log:
        check(log, events)
        before = {name: log[name].offsets() for name in log.topics()}
    best = answer("q9", events)["price"].max()
    assert f" {best} " in shown
    with mamba.open(tmp_path / "log") as log:
        assert show(tmp_path / "log") == 0
        again = capsys.readouterr().out
        assert again.count("nothing new") == len(demo.SHOWN)
        assert "appended nothing" in again
        assert {name: log[name].offsets() for name in log.topics()} == before
        assert f"log = mamba.open({log.place!r})" in again


def test_a_feed_that_was_cut_short_is_completed_without_repeats(tmp_path, events):
    class Cut(Exception):
        pass

    def cut(done):
        raise Cut

    with mamba.open(tmp_path / "log") as log:
        with pytest.raises(Cut):
            demo.feed(log, EVENTS, cut)
        # As if it had died between two topics of a batch.
        log[f"{demo.PREFIX}.person"].append(
            generate(50_000, 20_000, rate=demo.RATE)["person"], producer=demo.PREFIX, sequence=1
        )
        mamba.run(demo.build("q5"), log, until="now")
        assert demo.feed(log, EVENTS, lambda done: None) == 20_000 - 400
        for name in demo.STREAMS:
            topic = log[f"{demo.PREFIX}.{name}"]
            assert topic.ended
            assert_frame_equal(topic.scan().collect(), events[name])
        for query in demo.SHOWN:
            mamba.run(demo.build(query), log)
        check(log, events)


def test_fresh_starts_over_and_leaves_what_is_not_its_own(tmp_path, events):
    assert show(tmp_path / "log", events=500) == 0
    assert show(tmp_path / "log", fresh=True) == 0
    with mamba.open(tmp_path / "log") as log:
        check(log, events)
    with mamba.open(tmp_path / "other") as log:
        log.create_topic("nexmark.bid", {"mine": pl.Int64}).append([{"mine": 1}])
        with pytest.raises(mamba.AlreadyExists, match=r"nexmark\.bid.*is not the demo's"):
            demo.forget(log)
        assert log["nexmark.bid"].scan().collect().rows() == [(1,)]


def test_the_command_finds_it_by_its_name(tmp_path, run_command, monkeypatch):
    class Point:
        def __init__(self, name, module):
            self.name = name
            self.load = lambda: module

    offered = [Point("nexmark", demo), Point("plain", loading)]
    monkeypatch.setattr(loading, "entry_points", lambda group: offered)
    monkeypatch.setattr(demo, "EVENTS", 2_000)
    place = ["--log", tmp_path / "log"]
    ran = run_command("demo", "nexmark", *place)
    assert (ran.code, ran.err) == (0, "")
    assert "appended 2,000 events" in ran.out
    killed = run_command("demo", "nexmark", "--kill", 1, *place)
    assert killed.code == 1 and "nexmark has no --kill" in killed.err
    plain = run_command("demo", "plain", *place)
    assert plain.code == 3 and "mamba-stream run plain" in plain.err
    unknown = run_command("demo", "nexmrk", *place)
    assert unknown.code == 3 and "did you mean 'nexmark'" in unknown.err
