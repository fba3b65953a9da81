"""How a run of a job over tasks begins: what can be checked is checked, and the job is taken over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.core.names import check_name
from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log, Transaction
from mamba_stream.operators.lateness import NEVER
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.plan.stages import Exchange
from mamba_stream.runtime.altered import going_on
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.exchanges import exchange_schema
from mamba_stream.runtime.faults import DeadLetters
from mamba_stream.runtime.held import forget_tasks
from mamba_stream.runtime.left import Left, left_for
from mamba_stream.runtime.merging import merged
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.outputs import make_topics
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.progress import LayoutProgress, Progress, SourceProgress, StepProgress
from mamba_stream.runtime.saved import make_state, put_state, read_tasks
from mamba_stream.runtime.sources import groups_of
from mamba_stream.runtime.standing import OWNED, place_of_job, place_of_task, task_key
from mamba_stream.runtime.upgrade import check_resumable
from mamba_stream.runtime.workers.conversion import TaskState, cut_state
from mamba_stream.runtime.workers.layout import Layout, TaskName, layout_of_job, make_internal_topics


class Begun(msgspec.Struct, frozen=True, eq=False):
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


def begin(
    pipeline: Pipeline,
    log: Log,
    options: RunOptions,
    partitions: int,
    clock: Clock,
    schemas: Mapping[str, int] | None = None,
) -> Begun:
    """Checks everything that can be checked, and takes the job over.

    Args:
        pipeline: The pipeline.
        log: The log.
        options: How it is to be run.
        partitions: How many tasks a stage behind a shuffle has, where the job has none yet, or is upgraded.
        clock: The clock.
        schemas: By name the schemas of the topics that it was planned for, where it goes on within a run.

    Raises:
        PipelineRefused: The pipeline cannot be right, or not go on from the state there is.
    """
    prepared = Prepared(pipeline, log, schemas)
    for group in groups_of(pipeline.name, prepared.analysis.sources):
        check_name(group, "group")
    make_state(log, pipeline.name)
    checkpoints = Checkpoints(log, place_of_job(pipeline.name), clock)
    left = left_for(log, pipeline, options, checkpoints)
    before = None if left is None else left.saved.progress.layout
    if before is not None and not (options.upgrade and left is not None and left.drained):
        partitions = before.partitions
    if left is not None and schemas is None and not options.upgrade:

        def laid_out(plan: Prepared) -> bool:
            """Whether what is on its way between tasks, if anything is, can be read."""
            made = _progress(plan, layout_of_job(plan, partitions), partitions).layout
            return before is None or left.drained or made == before

        prepared = going_on(prepared, pipeline, log, left.saved.progress, laid_out)
    layout = layout_of_job(prepared, partitions)
    made = _progress(prepared, layout, partitions)
    cut: dict[TaskName, TaskState] = {}
    if left is not None:
        cut = _begun_with(left, log, pipeline, prepared, layout, made, options)
    owned = {key.partition("/")[2] for key in log.records(OWNED) if key.startswith(f"{pipeline.name}/")}
    shapes = {output: prepared.analysis.shapes[output] for output in pipeline.topics}
    topics = make_topics(log, pipeline.topics, shapes, replace=owned if options.anew else set())
    if pipeline.on_error == "dead_letter":
        topics += DeadLetters(pipeline.name, log, prepared.analysis, prepared.topics, clock).make()
    anew = left is None
    # What an earlier layout left is of no use to this one.
    make_internal_topics(log, pipeline.name, layout, prepared, replace=anew or bool(cut))
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
    )()
    assert checkpoints.record is not None
    return Begun(prepared, layout, checkpoints, checkpoints.record.epoch, partitions)


def _progress(prepared: Prepared, layout: Layout, partitions: int) -> Progress:
    """What a job of many tasks says of itself: what its state is of, and how it is laid out."""
    analysis = prepared.analysis
    return Progress(
        sources={
            prepared.names[node]: SourceProgress(
                {},
                0,
                {},
                prepared.contents[node],
                analysis.shapes[node].time or "",
                prepared.schema_of(node),
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
            [_form_of(exchange, prepared) for exchange in stage.exchanges],
        ]
        for stage in layout.stages
    ]
    return hashlib.blake2b(json.dumps(described).encode(), digest_size=16).hexdigest()


def _form_of(exchange: Exchange, prepared: Prepared) -> list[Any]:
    columns = exchange_schema(exchange, prepared.analysis).items()
    named = [[name, str(dtype)] for name, dtype in columns]
    return [exchange.number, exchange.key, exchange.partitions, exchange.partials is not None, named]


def _begun_with(
    left: Left,
    log: Log,
    pipeline: Pipeline,
    prepared: Prepared,
    layout: Layout,
    made: Progress,
    options: RunOptions,
) -> dict[TaskName, TaskState]:
    """What tasks are to begin with, where that is not what they have.

    Raises:
        PipelineRefused: What the job left does not fit, or cannot be known to.
    """
    before = left.saved.progress.layout
    upgrade = prepared.upgrade(left.saved.progress)
    same = upgrade.fits and before == made.layout
    if before is not None and not same and not left.drained and upgrade.possible:
        changes = upgrade.problems() or ["other columns, or other steps, go from one worker to another"]
        raise PipelineRefused(
            f"pipeline {pipeline.name!r} was changed since its job was interrupted ({'; '.join(changes)}), and rows "
            "are on their way between workers as it was then. Run the pipeline as it was until they have come through "
            "(until='now'), and then this one; or run this one with state='new' to start over, or under another name"
        )
    check_resumable(upgrade, options)
    if before is None:
        return cut_state(left.saved, prepared, layout, upgrade.kept)
    if same and left.tasks:
        # What was on its way between them then has come through: they read on from what is there now.
        return {
            name: TaskState(msgspec.structs.replace(saved.progress, entered={}), [*saved.state])
            for name in layout.tasks
            if (saved := left.tasks.get(task_key(name.stage, name.number))) is not None
        }
    if same:
        return {}
    tasks = left.tasks or read_tasks(log, pipeline.name)
    return cut_state(merged(tasks, prepared, upgrade.kept), prepared, layout, upgrade.kept)
