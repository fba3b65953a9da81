"""What falls due when: places with times, given out in the order of time.

Sorted runs, merged geometrically: adding costs a sort of what is added, taking out touches only what is due.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Ticks = NDArray[np.int64]

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

    def add(self, times: Ticks, places: NDArray[np.int64]) -> None:
        """Adds entries."""
        if not len(times):
            return
        self._runs.append(_sorted(times, places.astype(np.int32)))
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= max(2 * len(self._runs[-1][0]), _SMALL):
            last, earlier = self._runs.pop(), self._runs.pop()
            self._runs.append(
                _sorted(np.concatenate([earlier[0], last[0]]), np.concatenate([earlier[1], last[1]]))
            )

    def take(self, before: int) -> tuple[Ticks, NDArray[np.int64]]:
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


def _sorted(times: Ticks, places: NDArray[np.int32]) -> tuple[Ticks, NDArray[np.int32]]:
    if len(times) < 2 or bool((times[1:] >= times[:-1]).all()):
        return times, places
    order = np.argsort(times, kind="stable")
    return times[order], places[order]
