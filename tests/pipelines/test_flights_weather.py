"""Departures meet the weather that Polars' ``join_asof`` says, however often the job dies on the way."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines import flights_weather
from mamba_pipelines.flights import flights, weather
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import table_of
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.sizes import crossed

TOPICS = (flights_weather.DEPARTURES, flights_weather.DELAYS, flights_weather.CANCELLED)


def check(log: mamba.Log) -> None:
    for topic, wanted in zip(TOPICS, flights_weather.expected(), strict=True):
        found = log[topic].scan().collect()
        found = table_of(found) if topic == flights_weather.DELAYS else found
        by = ["origin", "departed_at", "scheduled_at", "carrier", "flight"]
        by = (
            [column for column in by if column in wanted.columns]
            if "poor" not in wanted.columns
            else ["origin", "poor"]
        )
        assert_frame_equal(found.select(wanted.columns).sort(by), wanted.sort(by))


def test_fed_twice_and_run_twice_it_gives_what_polars_gives_once(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        for _ in range(2):
            flights_weather.feed(log)
            mamba.run(flights_weather.build(), log)
        assert {
            name: log[name].offsets()[0][1] for name in (flights_weather.FLIGHTS, flights_weather.WEATHER)
        } == {
            flights_weather.FLIGHTS: 336_776,
            flights_weather.WEATHER: 26_115,
        }
        check(log)


def test_most_met_an_observation_some_none_and_poor_visibility_delays():
    departures, delays, cancelled = flights_weather.expected()
    assert (departures.height, cancelled.height) == (328_521, 8_255)
    assert 500 < departures["observed_at"].null_count() < 5_000
    mean = dict(delays.group_by("poor").agg(pl.col("mean_delay").mean()).iter_rows())
    assert mean[True] > 1.5 * mean[False]


@pytest.mark.parametrize("seed", crossed(range(2), every=2))
def test_crashed_and_resumed_anywhere_it_gives_the_same(tmp_path, seed):
    chance = np.random.default_rng(seed)
    crashes = 0
    with mamba.open(tmp_path / "log") as log:
        feeds = {
            log.create_topic(flights_weather.FLIGHTS, flights(), time="scheduled_at"): flights(),
            log.create_topic(flights_weather.WEATHER, weather(), time="observed_at"): weather(),
        }
        cuts = np.sort(chance.random(15)).tolist()
        for start, end in zip([0.0, *cuts], [*cuts, 1.0], strict=True):
            for topic, rows in feeds.items():
                topic.append(rows[int(start * rows.height) : int(end * rows.height)])
            size = int(chance.integers(1_000, 10_000))
            options = RunOptions(
                until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=size
            )
            run, lost = Run(flights_weather.build(), log, options, SystemClock()), 0
            for _ in range(int(chance.integers(2, 10))):
                lost += run.step()
                if chance.random() < 0.2:
                    run.commit("running")
                    lost = 0
            # The run is dropped here: what it did since its last commit never happened.
            crashes += lost > 0
        assert crashes > 2
        for topic in feeds:
            topic.end()
        mamba.run(flights_weather.build(), log)
        check(log)
