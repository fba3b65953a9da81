"""A window step in two halves: rows are reduced where they are read, and windows are closed where their keys meet.

The first half judges its rows by the watermark of their own partition, as the whole step would, and gives partial
results of the others: a row for each key and pane (and for each end up to which overlapping windows were over). It
remembers nothing beyond the moment when it is asked for them. The second half merges them, and its state is that of
the whole step, whose rows may come to it as well as to the other.

What partial results hold came in time for its own partition. If that had been silent, time may have gone on without it
where windows are closed: only there is it known which, and there such rows are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import LATE_REASON, NOTHING, Late, Made
from mamba_stream.operators.window import WindowStep
from mamba_stream.operators.window_late import WindowSettings


class FirstHalf(WindowStep):
    """Takes rows, and gives partial results when asked."""

    def take(self) -> pl.DataFrame | None:
        """The partial results of the rows that came since the last time; ``None`` where none came on time."""
        self._take_gathered()
        return self._partials.take()

    def advance(self, watermark: int) -> Iterator[Made]:
        """Closes nothing: the other half does."""
        yield from ()

    def delta(self) -> dict[str, pl.DataFrame]:
        """Nothing: what is here goes on with the same commit."""
        return {}

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """Nothing, as in ``delta``."""
        return {}

    def restored(self, closed: int) -> None:
        """There is nothing to forget."""


class SecondHalf(WindowStep):
    """Takes partial results, and gives whole windows."""

    def __init__(self, settings: WindowSettings, rows: str) -> None:
        """An empty state.

        Args:
            settings: The step's.
            rows: The partial result that counts rows.
        """
        super().__init__(settings)
        self._count = rows

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes partial results in; those of windows that were closed without them are late, as many as they hold."""
        if not frame.height:
            return NOTHING
        first, made = _first(frame), NOTHING
        if self._closed != NEVER and self._grid.last_end(first) <= self._closed:
            too_late = self._grid.last_end_of(pl.col(SLOT)) <= self._closed
            made = Made(late=_idle(int(frame.filter(too_late).get_column(self._count).sum())))
            frame = frame.filter(~too_late)
            if not frame.height:
                return made
            first = _first(frame)
        self._gather(frame, first)
        return made

    def _added(self, frame: pl.DataFrame) -> Made:
        # Merged they are with the others of their time, or not at all: most keys may be the only ones of their pane.
        self._partials.add(frame.sort(SLOT, maintain_order=True))
        return NOTHING


def _first(frame: pl.DataFrame) -> int:
    first: Any = frame.get_column(SLOT).min()
    return int(first)


def _idle(rows: int) -> Late:
    """So many rows that came too late after silence; which, nobody knows any more."""
    reasons = pl.Series(LATE_REASON, ["idle"], pl.String).new_from_index(0, rows)
    return Late(reasons.to_frame(), np.zeros(rows, np.int64))
