"""Lookups in a table that is read again: as often as was said, and with the columns that were said."""

from __future__ import annotations

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.desk import ManualClock, put

SCHEMA = {"key": pl.String, "name": pl.String}


def test_rows_meet_the_table_as_it_is_by_then(log, topic):
    clock, reads = ManualClock(), []

    def read() -> pl.DataFrame:
        reads.append(1)
        return pl.DataFrame({"key": ["a", "a"], "name": [f"first {len(reads)}", f"second {len(reads)}"]})

    names = mamba.periodically(read, every="5m", schema=SCHEMA, clock=clock)
    made = mamba.pipeline("job", topic.stream().join(names, on="key").to("out"))
    assert not reads
    options = RunOptions(until="stopped", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=100)
    run = Run(made, log, options, clock)
    for number, seconds in enumerate((0, 299, 1, 0)):
        clock.seconds += seconds
        put(topic, 0, (number, "a", number))
        run.step()
    run.commit("stopped")
    found = log["out"].scan().collect().select("value", "name").rows()
    assert found == [
        (v, f"{w} {r}") for v, r in ((0, 1), (1, 1), (2, 2), (3, 2)) for w in ("first", "second")
    ]


def test_what_depends_on_order_tells_rows_apart_that_met_several(topic, log):
    put(topic, 0, (0, "a", 1), (1, "a", 2))
    table = pl.DataFrame({"key": ["a", "a"], "name": ["x", "y"]})
    names = mamba.periodically(lambda: table, every="1h", schema=SCHEMA)
    listed = topic.stream().join(names, on="key").window(mamba.tumbling("1m")).agg(pl.col("name"))
    assert listed.collect(log).get_column("name").to_list() == [["x", "y", "x", "y"]]


def test_a_table_with_other_columns_stops_the_job():
    names = mamba.periodically(lambda: [{"key": "a", "nam": "x"}], every="1h", schema=SCHEMA)
    rows = mamba.stream([{"key": "a"}]).join(names, on="key")
    with pytest.raises(mamba.StepFailed, match="gave a table with .*nam.*schema= says .*name"):
        rows.collect()


def test_a_function_that_raises_stops_the_job_with_its_error():
    def read() -> pl.DataFrame:
        raise OSError("no such table")

    rows = mamba.stream([{"key": "a"}]).join(mamba.periodically(read, every="1h", schema=SCHEMA), on="key")
    with pytest.raises(mamba.StepFailed, match="no such table") as caught:
        rows.collect()
    assert isinstance(caught.value.__cause__, OSError)


def test_the_plan_says_that_it_goes_by_the_clock():
    names = mamba.periodically(list, every="5m", schema=SCHEMA)
    plan = mamba.stream([{"key": "a"}]).join(names, on="key", how="left").explain()
    assert "with a table that is read again every 5m by the machine's clock" in plan
    assert "what a row meets depends on when it is worked on" in plan


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: mamba.periodically(None, every="5m", schema=SCHEMA), "takes a function"),
        (lambda: mamba.periodically(list, every="0s", schema=SCHEMA), "longer than nothing"),
        (lambda: mamba.periodically(list, every="5m", schema=3), "is no schema"),
        (
            lambda: mamba.stream([{"key": 1}]).join(
                mamba.periodically(list, every="5m", schema=SCHEMA), on="key"
            ),
            "cast one",
        ),
        (
            lambda: (
                mamba.stream([{"key": "a"}])
                .table("key")
                .join(mamba.periodically(list, every="5m", schema=SCHEMA), on="key")
            ),
            "takes rows that stay",
        ),
    ],
)
def test_what_cannot_be_is_refused(build, why):
    with pytest.raises(mamba.InvalidInput, match=why):
        build()
