"""How many workers a job is to have, by how busy those that it has are and how much they leave unread.

Nothing here looks at a clock or a job: what was seen goes in, what is wanted comes out. More workers are wanted where
those that there are have worked nearly all the time, and what waits will not be read soon; fewer, where what they did
could have been done by one less without it being busy. What would bring a worker would not take it away again: between
the two lies a wide band, and each is only wanted once it was so for long enough since the last change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import TaskFacts

LOOK: Final = 1.0
"""Seconds between two looks at a job."""
BUSY: Final = 0.8
"""The share of their time that workers work, from which on more may be wanted."""
EASY: Final = 0.5
"""The share that workers would work, up to which one less is enough."""
SOON: Final = 30.0
"""Seconds within which what waits is read anyhow: no worker is started for that."""
MORE_AFTER: Final = 10.0
"""Seconds of which it has to be so until there are more."""
FEWER_AFTER: Final = 60.0
"""Seconds of which it has to be so until there are fewer: a worker is started in less time than it is missed."""


class Seen(msgspec.Struct, frozen=True):
    """A job at one moment.

    Attributes:
        at: When that was, in seconds by any clock.
        workers: How many workers had its tasks.
        busy: The seconds that they have worked, all together, since some moment.
        rows: The rows that they have read since then.
        waiting: The rows that there were to be read.
    """

    at: float
    workers: int
    busy: float
    rows: int
    waiting: int


def wanted(seen: Sequence[Seen], least: int, most: int) -> int:
    """How many workers a job is to have.

    Args:
        seen: The job since the number of its workers last changed, the latest last.
        least: The fewest that it may have.
        most: The most.

    Example:
        >>> behind = [Seen(at, 1, at, 100 * at, 10_000 + 100 * at) for at in range(11)]
        >>> wanted(behind[:5], 1, 4), wanted(behind, 1, 4), wanted(behind, 1, 1)
        (1, 2, 1)
    """
    workers = seen[-1].workers
    if not least <= workers <= most:
        return min(max(workers, least), most)
    if workers < most and _are_behind(_last(seen, MORE_AFTER)):
        # Half as many more: with a worker at a time a large job would be behind for long.
        return min(most, workers + max(1, workers // 2))
    if workers > least and _are_too_many(_last(seen, FEWER_AFTER)):
        return workers - 1
    return workers


class Scaling:
    """Looks at a job now and then, and says when it is to have another number of workers."""

    def __init__(self, least: int, most: int) -> None:
        """Nothing was seen.

        Args:
            least: The fewest workers that it may have.
            most: The most.
        """
        self._least = least
        self._most = most
        self._seen: list[Seen] = []
        self._due = -math.inf

    def due(self, now: float) -> bool:
        """Whether it is time to look again."""
        return now >= self._due

    def look(
        self, now: float, workers: int, facts: Mapping[TaskName, TaskFacts], waiting: int, *, settled: bool
    ) -> int | None:
        """Looks at a job; how many workers it is to have from now on, if that is another number.

        Args:
            now: When that is, in seconds.
            workers: How many workers it has, or is about to have.
            facts: What its tasks have done.
            waiting: How many rows there are to be read.
            settled: Whether the workers are all there, and have their tasks.
        """
        self._due = now + LOOK
        busy, rows = (
            sum(one.busy for one in facts.values()),
            sum(one.counts.rows_in for one in facts.values()),
        )
        seen = Seen(now, workers, busy, rows, waiting)
        last = self._seen[-1] if self._seen else seen
        # What tasks say of their time begins anew with each worker that takes them.
        if not settled or seen.workers != last.workers or seen.busy < last.busy:
            self._seen = []
        if not settled:
            return None
        while len(self._seen) > 1 and self._seen[1].at <= now - FEWER_AFTER:
            del self._seen[0]
        self._seen.append(seen)
        found = wanted(self._seen, self._least, self._most)
        return None if found == workers else found


def _last(seen: Sequence[Seen], seconds: float) -> Sequence[Seen]:
    """What was seen in the last seconds, from a moment on that lies before; nothing, if there is none yet."""
    since = seen[-1].at - seconds
    for number in range(len(seen) - 1, -1, -1):
        if seen[number].at <= since:
            return seen[number:]
    return ()


def _are_behind(seen: Sequence[Seen]) -> bool:
    if not seen or _share(seen) < BUSY:
        return False
    first, last = seen[0], seen[-1]
    less = (first.waiting - last.waiting) / (last.at - first.at)
    within = math.inf if less <= 0 else last.waiting / less
    # Where a second's rows are left, there are always some that have just come.
    return within > SOON and last.waiting > _rate(seen)


def _are_too_many(seen: Sequence[Seen]) -> bool:
    if not seen:
        return False
    workers = seen[-1].workers
    return _share(seen) * workers <= EASY * (workers - 1) and seen[-1].waiting <= _rate(seen)


def _share(seen: Sequence[Seen]) -> float:
    """The share of its time that a worker has worked."""
    first, last = seen[0], seen[-1]
    return (last.busy - first.busy) / ((last.at - first.at) * last.workers)


def _rate(seen: Sequence[Seen]) -> float:
    """Rows in a second."""
    first, last = seen[0], seen[-1]
    return (last.rows - first.rows) / (last.at - first.at)
