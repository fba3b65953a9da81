"""When one worker is better than several, as far as the plan tells."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.plan.alone import Alone, alone
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.workers.layout import layout_of_job

SCHEMA = {"ts": pl.Datetime("us"), "key": pl.String, "value": pl.Float64}


@pytest.fixture
def log(tmp_path):
    with mamba.open(tmp_path / "log") as log:
        log.create_topic("many", SCHEMA, partitions=4, time="ts")
        log.create_topic("strict", SCHEMA, partitions=4, key="key", strict_key=True, time="ts")
        log.create_topic("one", SCHEMA, time="ts")
        yield log


def better(stream: mamba.Stream, log: mamba.Log) -> Alone | None:
    return alone(layout_of_job(Prepared(mamba.pipeline("job", stream.to("out")), log), 32).stages)


def slow(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def counted(stream: mamba.Stream) -> mamba.Stream:
    return stream.window(mamba.tumbling("1m"), by="key").agg(n=pl.len())


def test_what_is_one_task_gains_by_no_number_of_workers(log):
    found = better(log["one"].stream().map_batches(slow), log)
    assert found == Alone("all of it is one task: 'one' has one partition")
    assert found.is_better(2) and found.is_better(256)


def test_a_sequence_is_one_task_and_it_is_said_why(log):
    log["one"].end()
    both = mamba.sequence(log["one"].stream(), log["many"].stream(name="live"))
    assert "what comes second in a sequence waits" in better(both, log).why


def test_a_frame_is_one_task(log):
    assert better(mamba.stream(pl.DataFrame(schema=SCHEMA), time="ts"), log) == Alone("all of it is one task")


def test_windows_whose_partial_results_cross_are_done_by_one_worker_unless_there_are_many(log):
    found = better(counted(log["many"].stream()), log)
    assert [found.is_better(workers) for workers in (2, 5, 6, 64)] == [True, True, False, False]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda log: counted(log["strict"].stream()), id="no shuffle"),
        pytest.param(lambda log: log["many"].stream().filter(pl.col("value") > 1), id="row verbs"),
        pytest.param(lambda log: log["many"].stream().group_by("key").agg(n=pl.len()), id="totals"),
        pytest.param(lambda log: counted(log["many"].stream().map_batches(slow)), id="a function"),
    ],
)
def test_what_can_be_divided_is_for_several_workers(log, build):
    assert better(build(log), log) is None


def test_a_function_in_the_one_task_that_reads_cannot_be_divided(log):
    found = better(counted(log["one"].stream().map_batches(slow)), log)
    assert found is not None and found.is_better(2)
    both = counted(
        mamba.concat([log["one"].stream().map_batches(slow), log["many"].stream().map_batches(slow)])
    )
    assert better(both, log) is None


def test_the_explanation_of_stages_says_so(log):
    told = counted(log["many"].stream()).explain(format="stages").splitlines()[-1]
    assert told.startswith("one worker with workers= less than 6: Polars does all of it")
    told = log["one"].stream().explain(format="stages").splitlines()[-1]
    assert told == "one worker: all of it is one task: 'one' has one partition"
    assert "one worker" not in counted(log["strict"].stream()).explain(format="stages")
