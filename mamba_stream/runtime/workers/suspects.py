"""Which tasks may be why their workers die, and what is known of that.

A task whose worker died twice since it last committed runs with care: it says what it does before it does it. Once a
worker dies over something that a task has said, the task goes to a worker of its own, where it harms no other, and what
it tries there can be found out. It is one of the others again as soon as it has come through.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mamba_stream.errors import JobFailed
from mamba_stream.runtime.care import Death
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import Take, Trying

STRIKES: Final = 2
"""Deaths of its worker, without a commit in between, after which a task runs with care."""
ROWS: Final = 1_024
"""Rows between two commits of a task that may be to blame, beside others that may."""
ROWS_ALONE: Final = 32
"""And of one by itself, over which a worker has died."""
MOST_DEATHS: Final = 200
"""So many workers may a task by itself cost before it commits."""


class Suspects:
    """What deaths of workers say about tasks."""

    def __init__(self) -> None:
        """Nobody has died."""
        self._strikes: dict[TaskName, int] = {}
        self._known: dict[TaskName, list[Death]] = {}

    def died(self, tasks: Iterable[TaskName], last: Trying | None, how: str) -> TaskName | None:
        """A worker is gone.

        Args:
            tasks: What it ran.
            last: What it said last that it was doing, if it said so.
            how: How it ended, in words.

        Returns:
            The task that it died of, as far as it has said; no other is suspected then.
        """
        if last is None or last.task is None or last.attempt is None:
            for task in tasks:
                self._strikes[task] = self._strikes.get(task, 0) + 1
            return None
        for task in tasks:
            self._strikes.pop(task, None)
        before = [
            one for one in self._known.get(last.task, ()) if one.attempt.commits == last.attempt.commits
        ]
        what = last.attempt.step, last.attempt.rows
        times = 1 + sum(one.times for one in before if (one.attempt.step, one.attempt.rows) == what)
        others = [one for one in before if (one.attempt.step, one.attempt.rows) != what]
        self._known[last.task] = [*others, Death(last.attempt, times, how.partition("; ")[0])]
        return last.task

    def any(self, tasks: Iterable[TaskName]) -> bool:
        """Whether one of these may be why its worker died: it is not the first that did."""
        return any(task in self._known or self._strikes.get(task, 0) >= STRIKES for task in tasks)

    def progressed(self, task: TaskName) -> None:
        """A task has committed."""
        self._strikes.pop(task, None)

    def clear(self, tasks: Iterable[TaskName]) -> None:
        """Tasks have come through, or were let go of after a commit."""
        for task in tasks:
            self._strikes.pop(task, None)
            self._known.pop(task, None)

    def takes(self, tasks: Iterable[TaskName], lease: int) -> list[Take]:
        """What a worker is told that gets some tasks."""
        ordered = sorted(tasks)
        alone = [task for task in ordered if task in self._known]
        others = [task for task in ordered if task not in self._known]
        careful = [task for task in others if self._strikes.get(task, 0) >= STRIKES]
        plain = [task for task in others if task not in careful]
        takes = [Take([task], lease, ROWS_ALONE, self._known[task]) for task in alone]
        takes += [Take(careful, lease, ROWS)] if careful else []
        return [*takes, Take(plain, lease)] if plain else takes

    def hopeless(self, task: TaskName, most: int) -> JobFailed | None:
        """Why the job cannot go on with a task, if so.

        Args:
            task: A task by itself whose worker has just died.
            most: How many workers may die of one thing that no row is to blame for.
        """
        known = self._known[task]
        last, total = known[-1], sum(one.times for one in known)
        if (last.attempt.step or last.times <= most) and total <= MOST_DEATHS:
            return None
        doing = last.attempt.step and f" in {last.attempt.step}"
        where = last.attempt.reading and f", on {last.attempt.reading}"
        return JobFailed(
            f"the worker that runs task {task} alone {last.how}{doing}{where}: {total} of them have died since the "
            "task last committed, and no rows were found that all of it is due to. What it committed stays; run the "
            "job with workers=1 to see what happens in this process"
        )
