"""What a task has done, and how it spent its time."""

from __future__ import annotations

from dataclasses import dataclass

from mamba_stream.runtime.task import Task
from mamba_stream.runtime.watermarks import mark_of
from mamba_stream.runtime.workers.messages import EntranceFacts, SourceFacts, TaskFacts


@dataclass(slots=True)
class Spent:
    """How a task spent its time in this run, in seconds; what is in neither it was idle.

    Attributes:
        since: When it began.
        busy: Working on rows, on what fell due, or on a commit.
        held_back: With rows that it might have read, and did not, since it waits for others; or waiting for a commit.
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
        self._until(begun)
        if worked:
            self.busy += ended - begun
        elif held:
            self.held_back += ended - begun
        self._ended, self._was_held = ended, held and not worked

    def committed(self, begun: float, free: float, ended: float) -> None:
        """What was done was taken, to be committed.

        Args:
            begun: When that began.
            free: When the commit before had come through.
            ended: When it was taken.
        """
        self._until(begun)
        self.held_back += free - begun
        self.busy += ended - free
        self._ended = ended

    def _until(self, now: float) -> None:
        if self._was_held:
            self.held_back += now - self._ended


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
        entered={
            exchange.number: EntranceFacts(
                entrance.feed.mark.watermark, entrance.feed.mark.idle, entrance.feed.position, entrance.rows
            )
            for exchange, entrance in task.engine.entrances.items()
        },
    )
