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
    _ended: float = 0.0
    _was_held: bool = False

    def turn(self, begun: float, ended: float, *, worked: bool, held: bool) -> None:
        """A turn is over.

        Args:
            begun: When it began.
            ended: When it ended.
            worked: Whether there was something to do.
            held: Whether there was something to read that it may not read yet.
        """
        # Until a task has its next turn, nothing changes for it.
        if self._was_held:
            self.held_back += begun - self._ended
        if worked:
            self.busy += ended - begun
        elif held:
            self.held_back += ended - begun
        self._ended, self._was_held = ended, held and not worked


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
