"""How plans are cut into stages, in words: what is in which stage, and what goes from one to another."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.workers.beginning import form_of
from mamba_stream.runtime.workers.layout import layout_of_job


@pytest.fixture
def log(tmp_path):
    schema = {"ts": pl.Datetime("us"), "key": pl.String, "other": pl.Int64, "value": pl.Float64}
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("in", schema, partitions=4, time="ts")
        log.create_topic("beside", schema, partitions=4, time="ts")
        yield log


def test_rows_that_need_not_meet_stay_where_they_are(log):
    stream = log["in"].stream().filter(pl.col("value") > 1).select("ts", "value")
    assert stream.explain(format="stages").splitlines()[0] == "stage 0: a task for each partition"
    assert "→" not in stream.explain(format="stages")


def test_a_window_is_cut_in_two_and_partial_results_cross(log):
    counted = log["in"].stream().window(mamba.tumbling("1m"), by="key").agg(rows=pl.len())
    told = counted.explain(format="stages").splitlines()
    assert told[0] == "stage 0: a task for each partition"
    assert told[2].strip() == "→ stage 1: partial results of 2 of 1, by key"
    assert told[3] == "stage 1: 32 tasks"


def test_what_stays_with_its_key_is_not_cut_again(log):
    rows = log["in"].stream()
    ranked = (
        rows.join(log["beside"].stream(), on="key", within="1m")
        .window(mamba.tumbling("1m"), by="key")
        .agg(pl.len())
    )
    told = ranked.explain(format="stages")
    assert told.count("→") == 2
    assert told.count("stage 2: 32 tasks") == 1


def test_what_one_stage_reads_no_other_does_since_it_is_trimmed_behind_it(log):
    rows, others = log["in"].stream(), log["beside"].stream()
    known = rows.unique("key", within="1m")
    pairs = rows.join(others, on="key", within="1m")
    pipeline = mamba.pipeline(
        "job", known.to("known"), pairs.to("pairs"), rows.unique("key", within="2m").to("first")
    )
    prepared = Prepared(pipeline, log)
    stages = layout_of_job(prepared, 4).stages
    read = [exchange.number for stage in stages for exchange in stage.exchanges]
    assert sorted(read) == [0, 1, 2]
    # The two that want the same rows by the same key are one stage.
    assert [len(stage.exchanges) for stage in stages] == [0, 0, 1, 2]


def test_a_plan_is_cut_the_same_way_each_time(log):
    """Each worker cuts it for itself, and so does the next run, which goes on from what lies between the stages."""
    rows, others = log["in"].stream(), log["beside"].stream()
    outputs = []
    for number in range(4):
        one, other = (
            side.table("key", name=f"{name}{number}") for side, name in ((rows, "one"), (others, "other"))
        )
        outputs.append(one.join(other, on="key", name=f"tables{number}").to(f"tables{number}"))
    # Its rows lie in as many stages by its key as there are joins of tables.
    pairs = rows.join(others, on="key", within="1m").to("pairs")
    pipeline = mamba.pipeline("job", *outputs, pairs)
    cuts, kept = set(), []
    for _ in range(30):
        prepared = Prepared(pipeline, log)
        layout = layout_of_job(prepared, 4)
        # What is kept has another place in memory than what is made next.
        kept.append(layout)
        cuts.add(form_of(layout, prepared))
    assert len(cuts) == 1


def test_what_wants_whole_windows_is_done_by_one_task(log):
    counted = log["in"].stream().window(mamba.tumbling("1m"), by="key").agg(rows=pl.len())
    hot = counted.filter(pl.col("rows") == pl.col("rows").max().over("window_start"))
    told = hot.explain(format="stages")
    assert "all to one task" in told
    assert "stage 1: one task" in told


def test_another_key_is_another_stage(log):
    totals = log["in"].stream().group_by("key", "other").agg(total=pl.col("value").sum())
    told = totals.group_by("other").agg(most=pl.col("total").max()).explain(format="stages")
    assert "by key, other" in told
    assert told.rstrip().splitlines()[-2].startswith("stage 2") or "stage 2: 32 tasks" in told


def test_a_topic_whose_columns_are_not_known_is_refused_with_what_to_do():
    with pytest.raises(mamba.PipelineRefused, match=r"log\['in'\]\.stream\(\), or say schema="):
        mamba.stream("in").group_by("key").agg(pl.len()).explain(format="stages")


def test_a_style_that_there_is_not_is_refused(log):
    with pytest.raises(mamba.InvalidInput, match="'stages'"):
        log["in"].stream().explain(format="picture")
