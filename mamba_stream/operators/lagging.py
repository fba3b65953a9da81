"""Each row beside the values of an earlier row of its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import polars as pl

from mamba_stream.core.single import joined, written_out
from mamba_stream.operators.columns import ORDER, ORIGIN, PREFIX
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.passing import PassingStep, Timing
from mamba_stream.operators.step import Made

_ONE_KEY: Final = f"{PREFIX}all"
_FRESH: Final = f"{PREFIX}fresh"
_COUNT: Final = f"{PREFIX}count"


class LagSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a step that looks at earlier rows is told by the plan.

    Attributes:
        timing: Its time.
        by: The key's columns with their types.
        steps: How many rows of its key a row looks back.
        columns: The columns whose earlier values are wanted, with their types.
        results: The names of the results, in the order of the columns.
        differs: Whether the difference is wanted instead of the earlier value.
        kept: The columns of the rows that go on.
    """

    timing: Timing
    by: Mapping[str, pl.DataType]
    steps: int
    columns: Mapping[str, pl.DataType]
    results: Sequence[str]
    differs: bool
    kept: Sequence[str]


class LagStep(PassingStep):
    """Keeps the last few values of each key."""

    def __init__(self, settings: LagSettings) -> None:
        self._set = settings
        self._by = dict(settings.by) or {_ONE_KEY: pl.Boolean()}
        values = {
            self._place(name, back): dtype
            for back in self._back()
            for name, dtype in settings.columns.items()
        }
        self._last = KeyedTable(self._by, {_COUNT: pl.Int64(), **values})
        columns = dict.fromkeys([*settings.kept, *settings.by, *settings.columns])
        super().__init__(settings.timing, list(columns), last=self._last)

    def passed(self, rows: pl.DataFrame) -> Made:
        """The rows with their results, in their order."""
        if not self._set.by:
            rows = rows.with_columns(pl.lit(True).alias(_ONE_KEY))
        keys = rows.select(list(self._by)).unique(maintain_order=True)
        slots = self._last.slots(keys, insert=True)
        before = keys.hstack(self._last.get(slots))
        columns = list(self._set.columns)
        past = [self._past(before, back) for back in reversed(self._back())]
        marked = rows.with_columns(pl.lit(True).alias(_FRESH))
        together = pl.concat([*past, marked], how="diagonal")
        earlier = pl.col(columns).shift(self._set.steps).over(list(self._by))
        result = (pl.col(columns) - earlier) if self._set.differs else earlier
        found = together.select(
            result.name.map(dict(zip(columns, self._set.results, strict=True)).__getitem__)
        )
        shown = (
            together.select(pl.exclude(*self._set.results))
            .hstack(found)
            .filter(pl.col(_FRESH).fill_null(value=False))
        )
        self._remember(keys, slots, together)
        return Made(written_out(shown.sort(ORDER).select(*self._set.kept, *self._set.results, *ORIGIN)))

    def _past(self, before: pl.DataFrame, back: int) -> pl.DataFrame:
        """The rows that lie so far back, of the keys that have them."""
        there = before.filter(pl.col(_COUNT) >= back)
        return there.select(
            *self._by, *(pl.col(self._place(name, back)).alias(name) for name in self._set.columns)
        )

    def _remember(self, keys: pl.DataFrame, slots: object, together: pl.DataFrame) -> None:
        columns = list(self._set.columns)
        grouped = together.group_by(list(self._by), maintain_order=True)
        values = grouped.agg(
            pl.len().clip(upper_bound=self._set.steps).cast(pl.Int64).alias(_COUNT),
            *(
                pl.col(name).get(-back, null_on_oob=True).alias(self._place(name, back))
                for back in self._back()
                for name in columns
            ),
        )
        by = list(self._by)
        ordered = joined(
            keys, values, left_on=by, right_on=by, how="left", nulls_equal=True, maintain_order="left"
        )
        self._last.put(slots, ordered.drop(list(self._by)))  # type: ignore[arg-type]

    def _back(self) -> range:
        return range(1, self._set.steps + 1)

    def _place(self, name: str, back: int) -> str:
        return f"{name} {back}"

    def view(self) -> pl.DataFrame:
        """The last values of each key: ``name 1`` is the last, ``name 2`` the one before it."""
        frame = self._last.frame()
        return frame.drop(_COUNT, _ONE_KEY, strict=False)
