"""Windows in halves, over tasks that begin anew: rows and late rows are those of a model in plain Python."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import make_topics
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.standing import place_of_task
from mamba_stream.runtime.workers.layout import Layout, layout_of_job, make_internal_topics
from mamba_stream.runtime.workers.worker import Worker
from tests.runtime.model import SCHEMA, Row, at, cuts, expect, frame, make_rows
from tests.sizes import crossed

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
VALUE = pl.col("value")
TAKEN_OVER = 60
"""Times in a run: a task that never lives as long as from one commit to the next comes to no end."""


@pytest.mark.parametrize(("spec", "by"), crossed([(10, 10), (12, 5), (60, 20)], ["key", None], every=2))
def test_windows_over_tasks_are_those_of_the_model(spec, by):
    chance = np.random.default_rng(11)
    size, every = spec
    windowed = (
        mamba.stream("rows", lateness="5s")
        .window(mamba.hopping(f"{size}s", f"{every}s"), by=by)
        .agg(count=pl.len(), total=VALUE.sum(), first=VALUE.first(), different=VALUE.n_unique())
    )
    pipeline = mamba.pipeline("job", windowed.to("out"))
    parts = [make_rows(400, size, size + 10, 0.05, chance) for _ in range(3)]
    with tempfile.TemporaryDirectory(dir=MEMORY) as place, mamba.open(Path(place) / "log") as log:
        topic = log.create_topic("rows", SCHEMA, partitions=3, time="ts")
        batches = cuts(parts, chance)
        for number, few in enumerate([batches[:20], batches[20:50], batches[50:]], 1):
            for partition, rows in few:
                topic.append(frame(rows), partition=partition)
            if number == 3:
                topic.end()
            layout = work(pipeline, log, number, until=None if number == 3 else "now", chance=chance)
        [exchange] = layout.exchanges
        assert exchange.partials is not None
        expected = expect(
            parts if by else [[Row(row.time, "", row.value) for row in some] for some in parts],
            lateness=5,
            size=size,
            every=every,
        )
        out = log["out"].scan().collect()
        wanted = []
        for (key, start), members in expected.windows.items():
            values = [row.value for row in members]
            results = (len(values), sum(values), values[0], len(set(values)))
            wanted.append(((key,) if by else ()) + (at(start), at(start + size), *results))
        assert sorted(out.rows(), key=repr) == sorted(wanted, key=repr)
        steps = [saved.progress.steps.values() for saved in states(log, layout)]
        counts = [(step.rows, step.by_watermark, step.by_idleness) for some in steps for step in some]
        read = sum(row.time is not None for some in parts for row in some)
        assert [sum(column) for column in zip(*counts, strict=True)] == [read, len(expected.late), 0]
        assert expected.late


def work(
    pipeline: mamba.Pipeline, log: mamba.Log, run: int, *, until: str | None, chance: np.random.Generator
) -> Layout:
    """A run of a job's tasks, which are taken over now and then."""
    prepared = Prepared(pipeline, log)
    layout = layout_of_job(prepared, 4)
    make_internal_topics(log, "job", layout, prepared)
    shapes = {output: prepared.analysis.shapes[output] for output in pipeline.topics}
    make_topics(log, pipeline.topics, shapes, replace=set())
    options = RunOptions(until=until, anew=False, memory=1 << 30, commit=0.01, skip_gaps=False, rows=10)
    worker = Worker(pipeline, prepared, layout.stages, log, options, SystemClock(), run)
    worker.take(layout.tasks, 0)
    lease = 0
    while worker.tasks:
        worker.turn()
        if worker.tasks and lease < TAKEN_OVER and chance.random() < 0.5:
            name = list(worker.tasks)[int(chance.integers(len(worker.tasks)))]
            # What it had begun to commit is committed; what it did since is done again.
            worker.tasks[name].end_commit()
            lease += 1
            worker.take([name], lease)
    worker.close()
    assert lease > 0
    return layout


def states(log: mamba.Log, layout: Layout):
    for task in layout.tasks:
        saved = Checkpoints(log, place_of_task("job", task.stage, task.number), SystemClock(), 0).load()
        assert saved is not None
        yield saved
