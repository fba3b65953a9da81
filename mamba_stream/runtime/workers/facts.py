"""What a task has done, and how it spent its time."""

from __future__ import annotations

from dataclasses import dataclass

from mamba_stream.runtime.task import Task
from mamba_stream.runtime.watermarks import mark_of
from mamba_stream.runtime.workers.messages import SourceFacts, TaskFacts


@dataclass(slots=True)
class Spent:
    """How a task spent its time in this run, in seconds; what is in neither it was idle.

    Attributes:
        since: When it began.
        busy: Working on rows, or on what fell due.
        held_back: With rows that it might have read, and did not, since it waits for others.
    """

    since: float
    busy: float = 0.0
    held_back: float = 0.0

    def add(self, seconds: float, rows: int, *, held_back: bool) -> None:
        """A turn took so long, and read so many rows."""
        if rows == 0 and held_back:
            self.held_back += seconds
        else:
            self.busy += seconds


def facts_of(task: Task, spent: Spent, now: float) -> TaskFacts:
    """What a task has done, and how it spent its time.

    Args:
        task: The task.
        spent: How it spent its time.
        now: The time, by the clock that ``spent`` goes by.
    """
    waiting = task.engine.waiting
    sources = {}
    for intake in task.engine.intakes.values():
        name, mark = intake.settings.name, mark_of(intake.times.values())
        positions = {feed.partition: feed.position for feed in intake.feeds}
        sources[name] = SourceFacts(mark.watermark, mark.idle, positions, waiting.get(name, ()))
    return TaskFacts(
        counts=task.counts,
        begun=task.at_begin,
        commits=task.commits,
        sources=sources,
        state_bytes={node.name: step.bytes for node, step in task.engine.flow.steps.items()},
        lateness=task.lateness,
        busy=spent.busy,
        held_back=spent.held_back,
        seconds=now - spent.since,
    )
