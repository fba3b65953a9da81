"""How a run of a job over tasks begins: what can be checked is checked, and the job is taken over."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from mamba_stream.core.clock import Clock
from mamba_stream.core.names import check_name
from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log, Transaction
from mamba_stream.operators.lateness import NEVER
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.checkpoint import (
    OWNED,
    Checkpoints,
    forget_tasks,
    make_state,
    place_of_job,
    place_of_task,
    put_state,
)
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import make_topics
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import LayoutProgress, Progress, SourceProgress, StepProgress
from mamba_stream.runtime.task import groups_of
from mamba_stream.runtime.workers.conversion import TaskState, cut_state
from mamba_stream.runtime.workers.layout import Layout, TaskName, layout_of_job, make_internal_topics


@dataclass(frozen=True, eq=False)
class Begun:
    """A run of a job over tasks.

    Attributes:
        prepared: The pipeline over the log.
        layout: Its tasks.
        checkpoints: The job's own record.
        run: The number of the run, which tasks note in theirs.
        partitions: How many tasks a stage behind a shuffle has.
    """

    prepared: Prepared
    layout: Layout
    checkpoints: Checkpoints
    run: int
    partitions: int


def begin(pipeline: Pipeline, log: Log, options: RunOptions, partitions: int, clock: Clock) -> Begun:
    """Checks everything that can be checked, and takes the job over.

    Args:
        pipeline: The pipeline.
        log: The log.
        options: How it is to be run.
        partitions: How many tasks a stage behind a shuffle has, where the job has none yet.
        clock: The clock.

    Raises:
        PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
    """
    prepared = Prepared(pipeline, log)
    for group in groups_of(pipeline.name, prepared.analysis.sources):
        check_name(group, "group")
    make_state(log, pipeline.name)
    checkpoints = Checkpoints(log, place_of_job(pipeline.name), clock)
    saved = None if options.anew else checkpoints.load()
    before = None if saved is None else saved.progress.layout
    partitions = partitions if before is None else before.partitions
    layout = layout_of_job(prepared, partitions)
    made = _progress(prepared, layout, partitions)
    cut: dict[TaskName, TaskState] = {}
    if saved is not None:
        _check_resumable(pipeline, prepared, saved.progress, made)
        if before is None:
            cut = cut_state(saved, prepared, layout)
    make_internal_topics(log, pipeline.name, layout, prepared)
    owned = {key.partition("/")[2] for key in log.records(OWNED) if key.startswith(f"{pipeline.name}/")}
    shapes = {output: prepared.analysis.shapes[output] for output in pipeline.topics}
    topics = make_topics(log, pipeline.topics, shapes, replace=owned if options.anew else set())
    anew = saved is None
    began = checkpoints.record

    def also(tx: Transaction) -> None:
        if anew or cut:
            forget_tasks(tx, log, pipeline.name)
        if cut:
            assert began is not None
            for task, state in cut.items():
                place = place_of_task(pipeline.name, task.stage, task.number)
                put_state(tx, log, place, state.progress, state.parts, began)

    checkpoints.claim(
        made,
        anew=anew,
        owned=[name for name in topics if name not in owned],
        empty=[name for name in owned if name in log] if options.anew else [],
        replaced={} if cut else None,
        also=also,
    )
    assert checkpoints.record is not None
    return Begun(prepared, layout, checkpoints, checkpoints.record.epoch, partitions)


def _progress(prepared: Prepared, layout: Layout, partitions: int) -> Progress:
    """What a job of many tasks says of itself: what its state is of, and how it is laid out."""
    analysis = prepared.analysis
    return Progress(
        sources={
            prepared.names[node]: SourceProgress(
                {}, 0, {}, prepared.contents[node], analysis.shapes[node].time or ""
            )
            for node in analysis.sources
        },
        steps={name: StepProgress(NEVER, 0, 0, 0, {}, form) for name, form in prepared.layouts.items()},
        layout=LayoutProgress(
            partitions, [stage.tasks for stage in layout.stages], form_of(layout, prepared)
        ),
    )


def form_of(layout: Layout, prepared: Prepared) -> str:
    """32 hex digits for how a job's steps and sources lie in its stages."""
    described = [
        [
            stage.tasks,
            [prepared.names[node] for node in stage.sources],
            [node.name for node in stage.nodes if isinstance(node, n.Stateful)],
            [[one.number, one.key, one.partitions, one.partials is not None] for one in stage.exchanges],
        ]
        for stage in layout.stages
    ]
    return hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()


def _check_resumable(pipeline: Pipeline, prepared: Prepared, saved: Progress, made: Progress) -> None:
    upgrade = prepared.upgrade(saved)
    problems = upgrade.problems()
    if saved.layout is not None and saved.layout != made.layout and not problems:
        problems = ["its state is that of other tasks"]
    if problems:
        raise PipelineRefused(
            f"pipeline {pipeline.name!r} does not fit the state of its job: {'; '.join(problems)}. Run it with "
            "state='new' to start over, or give it another name"
        )
