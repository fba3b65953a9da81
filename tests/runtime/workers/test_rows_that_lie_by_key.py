"""Topics whose rows lie by a strict key: tasks find what has to meet in their partition, and the rows are the same."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import mamba_stream as mamba
from mamba_pipelines.nexmark import QUERIES
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.workers.layout import layout_of_job
from tests.pipelines.test_nexmark import STREAMS, busy, slow
from tests.runtime.workers.test_pooledjob import counting, expected, found, rows, start
from tests.runtime.workers.test_tasks_in_turns import over_tasks
from tests.sizes import crossed

BY_AUCTION = {"person": "id", "auction": "id", "bid": "auction"}
BY_PERSON = {"person": "id", "auction": "seller", "bid": "bidder"}
NO_SHUFFLE = {
    "by auction": {"q4", "q9", "q17", "q18", "q19", "q20"},
    "by person": {"q3", "q8", "q11", "q12", "q18"},
}
"""Queries that bring rows together by what they lie by; some of them again by something else."""


@pytest.mark.parametrize(
    ("query", "tables", "keys"), crossed(QUERIES, [busy, slow], [BY_AUCTION, BY_PERSON], every=8)
)
def test_a_query_over_rows_that_lie_by_key_gives_what_duckdb_gives(query, tables, keys):
    # As many as tasks behind a shuffle: there rows of both kinds could meet.
    over_tasks(query, tables, keys, partitions=4 if tables is busy else 3)


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("in", rows(0, 1), partitions=3, key="key", strict_key=True, time="ts")
        yield log


@pytest.mark.parametrize(("keys", "named"), [(BY_AUCTION, "by auction"), (BY_PERSON, "by person")])
def test_queries_whose_keys_rows_lie_by_have_no_shuffle_for_them(tmp_path, keys, named):
    given = busy()
    with mamba.open(tmp_path / "log") as log:
        for name in STREAMS:
            log.create_topic(
                name, given[name], partitions=4, key=keys[name], strict_key=True, time="dateTime"
            )
        streams = {name: log[name].stream(lateness="60s") for name in STREAMS}
        without = {
            query
            for query, build in QUERIES.items()
            if "no shuffle" in build(**streams, side_input=given["side_input"]).explain(format="stages")
        }
    assert without == NO_SHUFFLE[named]


def test_a_job_over_rows_that_lie_by_key_has_one_stage_and_gives_the_rows(log):
    data = rows(0, 6_000)
    prepared = Prepared(counting(), log)
    layout = layout_of_job(prepared, 8)
    assert ([stage.tasks for stage in layout.stages], layout.exchanges) == ([3], [])
    job = start(counting(), log, until="stopped")
    for part in data.iter_slices(500):
        log["in"].append(part)
    log["in"].end()
    assert job.wait(60).rows_in == 6_000
    assert_frame_equal(found(log), expected(data), check_row_order=False)


def test_rows_that_belong_elsewhere_are_refused_where_they_are_appended_and_nothing_is(log):
    data = rows(0, 100)
    with pytest.raises(mamba.InvalidInput, match=r"key=0 belongs to partition \d, not \d.*strict_key=True"):
        log["in"].append(data, partition=1)
    with pytest.raises(mamba.InvalidInput, match="belongs to partition"), log.transaction() as tx:
        tx.append("in", data)
        tx.append("in", data, partition=0)
    assert all(end == 0 for _, end in log["in"].offsets().values())


def test_rows_that_belong_to_the_partition_that_is_named_go_there(log):
    data = rows(0, 100)
    for batch in _by_partition(log, data):
        log["in"].append(batch[1], partition=batch[0])
    assert_frame_equal(log["in"].scan().collect(), data, check_row_order=False)


def test_what_a_pipeline_writes_by_key_is_read_by_key_without_a_shuffle(log):
    log["in"].append(rows(0, 1_000))
    log["in"].end()
    kept = log["in"].stream(lateness="1000s").select("ts", "key", "value")
    mamba.run(mamba.pipeline("first", kept.to("by_value", key="value", partitions=4)), log=log)
    assert log["by_value"].strict_key
    totals = log["by_value"].stream().group_by("value").agg(rows=pl.len())
    assert "no shuffle: 'by_value' lies by value in 4 partitions" in totals.explain(format="stages")
    mamba.run(mamba.pipeline("second", totals.to("out2")), log=log, workers=2, until="now")
    assert log["out2"].scan().select("rows").collect()["rows"].to_list() == [1] * 1_000


def test_two_topics_with_unequal_numbers_of_partitions_meet_through_a_shuffle(log):
    log.create_topic("beside", rows(0, 1), partitions=4, key="key", strict_key=True, time="ts")
    joined = log["in"].stream().join(log["beside"].stream(), on="key", within="10s")
    assert "a shuffle by key: 'in' has 3 partitions and 'beside' has 4 partitions" in joined.explain()


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ({}, "a shuffle by key: 'other' has no key"),
        (
            {"key": "key"},
            "a shuffle by key: 'other' has the key key, and appends that name a partition may have",
        ),
        (
            {"key": "value", "strict_key": True},
            "a shuffle by key: 'other' lies by value, which is not what has",
        ),
        (
            {"key": ["key", "value"], "strict_key": True},
            "a shuffle by key: 'other' lies by key, value, which is",
        ),
        ({"key": "key", "strict_key": True}, "no shuffle: 'other' lies by key in 4 partitions"),
    ],
)
def test_both_explanations_say_whether_there_is_a_shuffle_and_why(log, topic, said):
    log.create_topic("other", rows(0, 1), partitions=4, time="ts", **topic)
    counted = log["other"].stream().window(mamba.tumbling("1m"), by="key").agg(n=pl.len())
    assert said in counted.explain(format="stages")
    assert f"over workers: {said}" in counted.explain()


def test_of_one_partition_it_is_said_why_there_is_a_shuffle_over_workers(log):
    log.create_topic("single", rows(0, 1), key="key", strict_key=True, time="ts")
    counted = log["single"].stream().window(mamba.tumbling("1m"), by="key").agg(n=pl.len())
    assert "'single' has one partition" in counted.explain(format="stages")
    assert "over workers" not in counted.explain()


def test_a_column_that_only_has_the_keys_name_is_not_what_rows_lie_by(log):
    stream = log["in"].stream().with_columns(key=pl.col("key") % 2)
    assert "no shuffle" not in stream.group_by("key").agg(n=pl.len()).explain(format="stages")
    swapped = log["in"].stream().rename({"key": "value", "value": "key"})
    assert "no shuffle" not in swapped.group_by("key").agg(n=pl.len()).explain(format="stages")
    assert "no shuffle" in swapped.group_by("value").agg(n=pl.len()).explain(format="stages")


def _by_partition(log: mamba.Log, data: pl.DataFrame) -> list[tuple[int, pl.DataFrame]]:
    """The rows by partition, as the log itself places them in a topic beside."""
    beside = log.create_topic("beside", data, partitions=3, key="key")
    beside.append(data)
    return [(batch.partition, pl.DataFrame(batch.data)) for batch in beside.read()]
