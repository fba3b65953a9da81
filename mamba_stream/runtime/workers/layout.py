"""How a job is laid out over tasks: its stages, and the internal topics that they meet in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from mamba_stream.errors import AlreadyExists, PipelineRefused, SchemaMismatch
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.lying import Laid, laid_in
from mamba_stream.plan.stages import Exchange, Stage, stages
from mamba_stream.plan.staging import PARTITIONS
from mamba_stream.runtime.exchanges import exchange_topic, make_exchange
from mamba_stream.runtime.held import held_states
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.saved import make_state_topic
from mamba_stream.runtime.standing import place_of_task


class TaskName(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A task: a stage's number, and which of its tasks it is."""

    stage: int
    number: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.number}"


class Layout(msgspec.Struct, frozen=True, eq=False):
    """A job over tasks.

    Attributes:
        stages: Its stages, those that others read from first.
    """

    stages: Sequence[Stage]

    @property
    def exchanges(self) -> list[Exchange]:
        """All exchanges."""
        return [exchange for stage in self.stages for exchange in stage.exchanges]

    @property
    def tasks(self) -> list[TaskName]:
        """All tasks."""
        return [TaskName(stage.number, task) for stage in self.stages for task in range(stage.tasks)]


def layout_of_job(prepared: Prepared, partitions: int) -> Layout:
    """Cuts a pipeline into stages.

    Args:
        prepared: The pipeline over its log.
        partitions: How many tasks a stage behind a shuffle has.
    """
    lie: dict[n.Node, Laid] = {
        source: laid_in(prepared.topics[source.topic])
        for source in prepared.analysis.sources
        if isinstance(source, n.TopicSource)
    }
    return Layout(stages(prepared.analysis, partitions, lie))


def make_internal_topics(
    log: Log, job: str, layout: Layout, prepared: Prepared, *, replace: bool = False
) -> None:
    """Makes the topics of exchanges and of the state of tasks.

    Args:
        log: The log.
        job: The job's name.
        layout: Its tasks.
        prepared: The pipeline over the log.
        replace: Make those anew that are there with other columns or partitions, of a layout that is not used any more.
    """
    for exchange in layout.exchanges:
        name = exchange_topic(job, exchange)
        _make(log, name, partial(make_exchange, log, job, exchange, prepared.analysis), replace=replace)
    # As many for each: what savepoints hold of an earlier layout is in the same topics, whatever its stages were.
    most = max(PARTITIONS, *(stage.tasks for stage in layout.stages))
    for stage in layout.stages:
        name = place_of_task(job, stage.number, 0).topic
        if name in log and log[name].partitions >= stage.tasks:
            continue
        if name in log and held_states(log, job):
            raise PipelineRefused(
                f"job {job!r}: stage {stage.number} has {stage.tasks} tasks now, and savepoints hold what it had when "
                f"they were {log[name].partitions}: delete them (mamba-stream job savepoints {job} --delete NAME), or "
                "give the pipeline another name"
            )
        _make(log, name, partial(make_state_topic, log, name, most), replace=replace)


def _make(log: Log, name: str, make: Callable[[], object], *, replace: bool) -> None:
    try:
        make()
    except (AlreadyExists, SchemaMismatch):
        if not replace:
            raise
        log.delete_topic(name)
        make()
