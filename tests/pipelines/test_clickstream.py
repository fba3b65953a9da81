"""The visits are those that Polars finds, however often the job dies on the way."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines import clickstream
from mamba_stream import testing
from mamba_stream.core.clock import SystemClock
from mamba_stream.operators.changes import table_of
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.sizes import crossed


def check(log: mamba.Log) -> None:
    visits, plans, late = clickstream.expected()
    for topic, wanted in ((clickstream.VISITS, visits), (clickstream.PLANS, plans), (clickstream.LATE, late)):
        found = log[topic].scan().collect()
        found = table_of(found) if topic == clickstream.PLANS else found
        assert_frame_equal(found.select(wanted.columns), wanted, check_row_order=False)


def test_the_clicks_are_such_that_everything_happens():
    clicks = clickstream.clicks()
    visits, plans, late = clickstream.expected()
    assert clicks.height > 50_000
    assert not clicks["at"].is_sorted()
    assert clicks["at"].is_unique().all()
    assert 50 < late.height < 500
    assert clickstream.users()["since"].is_unique().all()
    upgraded = visits.group_by("user").agg(pl.col("plan").n_unique()).filter(pl.col("plan") > 1)
    assert upgraded.height > 100
    assert set(plans["plan"]) == {"free", "basic", "pro", None}
    assert visits["last_page"].n_unique() == 5
    assert 0.05 < visits["bought"].mean() < 0.5


def test_fed_twice_and_run_twice_it_gives_what_polars_gives_once(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        for _ in range(2):
            clickstream.feed(log)
            mamba.run(clickstream.build(), log)
        assert log[clickstream.CLICKS].offsets() == {0: (0, clickstream.clicks().height)}
        check(log)


@pytest.mark.parametrize("seed", crossed(range(3), every=3))
def test_crashed_and_resumed_anywhere_it_gives_the_same(tmp_path, seed):
    chance = np.random.default_rng(seed)
    crashes = 0
    with mamba.open(tmp_path / "log") as log:
        users = log.create_topic(clickstream.USERS, clickstream.users(), time="since")
        topic = log.create_topic(clickstream.CLICKS, clickstream.clicks(), time="at")
        feeds = zip(
            clickstream.clicks().iter_slices(5_000), clickstream.users().iter_slices(200), strict=False
        )
        for some, known in feeds:
            topic.append(some)
            users.append(known)
            rows = int(chance.integers(300, 3_000))
            options = RunOptions(
                until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=rows
            )
            run, lost = Run(clickstream.build(), log, options, SystemClock()), 0
            for _ in range(int(chance.integers(2, 10))):
                lost += run.step()
                if chance.random() < 0.3:
                    run.commit("running")
                    lost = 0
            # The run is dropped here: what it did since its last commit never happened.
            crashes += lost > 0
        assert crashes > 2
        topic.append(clickstream.clicks()[topic.offsets()[0][1] :])
        users.append(clickstream.users()[users.offsets()[0][1] :])
        topic.end()
        users.end()
        mamba.run(clickstream.build(), log)
        check(log)


def test_visits_do_not_depend_on_partitions_batches_or_crashes():
    some = clickstream.clicks().head(3_000)
    punctual = some.filter(pl.col("at") >= pl.col("at").cum_max().dt.offset_by("-20m"))
    topics = {clickstream.CLICKS: {"time": "at"}, clickstream.USERS: {"time": "since"}}
    rows = {clickstream.CLICKS: punctual, clickstream.USERS: clickstream.users()}
    same = testing.assert_equivalent(clickstream.build(), rows, topics=topics, runs=6)
    assert same.crashes > 0
    assert same.repartitioned > 0
