"""What a job left for its next run: at its last commit, or at a savepoint; by one task, or by many."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import NotFound, PipelineRefused
from mamba_stream.log import Log
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.held import savepoints
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.progress import JobRecord
from mamba_stream.runtime.saved import Saved, read_state, read_tasks


def is_drained(record: JobRecord) -> bool:
    """Whether a job's run came to its end, so that nothing is on its way between its tasks."""
    return record.status != "running"


class Left(msgspec.Struct, frozen=True):
    """What a job left, at its last commit or at a savepoint.

    Attributes:
        saved: The job's own; of a job over tasks, that says how it is laid out.
        drained: Whether nothing was on its way between tasks.
        tasks: Of a savepoint, that of each of its tasks, by their keys.
    """

    saved: Saved
    drained: bool
    tasks: Mapping[str, Saved] = msgspec.field(default_factory=dict)


def left_at(log: Log, pipeline: Pipeline, name: str) -> Left:
    """What a savepoint holds.

    Raises:
        NotFound: The job has none of this name.
        PipelineRefused: The pipeline has sinks, which cannot go back.
    """
    job, there = pipeline.name, savepoints(log, pipeline.name)
    if name not in there:
        raise NotFound(
            f"job {job!r} has no savepoint {name!r}{did_you_mean(name, there)}; there are "
            f"{', '.join(there) or 'none'} (state= is 'resume', 'new', 'upgrade' or a savepoint's name)"
        )
    for output in pipeline.sinks:
        raise PipelineRefused(
            f"job {job!r} cannot go back to savepoint {name!r}: sink {output.sink.name!r} (to at {output.place}) has "
            "what came after it, and would get it again: give the pipeline another name"
        )
    saved = read_state(log, job, there[name].base, there[name].end)
    return Left(saved, True, read_tasks(log, job, name))


def left_for(log: Log, pipeline: Pipeline, options: RunOptions, checkpoints: Checkpoints) -> Left | None:
    """What a run begins with; ``None`` where it begins with nothing.

    Args:
        log: The log.
        pipeline: The pipeline.
        options: How it is to be run.
        checkpoints: The job's own.

    Raises:
        NotFound: There is no such savepoint.
        PipelineRefused: The pipeline has sinks, which cannot go back to one.
    """
    if options.anew:
        return None
    if options.savepoint is not None:
        return left_at(log, pipeline, options.savepoint)
    saved = checkpoints.load()
    if saved is None:
        return None
    assert checkpoints.record is not None
    return Left(saved, is_drained(checkpoints.record))
