"""What a task has done, and how it spent its time."""

from __future__ import annotations

from dataclasses import dataclass

from mamba_stream.runtime.task import Task
from mamba_stream.runtime.workers.messages import TaskFacts


@dataclass(slots=True)
class Spent:
    """How a task spent its time in this run, in seconds; what is in neither it was idle.

    Attributes:
        busy: Working on rows, or on what fell due.
        held_back: With rows that it might have read, and did not, since it waits for others.
    """

    busy: float = 0.0
    held_back: float = 0.0

    def add(self, seconds: float, rows: int, *, held_back: bool) -> None:
        """A turn took so long, and read so many rows."""
        if rows == 0 and held_back:
            self.held_back += seconds
        else:
            self.busy += seconds


def facts_of(task: Task, spent: Spent) -> TaskFacts:
    """What a task has done."""
    return TaskFacts(
        rows_in=task.rows_in,
        rows_out=task.rows_out,
        late=task.late,
        rejected=task.rejected,
        failed=task.faults.rows,
        commits=task.commits,
        state_bytes={node.name: step.bytes for node, step in task.engine.flow.steps.items()},
        busy=spent.busy,
        held_back=spent.held_back,
    )
