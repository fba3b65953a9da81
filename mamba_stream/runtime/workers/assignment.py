"""Which worker has which tasks: as many as the others, of every stage some, and no more is moved than has to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set as AbstractSet

from mamba_stream.runtime.workers.layout import TaskName


def spread(tasks: Sequence[TaskName], workers: int) -> dict[int, list[TaskName]]:
    """Tasks by worker: those of a stage go round, so that all workers have some of each.

    Example:
        >>> spread([TaskName(0, 0), TaskName(0, 1), TaskName(1, 0)], 2)
        {0: [TaskName(stage=0, number=0), TaskName(stage=1, number=0)], 1: [TaskName(stage=0, number=1)]}
    """
    found: dict[int, list[TaskName]] = {number: [] for number in range(workers)}
    for place, task in enumerate(sorted(tasks)):
        found[place % workers].append(task)
    return found


def moves(there: Mapping[int, AbstractSet[TaskName]], workers: int) -> dict[int, set[TaskName]]:
    """The tasks that workers have to give up, so that the first ``workers`` of them can have equally many.

    Args:
        there: The tasks of each.
        workers: How many are to have tasks.
    """
    total = sum(len(tasks) for tasks in there.values())
    fewest, more = divmod(total, workers)
    given_up = {}
    # Those that have most keep the one more that some have.
    ranked = sorted(there, key=lambda number: (number >= workers, -len(there[number]), number))
    for rank, number in enumerate(ranked):
        keeps = 0 if number >= workers else fewest + (rank < more)
        surplus = len(there[number]) - keeps
        if surplus > 0:
            given_up[number] = set(_last_of_each(there[number])[:surplus])
    return given_up


def _last_of_each(tasks: AbstractSet[TaskName]) -> list[TaskName]:
    """Tasks in the order in which they are given up: of every stage some."""
    seen: dict[int, int] = {}
    ranked = []
    for task in sorted(tasks, reverse=True):
        seen[task.stage] = seen.get(task.stage, 0) + 1
        ranked.append((seen[task.stage], task))
    return [task for _, task in sorted(ranked)]
