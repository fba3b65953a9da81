"""Rows that have gone on and are still looked back at: those of the last so many ticks."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mamba_stream.operators.columns import TIME
from mamba_stream.operators.lateness import FOREVER
from mamba_stream.operators.runs import SLOT, Runs


class History:
    """Rows in the order of the stream, forgotten from their earliest on."""

    def __init__(self) -> None:
        self._runs = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._runs.rows

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._runs.bytes

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows in, sorted, none before those that are here."""
        self._runs.add(rows.rename({TIME: SLOT}))

    def drop(self, before: int) -> None:
        """Forgets the rows before a tick."""
        self._runs.drop(before)

    def behind(self, rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
        """The rows of the same keys that are here, and behind them these rows.

        Args:
            rows: Sorted rows, none before those that are here; a column that only they have is null in the others.
            by: The key's columns; without any, all rows are of one key.
        """
        heads = self._runs.head(FOREVER)
        if not heads:
            return rows
        # Merged runs keep the order of rows of one time: what came first stands first.
        past = pl.concat(heads).sort(SLOT, maintain_order=True).rename({SLOT: TIME})
        if by:
            past = past.join(rows.select(by).unique(), on=list(by), how="semi", nulls_equal=True)
        return pl.concat([past, rows], how="diagonal").select(rows.columns)

    def delta(self) -> pl.DataFrame | None:
        """What came since the last delta or snapshot and is still looked at."""
        return self._runs.delta()

    def snapshot(self) -> pl.DataFrame | None:
        """All that is looked at."""
        return self._runs.snapshot()

    def restore(self, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        self._runs.restore(frame)

    def frame(self) -> pl.DataFrame | None:
        """All rows, with their time in ``TIME``."""
        heads = self._runs.head(FOREVER)
        return pl.concat(heads).rename({SLOT: TIME}) if heads else None
