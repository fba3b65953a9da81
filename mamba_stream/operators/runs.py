"""A table of state that grows by frames: sorted runs, merged now and then, each split into old and new.

``settled`` runs are those that the last checkpoint holds, ``fresh`` ones came since; they are never merged with each
other, so a checkpoint writes what is fresh and nothing else. Every run is sorted by the slot (a window or a
pane), so that what a watermark closes is the head of each run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

SLOT: Final = "__mamba_slot"
"""Where a window or pane starts, in ticks."""

_MERGE_AT = 8
_SMALL = 4_096

Merge = Callable[[pl.DataFrame], pl.DataFrame]


class Runs:
    """Frames of one schema, each sorted by ``SLOT``."""

    def __init__(self, merge: Merge) -> None:
        """An empty table.

        Args:
            merge: Gives one sorted run for the concatenation of several; it may combine rows.
        """
        self._merge = merge
        self._settled: list[pl.DataFrame] = []
        self._fresh: list[pl.DataFrame] = []
        self._merged_rows = 0

    @property
    def rows(self) -> int:
        return sum(run.height for run in self._runs())

    @property
    def bytes(self) -> int:
        return sum(int(run.estimated_size()) for run in self._runs())

    @property
    def first_slot(self) -> int | None:
        """The earliest slot there is."""
        return min((run.item(0, SLOT) for run in self._runs()), default=None)

    @property
    def last_slot(self) -> int:
        """The latest slot there is; there has to be one."""
        return max(int(run.item(-1, SLOT)) for run in self._runs())

    def slot_at(self, rows: int, otherwise: int) -> int:
        """A slot that has at most so many rows before it; ``otherwise`` where all are no more."""
        slots = [run.get_column(SLOT).head(rows + 1).to_numpy() for run in self._runs()]
        if sum(map(len, slots)) <= rows:
            return otherwise
        return int(np.partition(np.concatenate(slots), rows)[rows])

    def add(self, run: pl.DataFrame) -> None:
        """Adds a sorted run."""
        if run.height == 0:
            return
        self._fresh.append(run)
        if len(self._fresh) >= _MERGE_AT:
            self._compact_fresh()

    def head(self, before: int) -> list[pl.DataFrame]:
        """The rows of slots before the bound; they stay."""
        return [head for run in self._runs() if (head := run.head(_split(run, before))).height]

    def drop(self, before: int) -> None:
        """Removes the rows of slots before the bound."""
        self._settled = _tails(self._settled, before)
        self._fresh = _tails(self._fresh, before)
        self._merged_rows = min(self._merged_rows, sum(run.height for run in self._fresh))

    def merged(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        """One run of several."""
        return frames[0] if len(frames) == 1 else self._merge(pl.concat(frames))

    def delta(self) -> pl.DataFrame | None:
        """What is fresh, as one run; it counts as settled from now on."""
        if not self._fresh:
            return None
        delta = self.merged(self._fresh)
        self._fresh, self._merged_rows = [], 0
        self._settle(delta)
        return delta

    def snapshot(self) -> pl.DataFrame | None:
        """Everything, as one run; it counts as settled from now on."""
        runs = [*self._runs()]
        if not runs:
            return None
        whole = self.merged(runs)
        self._settled, self._fresh, self._merged_rows = [whole], [], 0
        return whole

    def restore(self, run: pl.DataFrame) -> None:
        """Adds what a delta or a snapshot held."""
        if run.height:
            self._settle(run)

    def _settle(self, run: pl.DataFrame) -> None:
        """As in a log-structured merge tree, a run is merged with those before it that are no longer than it."""
        self._settled.append(run)
        while len(self._settled) > 1 and self._settled[-2].height <= max(
            2 * self._settled[-1].height, _SMALL
        ):
            last, before = self._settled.pop(), self._settled.pop()
            self._settled.append(self.merged([before, last]))

    def _compact_fresh(self) -> None:
        """Merges once what was not yet merged outgrows what was, so that a row is merged a few times only."""
        rows = sum(run.height for run in self._fresh)
        if rows >= 3 * self._merged_rows or len(self._fresh) >= 16 * _MERGE_AT:
            self._fresh = [self.merged(self._fresh)]
            self._merged_rows = self._fresh[0].height

    def _runs(self) -> Iterable[pl.DataFrame]:
        yield from self._settled
        yield from self._fresh


def between(run: pl.DataFrame, first: int, before: int) -> pl.DataFrame:
    """The rows of a run whose slots are neither before one nor at or behind the other."""
    low, high = _slots(run).searchsorted([first, before]).tolist()
    return run.slice(low, high - low)


def _split(run: pl.DataFrame, before: int) -> int:
    if run.item(0, SLOT) >= before:
        return 0
    return int(_slots(run).searchsorted(before))


def _slots(run: pl.DataFrame) -> npt.NDArray[np.int64]:
    """To be searched by numpy, which takes a hundredth of the time of a query."""
    return run.get_column(SLOT).to_numpy()


def _tails(runs: list[pl.DataFrame], before: int) -> list[pl.DataFrame]:
    kept = []
    for run in runs:
        cut = _split(run, before)
        if cut == 0:
            kept.append(run)
        elif cut < run.height:
            tail = run.slice(cut)
            # A short slice would keep the whole run in memory.
            kept.append(tail if 2 * tail.height > run.height else _copied(tail))
    return kept


def _copied(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.all().gather(pl.int_range(pl.len())))
