"""A task of a worker that may be why workers die: it reads few rows, commits them, and says what it does before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from mamba_stream.runtime.care import Attempt, Care, Death
from mamba_stream.runtime.checkpoint import Checkpoints
from mamba_stream.runtime.task import Task
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import Report, Trying

_MOST: Final = 1_024
"""Rows between two commits at most: twice as many each time that it went well."""
_SUSPECT: Final = 2 * _MOST
"""Rows among which are those over which another process has died, which had read so many at most since its commit."""
_ENOUGH: Final = 65_536
"""Rows behind which it is one task among others again; if it was too early, two more workers die."""


class Careful:
    """How a task is run that may end the process."""

    def __init__(
        self,
        task: TaskName,
        rows: int,
        known: Sequence[Death],
        checkpoints: Checkpoints,
        say: Callable[[Report], None],
    ) -> None:
        """Nothing was tried yet.

        Args:
            task: The task.
            rows: How many rows it reads before it commits, at first.
            known: What ended processes before.
            checkpoints: Its commits.
            say: Tells the pool something, and returns when it will hear that whatever becomes of this process.
        """
        self._task = task
        self._rows = rows
        self._checkpoints = checkpoints
        self._say = say
        self._read = 0
        self.care: Final = Care(known, self._commits, self._note)

    def step(self, task: Task) -> int:
        """Reads a few rows, works on them and commits; the number of rows."""
        self.care.begin()
        rows = task.step(self._rows)
        if rows:
            task.commit("running")
            self._read += rows
            self.care.committed(self._commits, lasts=self._read < _SUSPECT)
            self._rows = min(2 * self._rows, max(_MOST, self._rows))
        self._say(Trying(None))
        return rows

    def is_through(self, rows: int) -> bool:
        """Whether it has done all there was to do, or so much that it is not suspect any more.

        Args:
            rows: How many rows the last step read.
        """
        return rows == 0 or self._read >= _ENOUGH

    @property
    def _commits(self) -> int:
        record = self._checkpoints.record
        return 0 if record is None else record.commits

    def _note(self, attempt: Attempt) -> None:
        self._say(Trying(self._task, attempt))
