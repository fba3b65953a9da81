"""The rows that come out are those of a model in plain Python, however they are cut, and wherever a run crashes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.run import Run
from tests.runtime.model import SCHEMA, SEEDS, Expected, Row, at, cuts, expect, frame, partitions
from tests.sizes import examples

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


def crash_along(
    log: mamba.Log, made: Pipeline, batches: list[tuple[int, pl.DataFrame]], chance: np.random.Generator
) -> None:
    """Appends batches to the topic ``rows``, and now and then runs the pipeline a while, until it is dropped."""
    for number, batch in batches:
        log["rows"].append(batch, partition=number)
        if chance.random() < 0.6:
            continue
        run = one_step(log, made, int(chance.integers(1, 9)))
        for _ in range(int(chance.integers(0, 40))):
            run.step()
            if chance.random() < 0.3:
                run.commit("running")
            elif run.commit_done or chance.random() < 0.3:
                run.begin_commit()
        # What it did since its last commit never happened.
        run.close()


SPECS = st.sampled_from([(10, 10), (10, 5), (12, 5), (60, 20), (7, 7)])
LATENESS = st.sampled_from([0, 5, 20, 60])


def check_crashing(parts: list[list[Row]], lateness: int, spec: tuple[int, int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    made = pipeline(lateness, *spec)
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=len(parts), time="ts")
        crash_along(log, made, [(number, frame(batch)) for number, batch in cuts(parts, chance)], chance)
        topic.end()
        mamba.run(made, log)
        expected = expect(parts, lateness=lateness, size=spec[0], every=spec[1])
        out = log["out"].scan().collect()
        assert windows_in(out) == windows_of(expected)
        late = log["late"].scan().collect()
        assert late_in(late) == late_of(expected)
        assert set(late.get_column("late_reason")) <= {"watermark"}
        assert log["rejected"].scan().collect().height == len(expected.rejected)
        again = mamba.run(made, log)
        assert (again.rows_in, again.rows_out) == (0, 0)


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(), lateness=LATENESS, spec=SPECS, seed=SEEDS)
def test_crashing_anywhere_and_cutting_anyhow_changes_nothing(rows, lateness, spec, seed):
    check_crashing(rows, lateness, spec, seed)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(most=1), lateness=LATENESS, spec=SPECS)
def test_collecting_a_frame_gives_the_models_windows_and_late_rows(rows, lateness, spec):
    stream = mamba.stream(frame(rows[0]), time="ts", lateness=f"{lateness}s")
    windowed = stream.window(mamba.hopping(f"{spec[0]}s", f"{spec[1]}s"), by="key").agg(
        count=pl.len(),
        total=pl.col("value").sum(),
        first=pl.col("value").first(),
        kept=pl.col("value").cum_sum().last(),
        listed=pl.col("value"),
    )
    expected = expect(rows, lateness=lateness, size=spec[0], every=spec[1])
    assert windows_in(windowed.collect()) == windows_of(expected)
    assert late_in(windowed.late.collect()) == late_of(expected)
    assert stream.rejected.collect().height == len(expected.rejected)


@settings(max_examples=examples(20), deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(), lateness=LATENESS, spec=SPECS, seed=SEEDS)
def test_crashing_between_pieces_of_state_and_merging_little_at_a_time_changes_nothing(
    rows, lateness, spec, seed
):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mamba_stream.runtime.checkpoint.PIECE_BYTES", 100)
        patched.setattr("mamba_stream.runtime.saved.PIECE_BYTES", 100)
        patched.setattr("mamba_stream.runtime.checkpoint._SLACK", 0)
        patched.setattr("mamba_stream.operators.runs._LARGE", 8)
        patched.setattr("mamba_stream.operators.runs._SMALL", 2)
        patched.setattr("mamba_stream.operators.shards._SHARDS", 4)
        check_crashing(rows, lateness, spec, seed)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=partitions(), lateness=LATENESS, spec=SPECS, seed=SEEDS)
def test_crashing_anywhere_changes_nothing_many_times(rows, lateness, spec, seed):
    check_crashing(rows, lateness, spec, seed)
