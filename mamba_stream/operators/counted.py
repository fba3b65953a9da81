"""Aggregation by key and number of rows: windows of so many rows of a key each, in the order of the stream.

Rows wait until the watermark has passed them, and then count in order. Of the window that is not full yet a key has
partial results, and the rows of expressions that do not decompose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.single import joined
from mamba_stream.operators.columns import ORDER, ORDER_TYPES, PREFIX, TIME
from mamba_stream.operators.failures import FAILURES, UNRELATED, RowsFailed, worked
from mamba_stream.operators.grouping import grouped
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.lateness import FOREVER
from mamba_stream.operators.passing import PassingStep, Timing
from mamba_stream.operators.results import AggregateSettings, Results
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import NOTHING, Failed, Made

_ALL: Final = f"{PREFIX}all"
"""In place of a key where there is none."""
_KEY: Final = f"{PREFIX}key"
"""The slot of a row's key."""
_NUMBER: Final = f"{PREFIX}number"
"""Which window of its key, counted from the one that is open."""
_COUNT: Final = f"{PREFIX}count"
_START: Final = f"{PREFIX}start"

_EDGES: Final = {_COUNT: pl.Int64(), _START: pl.Int64(), SLOT: pl.Int64()}
"""How many rows a window has, and the times of its first and last."""


class CountedSettings(AggregateSettings, frozen=True, kw_only=True):
    """What a step of counted windows is told by the plan.

    Attributes:
        count: How many rows a window has.
    """

    count: int


