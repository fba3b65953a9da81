"""What falls due when: places with times, given out in the order of time.

Sorted runs, merged geometrically: adding costs a sort of what is added, taking out touches only what is due.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mamba_stream.operators.lateness import FOREVER, Ticks
from mamba_stream.operators.places import ascending
from mamba_stream.operators.rowstore import Places, room_for

_SMALL: Final = 1_024


class DueQueue:
    """Entries of a time and a place.

    Example:
        >>> queue = DueQueue()
        >>> queue.add(np.array([30, 10]), np.array([1, 2]))
        >>> [values.tolist() for values in queue.take(before=20)]
        [[10], [2]]
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Ticks, NDArray[np.int32]]] = []

    @property
    def bytes(self) -> int:
        return sum(times.nbytes + places.nbytes for times, places in self._runs)

    @property
    def soonest(self) -> int | None:
        """The earliest time of an entry."""
        return min((int(times[0]) for times, _ in self._runs), default=None)

    def add(self, times: Ticks, places: Places) -> None:
        """Adds entries."""
        if not len(times):
            return
        self._runs.append(_sorted(times, places.astype(np.int32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= max(2 * len(self._runs[-1][0]), _SMALL):
            last, earlier = self._runs.pop(), self._runs.pop()
            self._runs.append(
                _sorted(np.concatenate([earlier[0], last[0]]), np.concatenate([earlier[1], last[1]]))
            )

    def take(self, before: int) -> tuple[Ticks, Places]:
        """Takes out the entries with times before the bound."""
        heads, kept = [], []
        for times, places in self._runs:
            cut = int(np.searchsorted(times, before))
            if cut:
                heads.append((times[:cut], places[:cut]))
            if cut < len(times):
                rest = times[cut:], places[cut:]
                # A short slice would keep the whole run in memory.
                kept.append(rest if 2 * cut < len(times) else (rest[0].copy(), rest[1].copy()))
        self._runs = kept
        if not heads:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        times, places = (np.concatenate(parts) for parts in zip(*heads, strict=True))
        return times, places.astype(np.int64)


class DueTimes:
    """The time of each place, and which fall due.

    A row that is written again and again keeps the entry in the queue that it has: when that falls due, the row goes
    back into the queue with the time it has by then. So a busy key costs one entry per time to live, not one per
    batch.
    """

    def __init__(self) -> None:
        self._queue = DueQueue()
        self._time: Ticks = np.empty(0, np.int64)
        self._queued: Ticks = np.empty(0, np.int64)

    @property
    def bytes(self) -> int:
        return self._queue.bytes + self._time.nbytes + self._queued.nbytes

    @property
    def soonest(self) -> int | None:
        """No place has a time before this."""
        return self._queue.soonest

    def of(self, places: Places) -> Ticks:
        """The times of places that have one."""
        return self._time[places]

    @property
    def all(self) -> Ticks:
        """The time of every place; of those that have none, anything."""
        return self._time

    def put(self, places: Places, times: Ticks) -> None:
        """Sets the times of distinct places."""
        if not len(places):
            return
        top = int(places.max()) + 1
        self._time = room_for(self._time, top)
        self._queued = room_for(self._queued, top, fill=FOREVER)
        self._time[places] = times
        self._enqueue(places, times)

    def forget(self, places: Places) -> None:
        """These places do not fall due any more."""
        self._queued[places] = FOREVER

    def due(self, before: int) -> Places:
        """The places whose time lies before the bound, each once; they leave the queue."""
        queued, places = self._queue.take(before)
        # The others' rows were removed, or have an earlier entry.
        places = ascending(places[self._queued[places] == queued])
        self._queued[places] = FOREVER
        late = self._time[places] < before
        self._enqueue(places[~late], self._time[places[~late]])
        return places[late]

    def _enqueue(self, places: Places, times: Ticks) -> None:
        sooner = times < self._queued[places]
        self._queued[places[sooner]] = times[sooner]
        self._queue.add(times[sooner], places[sooner])


def _sorted(times: Ticks, places: NDArray[np.int32]) -> tuple[Ticks, NDArray[np.int32]]:
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return times, places
    order = np.argsort(times, kind="stable")
    return times[order], places[order]
