"""Running totals in two halves, as windows are (:mod:`mamba_stream.operators.halves`): by key, without panes.

Rows that are taken back are subtracted where rows are reduced. However many rows of a key came until then, the other
half gives one change of its results.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from mamba_stream.operators.running import RunningSettings, RunningTotals
from mamba_stream.operators.step import NOTHING, Made

_MERGE_AT: Final = 8


class FirstOfTotals(RunningTotals):
    """Takes rows, and gives partial results when asked."""

    def __init__(self, settings: RunningSettings) -> None:
        super().__init__(settings)
        self._held: list[pl.DataFrame] = []

    @property
    def bytes(self) -> int:
        """The size of what it holds."""
        return sum(int(frame.estimated_size()) for frame in self._held)

    @property
    def rows(self) -> int:
        """How many partial results it holds."""
        return sum(frame.height for frame in self._held)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in."""
        if frame.height:
            self._held.append(self._batch(self._with_keys_and_time(frame)))
            if len(self._held) > _MERGE_AT and self._held[0].height < sum(
                frame.height for frame in self._held[1:]
            ):
                self._held = [self._merged_held()]
        return NOTHING

    def take(self) -> pl.DataFrame | None:
        """The partial results of the rows that came since the last time; ``None`` where none came."""
        if not self._held:
            return None
        taken = self._merged_held()
        self._held = []
        return taken

    def delta(self) -> dict[str, pl.DataFrame]:
        """Nothing: what is here goes on with the same commit."""
        return {}

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """Nothing, as in ``delta``."""
        return {}

    def _merged_held(self) -> pl.DataFrame:
        return self._held[0] if len(self._held) == 1 else self._of_partials(pl.concat(self._held))


class SecondOfTotals(RunningTotals):
    """Takes partial results, and gives the keys whose results are others."""

    def _with_keys_and_time(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame

    def _signs(self, frame: pl.DataFrame) -> pl.Series | None:
        return None

    def _batch(self, frame: pl.DataFrame) -> pl.DataFrame:
        return self._of_partials(frame)
