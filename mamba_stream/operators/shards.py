"""Sorted runs of many keys, spread over shards by the hash of their keys, so that they are merged a shard at a time.

Merging the runs of a million keys takes so long that everything else would wait for it. A shard is merged when it is
its turn, and as often as the rows that come pay for: every row that comes pays for the merging of a few others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

SLOT: Final = "__mamba_slot"
"""Where a window or pane starts, in ticks."""

_SHARDS: Final = 64
_PAYS_FOR: Final = 3
"""Rows that are merged for each that comes: while that merges all shards once, half as many come as there are keys."""

Merge = Callable[[pl.DataFrame], pl.DataFrame]


class Shards:
    """Runs of one schema, each sorted by ``SLOT``."""

    def __init__(self, merge: Merge, keys: Sequence[str]) -> None:
        """No runs yet.

        Args:
            merge: Gives one sorted run for the concatenation of several, combining rows of equal keys.
            keys: The columns whose equal values it combines.
        """
        self._merge = merge
        self._keys = keys
        self._shards: list[list[pl.DataFrame]] = [[] for _ in range(_SHARDS)]
        self._waiting: deque[pl.DataFrame] = deque()
        self._turn = 0
        self._paid = 0
        self._first_slot: int | None = None

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """The runs, those first that will be merged next: what is written first need not be kept for that any more."""
        for place in range(_SHARDS):
            yield from self._shards[(self._turn + place) % _SHARDS]
        yield from self._waiting

    @property
    def first_slot(self) -> int | None:
        """The earliest slot there is."""
        return self._first_slot

    def add(self, run: pl.DataFrame) -> None:
        """Adds a sorted run, which is spread over the shards when further rows come."""
        self._waiting.append(run)
        slots = (self._first_slot, int(run.item(0, SLOT)))
        self._first_slot = min(slot for slot in slots if slot is not None)

    def _spread(self, run: pl.DataFrame) -> None:
        # Rows whose keys cannot be hashed are spread less evenly, and are merged all the same.
        keys = run.select(name for name in self._keys if not run.schema[name].is_nested())
        shards = (keys.hash_rows().to_numpy() % _SHARDS).astype(np.uint8)
        spread = run[np.argsort(shards, kind="stable")]
        first = 0
        for shard, rows in zip(self._shards, np.bincount(shards, minlength=_SHARDS), strict=True):
            if rows:
                shard.append(spread.slice(first, rows))
                first += rows

    def tidy(self, rows: int) -> None:
        """Spreads what waits, and merges as many shards as so many rows that came pay for."""
        if self._waiting:
            self._spread(self._waiting.popleft())
        self._paid += _PAYS_FOR * rows
        for _ in range(_SHARDS):
            shard = self._shards[self._turn]
            if len(shard) > 1:
                cost = sum(run.height for run in shard)
                if cost > self._paid:
                    return
                self._paid -= cost
                self._shards[self._turn] = [self._merge(pl.concat(shard))]
            self._turn = (self._turn + 1) % _SHARDS
        self._paid = 0

    def drop(self, before: int) -> None:
        """Removes the rows of slots before the bound."""
        if self._first_slot is not None and self._first_slot < before:
            self._shards = [tails(shard, before) for shard in self._shards]
            self._waiting = deque(tails(self._waiting, before))
            self._first_slot = min((run.item(0, SLOT) for run in self), default=None)


def split(run: pl.DataFrame, before: int) -> int:
    """How many rows of a run are of slots before the bound."""
    if run.item(0, SLOT) >= before:
        return 0
    return int(slots_of(run).searchsorted(before))


def slots_of(run: pl.DataFrame) -> npt.NDArray[np.int64]:
    """To be searched by numpy, which takes a hundredth of the time of a query."""
    return run.get_column(SLOT).to_numpy()


def tails(runs: Iterable[pl.DataFrame], before: int) -> list[pl.DataFrame]:
    """What is left of runs without the rows of slots before the bound."""
    kept = []
    for run in runs:
        cut = split(run, before)
        if cut == 0:
            kept.append(run)
        elif cut < run.height:
            tail = run.slice(cut)
            # A short slice would keep the whole run in memory.
            kept.append(tail if 2 * tail.height > run.height else _copied(tail))
    return kept


def _copied(frame: pl.DataFrame) -> pl.DataFrame:
    return frame[np.arange(frame.height)]
