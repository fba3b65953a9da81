"""The state of a job that was one task, cut into that of many.

What a step remembers is rows with their keys; a row goes to the task that the rows of its key go to.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.batches import batch_from_frame
from mamba_stream.core.keys import hash_keys, partitions_of
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.columns import PARTITION, PREFIX
from mamba_stream.operators.evaluated import GROUP
from mamba_stream.operators.retimed import COUNTED
from mamba_stream.operators.running import TABLE
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan import joins, nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import Progress, StepProgress
from mamba_stream.runtime.saved import Saved
from mamba_stream.runtime.steps import step_of
from mamba_stream.runtime.workers.layout import Layout, TaskName

_TASK: Final = f"{PREFIX}task"
_NONE: Final = -1

Parts = list[tuple[str, str, pl.DataFrame]]
"""What steps remember: a step's name, a part's, and its rows."""


class TaskState(msgspec.Struct, eq=False):
    """What a task begins with."""

    progress: Progress
    parts: Parts = msgspec.field(default_factory=list)


def cut_state(
    saved: Saved, prepared: Prepared, layout: Layout, kept: Collection[str]
) -> dict[TaskName, TaskState]:
    """What each task begins with.

    Args:
        saved: What the job's last commit left.
        prepared: The pipeline over its log.
        layout: The tasks.
        kept: The steps whose state is kept.

    Raises:
        PipelineRefused: A step remembers rows that do not say where they belong.
    """
    analysis = prepared.analysis
    found = {
        TaskName(stage.number, task): TaskState(_progress(saved.progress, stage, task, prepared, kept))
        for stage in layout.stages
        for task in range(stage.tasks)
    }
    for stage in layout.stages:
        for node in stage.nodes:
            if isinstance(node, n.Stateful) and node.name in kept:
                for part, task, frame in _cut(node, stage, _restored(node, analysis, saved)):
                    found[TaskName(stage.number, task)].parts.append((node.name, part, frame))
    first = found[TaskName(layout.stages[0].number, 0)]
    first.progress = _with_counts(first.progress, saved.progress)
    return found


def _restored(node: n.Stateful, analysis: Analysis, saved: Saved) -> StatefulStep:
    step = step_of(node, analysis)
    for name, part, frame in saved.state:
        if name == node.name:
            step.restore(part, frame)
    step.restored(saved.progress.steps[node.name].closed)
    return step


def _cut(node: n.Stateful, stage: Stage, step: StatefulStep) -> Iterator[tuple[str, int, pl.DataFrame]]:
    parts = step.snapshot()
    groups = _tasks_of_groups(node, parts.get(f"{TABLE}/rows"), stage)
    for part, frame in parts.items():
        if stage.tasks == 1 or part == COUNTED:
            yield part, 0, frame
            continue
        if not frame.height:
            continue
        where = _tasks_of(node, part, frame, stage, groups)
        for task in range(stage.tasks):
            rows = frame.filter(pl.Series(where == task))
            if rows.height:
                yield part, task, rows


def _tasks_of_groups(node: n.Stateful, table: pl.DataFrame | None, stage: Stage) -> pl.DataFrame | None:
    """Which task each group belongs to, of a step that remembers more of its keys by a number that each of them has."""
    if table is None or GROUP not in table.columns or stage.tasks == 1:
        return None
    return table.select(GROUP, pl.Series(_TASK, _tasks_of(node, TABLE, table, stage, None)))


def _tasks_of(
    node: n.Stateful, part: str, frame: pl.DataFrame, stage: Stage, groups: pl.DataFrame | None
) -> npt.NDArray[np.int64]:
    """Which task each row belongs to; none where its group is gone."""
    if isinstance(node, n.WithTime):
        return frame.get_column(PARTITION).to_numpy().astype(np.int64)
    if groups is not None and GROUP in frame.columns:
        found = frame.select(GROUP).join(groups, on=GROUP, how="left", maintain_order="left")
        return found.get_column(_TASK).fill_null(_NONE).to_numpy()
    port = 1 if isinstance(node, joins.StreamJoin) and part.startswith("right") else 0
    key = stage.lie[node, port]
    if not key or not set(key) <= set(frame.columns):
        raise PipelineRefused(
            f"step {node.name!r} ({node.verb} at {node.place}) remembers rows of which nobody knows which worker they "
            f"belong to ({part}): run the job with workers=1, or with state='new' to start over"
        )
    columns = batch_from_frame(frame.select(key)).columns
    return partitions_of(hash_keys(columns), stage.tasks).astype(np.int64)


def _progress(
    saved: Progress, stage: Stage, task: int, prepared: Prepared, kept: Collection[str]
) -> Progress:
    sources = {}
    for node in stage.sources:
        name = prepared.names[node]
        known = saved.sources.get(name)
        if known is not None:
            partitions = {p: was for p, was in known.partitions.items() if stage.tasks == 1 or p == task}
            rows, rejected = (known.rows, known.rejected) if task == 0 else (0, {})
            sources[name] = type(known)(partitions, rows, rejected, known.content, known.time)
    steps = {
        node.name: _step_progress(saved.steps[node.name], counted=task == 0)
        for node in stage.nodes
        if isinstance(node, n.Stateful) and node.name in kept
    }
    sinks = {
        node.name: saved.sinks[node.name]
        for node in stage.nodes
        if isinstance(node, n.SinkOutput) and node.name in saved.sinks
    }
    return Progress(sources=sources, steps=steps, sinks=sinks)


def _step_progress(known: StepProgress, *, counted: bool) -> StepProgress:
    if counted:
        return known
    return StepProgress(known.closed, 0, 0, 0, {}, known.layout)


def _with_counts(progress: Progress, saved: Progress) -> Progress:
    """What was counted since the job began, and is no task's, is the first one's."""
    return Progress(
        progress.sources,
        progress.steps,
        dict(saved.rows_out),
        progress.sinks,
        dict(saved.failed),
        progress.entered,
    )
