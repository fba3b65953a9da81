"""The rows that come out are those of a model in plain Python, however they are cut, and wherever a run crashes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.model import SCHEMA, Expected, Row, at, cuts, expect, frame, rows

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Crashes of a process need no disk, and commits are many."""
RESULTS = ["key", "window_start", "count", "total", "first", "kept"]


def pipeline(lateness: int, size: int, every: int) -> Pipeline:
    windowed = (
        mamba.stream("rows", lateness=f"{lateness}s")
        .window(mamba.hopping(f"{size}s", f"{every}s"), by="key")
        .agg(
            count=pl.len(),
            total=pl.col("value").sum(),
            first=pl.col("value").first(),
            kept=pl.col("value").cum_sum().last(),
            listed=pl.col("value"),
        )
    )
    return mamba.pipeline(
        "job",
        windowed.to("out"),
        windowed.late.to("late"),
        mamba.stream("rows", name="again").rejected.to("rejected"),
    )


def windows_of(expected: Expected) -> list[tuple[object, ...]]:
    found = []
    for (key, start), members in expected.windows.items():
        values = [row.value for row in members]
        found.append((key, at(start), len(values), sum(values), values[0], sum(values), values))
    return sorted(found, key=repr)


def windows_in(out: pl.DataFrame) -> list[tuple[object, ...]]:
    return sorted(out.select(*RESULTS, "listed").rows(), key=repr)


def late_of(expected: Expected) -> list[tuple[object, ...]]:
    return sorted(((at(row.time or 0), row.key, row.value, by) for row, by in expected.late), key=repr)


def late_in(late: pl.DataFrame) -> list[tuple[object, ...]]:
    by = pl.col("late_by").dt.total_milliseconds()
    return sorted(late.select("ts", "key", "value", by).rows(), key=repr)


def one_step(log: mamba.Log, made: Pipeline, rows: int) -> Run:
    options = RunOptions(until="now", anew=False, memory=1 << 30, commit=0.0, skip_gaps=False, rows=rows)
    return Run(made, log, options, SystemClock())


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[list[Row]], list[tuple[int, list[Row]]]]:
    partitions = draw(st.lists(rows(), min_size=1, max_size=3))
    return partitions, cuts(partitions, draw)


SPECS = st.sampled_from([(10, 10), (10, 5), (12, 5), (60, 20), (7, 7)])


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes(), lateness=st.sampled_from([0, 5, 20, 60]), spec=SPECS, data=st.data())
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(scene, lateness, spec, data):
    partitions, batches = scene
    made = pipeline(lateness, *spec)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=len(partitions), time="ts")
        for number, batch in batches:
            topic.append(frame(batch), partition=number)
            if not data.draw(st.booleans(), label="run"):
                continue
            run = one_step(log, made, data.draw(st.integers(1, 6), label="rows"))
            for _ in range(data.draw(st.integers(0, 12), label="steps")):
                run.step()
                if data.draw(st.booleans(), label="commit"):
                    run.commit("running")
            # The run is dropped here: what it did since its last commit never happened.
        topic.end()
        mamba.run(made, log)
        expected = expect(partitions, lateness=lateness, size=spec[0], every=spec[1])
        out = log["out"].scan().collect()
        assert windows_in(out) == windows_of(expected)
        assert late_in(log["late"].scan().collect()) == late_of(expected)
        assert log["rejected"].scan().collect().height == len(expected.rejected)
        assert set(log["late"].scan().collect().get_column("late_reason")) <= {"watermark"}
        again = mamba.run(made, log)
        assert (again.rows_in, again.rows_out) == (0, 0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=rows(), lateness=st.sampled_from([0, 5, 20]), spec=SPECS)
def test_collecting_a_frame_gives_the_models_windows_and_late_rows(rows, lateness, spec):
    stream = mamba.stream(frame(rows), time="ts", lateness=f"{lateness}s")
    windowed = stream.window(mamba.hopping(f"{spec[0]}s", f"{spec[1]}s"), by="key").agg(
        count=pl.len(),
        total=pl.col("value").sum(),
        first=pl.col("value").first(),
        kept=pl.col("value").cum_sum().last(),
        listed=pl.col("value"),
    )
    expected = expect([rows], lateness=lateness, size=spec[0], every=spec[1])
    assert windows_in(windowed.collect()) == windows_of(expected)
    assert late_in(windowed.late.collect()) == late_of(expected)
    assert stream.rejected.collect().height == len(expected.rejected)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(scene=scenes(), lateness=st.sampled_from([0, 5, 20, 60]), spec=SPECS, data=st.data())
def test_crashing_anywhere_changes_nothing_many_times(scene, lateness, spec, data):
    test_crashing_anywhere_and_cutting_anyhow_changes_nothing.hypothesis.inner_test(
        scene, lateness, spec, data
    )