class CountedStep(PassingStep):
    """The state of one step of counted windows, and what rows and watermarks do to it."""

    def __init__(self, settings: CountedSettings) -> None:
        self._set = settings
        self._keys: Mapping[str, pl.DataType] = settings.keys or {_ALL: pl.Int8()}
        split = settings.aggregation
        self._open = KeyedTable(self._keys, {**_EDGES, **split.partial_schema})
        self._partials = [*_EDGES, *split.partial_schema]
        self._kept_columns = [name for name in split.kept_columns if name not in self._keys]
        self._kept: KeyedRows | None = None
        if split.kept:
            kept = {name: settings.types[name] for name in self._kept_columns}
            self._kept = KeyedRows(self._keys, {**kept, **ORDER_TYPES})
        self._results = Results(settings, [_NUMBER])
        timing = Timing(time=settings.time, shift=settings.shift, dtype=settings.dtype)
        columns = list(dict.fromkeys([*settings.keys, *settings.types]))
        super().__init__(timing, columns, open=self._open, kept=self._kept)

    def passed(self, rows: pl.DataFrame) -> Made:
        """The windows that become full."""
        if not self._set.keys:
            rows = rows.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))
        try:
            return self._finished(*self._counted(rows))
        except (RowsFailed, *UNRELATED):
            raise
        except FAILURES:
            self._open.unreserve(self._open.slots(rows.select(*self._keys)))
            rows, failed = self._without_failing(rows)
        made = self._finished(*self._counted(rows)) if rows.height else NOTHING
        return Made(made.rows, failed=[*failed, *made.failed])

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives out the windows that are full; where no row will come any more, the others too."""
        yield from super().advance(watermark)
        if watermark == FOREVER and self._open.rows:
            yield self._finished(*self._rest())

    def _finished(self, windows: pl.DataFrame, rows: pl.DataFrame | None) -> Made:
        if not windows.height:
            return NOTHING
        start, end = pl.col(_START), pl.col(SLOT) + 1
        return self._results.of(windows, rows, start, end, tolerates=self.tolerates).made

    def _without_failing(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, Sequence[Failed]]:
        """The rows that can be counted: those over which an aggregate raises are in no window."""

        def tried(piece: pl.DataFrame) -> pl.DataFrame:
            grouped(piece, [*self._keys], self._set.aggregation.partial_exprs, nested=self._set.nested)
            return piece

        found, failed = worked(tried, rows, tolerates=self.tolerates)
        return (pl.concat(found) if found else rows.clear()), failed

    def _counted(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Counts rows that come in order; gives the windows that are full, and the rows that they keep."""
        slots = self._open.slots(rows.select(*self._keys), insert=True)
        distinct = np.unique(slots)
        known = distinct[self._open.present(distinct)]
        before = np.zeros(int(distinct[-1]) + 1, np.int64)
        before[known] = self._open.get(known).get_column(_COUNT).to_numpy()
        numbers = (before[slots] + _places(slots)) // self._set.count
        rows = rows.with_columns(pl.Series(_KEY, slots), pl.Series(_NUMBER, numbers))
        edges = [pl.len().cast(pl.Int64).alias(_COUNT), pl.col(TIME).min().alias(_START)]
        edges.append(pl.col(TIME).max().alias(SLOT))
        windows = self._grouped(rows, [*edges, *self._set.aggregation.partial_exprs])
        if len(known):
            windows = self._together(windows, known)
        is_full = windows.get_column(_COUNT) == self._set.count
        full, rest = windows.filter(is_full), windows.filter(~is_full)
        full = pl.concat([self._open.keys(full.get_column(_KEY).to_numpy()), full], how="horizontal")
        kept = self._sort_out(rows, full, rest) if self._kept is not None else None
        self._open.put(rest.get_column(_KEY).to_numpy(), rest.select(self._partials))
        self._open.remove(np.setdiff1d(distinct, rest.get_column(_KEY).to_numpy()))
        return full, kept

    def _together(self, windows: pl.DataFrame, known: npt.NDArray[np.int64]) -> pl.DataFrame:
        """Windows with what there was of those that were open before."""
        open_ = self._open.get(known).with_columns(
            pl.Series(_KEY, known), pl.lit(0, dtype=pl.Int64).alias(_NUMBER)
        )
        edges = [pl.col(_COUNT).sum(), pl.col(_START).min(), pl.col(SLOT).max()]
        both = pl.concat([windows, open_.select(windows.columns)])
        return self._grouped(both, [*edges, *self._set.aggregation.merge_exprs])

    def _grouped(self, frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
        return grouped(frame, [_KEY, _NUMBER], exprs, nested=self._set.nested)

    def _sort_out(self, rows: pl.DataFrame, full: pl.DataFrame, rest: pl.DataFrame) -> pl.DataFrame:
        """The rows of full windows; those of the others are kept."""
        assert self._kept is not None
        columns = [*self._keys, *self._kept_columns, *ORDER]
        stays = rows.join(rest.select(_KEY, _NUMBER), on=[_KEY, _NUMBER], how="semi", maintain_order="left")
        first = full.filter(pl.col(_NUMBER) == 0)
        ids = self._kept.matching(first.select(*self._keys)).ids
        earlier = pl.concat([self._kept.keys_of(ids), self._kept.get(ids)], how="horizontal")
        self._kept.remove(ids)
        of = [*self._set.keys, _NUMBER, SLOT]
        last = full.select(*self._keys, _NUMBER, SLOT)
        by = [*self._keys, _NUMBER]
        earlier = earlier.select(columns).with_columns(pl.lit(0, dtype=pl.Int64).alias(_NUMBER))
        both = pl.concat([earlier, rows.select(*columns, _NUMBER)])
        found = both.join(last, on=by, how="inner", nulls_equal=True)
        self._kept.add(stays.select(*self._keys), stays.select(*self._kept_columns, *ORDER))
        return found.select(*of, *self._kept_columns, *ORDER)

    def _rest(self) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """The windows that will not become full, and their rows."""
        windows = self._open.frame().with_columns(pl.lit(0, dtype=pl.Int64).alias(_NUMBER))
        kept = None
        if self._kept is not None:
            last = windows.select(*self._keys, _NUMBER, SLOT)
            rows = joined(
                self._kept.frame(),
                last,
                left_on=list(self._keys),
                right_on=list(self._keys),
                nulls_equal=True,
            )
            kept = rows.select(*self._set.keys, _NUMBER, SLOT, *self._kept_columns, *ORDER)
            self._kept.remove(self._kept.matching(windows.select(*self._keys)).ids)
        self._open.remove(self._open.slots(windows.select(*self._keys)))
        return windows, kept

    def view(self) -> pl.DataFrame:
        """The windows that are open, as they would be given out now."""
        self.tolerates = True
        return self._results.view(self.advance(FOREVER))


def _places(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row the number of rows of its key before it."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(first, len(slots)))
    places = np.empty(len(slots), np.int64)
    places[order] = np.arange(len(slots)) - np.repeat(first, lengths)
    return places
