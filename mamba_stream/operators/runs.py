"""A table of state that grows by frames: sorted runs, merged now and then, each split into old and new.

``settled`` runs are those that the last checkpoint holds, ``fresh`` ones came since; they are never merged with each
other, so a checkpoint writes what is fresh and nothing else. Every run is sorted by the slot (a window or a
pane), so that what a watermark closes is the head of each run.

Nothing large is merged at once: settled runs are merged up to some size, and are then left as they are, or spread over
shards (:mod:`mamba_stream.operators.shards`) where merging combines rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from mamba_stream.operators.shards import SLOT, Merge, Shards, slots_of, split, tails

__all__ = ["SLOT", "Runs", "between"]

_MERGE_AT = 8
_SMALL = 4_096
_LARGE = 131_072
"""Merging more rows than this at once would be a pause that is felt."""


class Runs:
    """Frames of one schema, each sorted by ``SLOT``."""

    def __init__(self, merge: Merge, keys: Sequence[str] = ()) -> None:
        """An empty table.

        Args:
            merge: Gives one sorted run for the concatenation of several; it may combine rows.
            keys: The columns of rows that it combines; without any it keeps all rows, and the order of those of a slot.
        """
        self._merge = merge
        self._shards = Shards(merge, keys) if keys else None
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
        slots = [run.item(0, SLOT) for run in (*self._settled, *self._fresh)]
        if self._shards is not None and self._shards.first_slot is not None:
            slots.append(self._shards.first_slot)
        return min(slots, default=None)

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
        if self._shards is not None:
            self._shards.tidy(run.height)
        if len(self._fresh) >= _MERGE_AT:
            self._compact_fresh()

    def head(self, before: int) -> list[pl.DataFrame]:
        """The rows of slots before the bound; they stay."""
        return [head for run in self._runs() if (head := run.head(split(run, before))).height]

    def drop(self, before: int) -> None:
        """Removes the rows of slots before the bound."""
        if self._shards is not None:
            self._shards.drop(before)
        self._settled = tails(self._settled, before)
        self._fresh = tails(self._fresh, before)
        self._merged_rows = min(self._merged_rows, sum(run.height for run in self._fresh))

    def merged(self, frames: list[pl.DataFrame]) -> pl.DataFrame:
        """One run of several."""
        return frames[0] if len(frames) == 1 else self._merge(pl.concat(frames))

    def take(self) -> pl.DataFrame | None:
        """What is fresh; it is here no longer."""
        fresh = self._taken()
        return pl.concat(fresh) if fresh else None

    def delta(self) -> pl.DataFrame | None:
        """What is fresh; it counts as settled from now on."""
        fresh = self._taken()
        for run in fresh:
            self._settle(run)
        return pl.concat(fresh) if fresh else None

    def _taken(self) -> list[pl.DataFrame]:
        """The fresh runs, as one where that is not too much at once."""
        fresh, self._fresh, self._merged_rows = self._fresh, [], 0
        if len(fresh) > 1 and sum(run.height for run in fresh) <= _LARGE:
            fresh = [self.merged(fresh)]
        return fresh

    def snapshot(self) -> pl.DataFrame | None:
        """Everything; it counts as settled from now on."""
        self.delta()
        runs = [*self._runs()]
        return pl.concat(runs) if runs else None

    def restore(self, frame: pl.DataFrame) -> None:
        """Adds what a delta or a snapshot held, or some of its rows."""
        if frame.height:
            run = frame.rechunk()
            sorted_ = run.get_column(SLOT).is_sorted()
            self._settle(run if sorted_ else run.sort(SLOT, maintain_order=True))

    def _settle(self, run: pl.DataFrame) -> None:
        """As in a log-structured merge tree, a run is merged with those before it that are no longer than it."""
        self._settled.append(run)
        while len(self._settled) > 1:
            before, last = (run.height for run in self._settled[-2:])
            if before > max(2 * last, _SMALL) or before + last > _LARGE:
                break
            self._settled[-2:] = [self.merged(self._settled[-2:])]
        if self._shards is not None and self._settled[-1].height > _LARGE // 4:
            self._shards.add(self._settled.pop())

    def _compact_fresh(self) -> None:
        """Merges once what was not yet merged outgrows what was, so that a row is merged a few times only."""
        rows = sum(run.height for run in self._fresh)
        if rows >= 3 * self._merged_rows or len(self._fresh) >= 16 * _MERGE_AT:
            self._fresh = [self.merged(self._fresh)]
            self._merged_rows = self._fresh[0].height

    def _runs(self) -> Iterable[pl.DataFrame]:
        if self._shards is not None:
            yield from self._shards
        yield from self._settled
        yield from self._fresh


def between(run: pl.DataFrame, first: int, before: int) -> pl.DataFrame:
    """The rows of a run whose slots are neither before one nor at or behind the other."""
    low, high = slots_of(run).searchsorted([first, before]).tolist()
    return run.slice(low, high - low)
