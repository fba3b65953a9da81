"""Windows that give their results before they are over, and again when these change: a changelog.

The state holds the partial results of every window by key and window, and what was last given out of it. What of
the results changed is taken back and put in its place. When this happens is for the settings to say: with every
batch, whenever time has come another step further, at a window's end, and after it where rows may still correct it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.changes import with_op
from mamba_stream.operators.columns import (
    DELETE,
    INSERT,
    OP,
    OP_TYPE,
    ORDER,
    ORDER_TYPES,
    PREFIX,
    TIME,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    ticks,
)
from mamba_stream.operators.folding import Folds
from mamba_stream.operators.grouping import grouped, ordered
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.places import ascending
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.results import Results
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.window_late import AFTER, Punctual, WindowSettings

_PLACE: Final = f"{PREFIX}place"
_WINDOW: Final = f"{PREFIX}window"
_NONE: Slots = np.empty(0, np.int64)


class ChangingSettings(WindowSettings, frozen=True, kw_only=True):
    """What a step of windows that change is told by the plan.

    Attributes:
        at_once: Whether results are given with every batch.
        every: Whether, and after how many ticks of the watermark, they are given before a window is over.
    """

    at_once: bool
    every: int | None


class ChangingStep(Remembering):
    """The state of one step of windows that change, and what rows and watermarks do to it."""

    def __init__(self, settings: ChangingSettings) -> None:
        self._set = settings
        self.tolerates = False
        self.adds_whole = True
        self._windows = settings.windows
        self._punctual = Punctual(settings)
        self._results = Results(settings, stay=True)
        split = settings.aggregation
        self._keys = {**settings.keys, SLOT: pl.Int64()}
        # Each with the end of its window as its time.
        self._open = KeyedTable(self._keys, split.partial_schema, timed=True)
        self._shown = KeyedTable(self._keys, split.output_schema)
        self._kept_columns = [name for name in split.kept_columns if name not in self._keys]
        self._kept: KeyedRows | None = None
        if split.kept:
            kept = {name: settings.types[name] for name in self._kept_columns}
            self._kept = KeyedRows(self._keys, {**kept, **ORDER_TYPES})
        self._comparable = [name for name, dtype in split.output_schema.items() if not dtype.is_nested()]
        self._all_comparable = len(self._comparable) == len(split.output_schema)
        self._changed: list[Slots] = []
        super().__init__(open=self._open, shown=self._shown, kept=self._kept)

    @property
    def horizon(self) -> int:
        """Rows carry the end of their window less one tick, also of a window that is corrected."""
        return self._final

    @property
    def _final(self) -> int:
        """Windows that end at or before this change no more."""
        if self._closed in (NEVER, FOREVER):
            return self._closed
        return max(NEVER, self._closed - self._set.corrections)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives back what changes at once, and the rows that came too late."""
        frame, late = self._punctual.placed(frame, self._final)
        if not frame.height:
            return NOTHING if late is None else Made(late=late)
        if self._set.ordered:
            frame = frame.with_columns(ticks(self._set.time, self._set.shift).alias(TIME))
        changed = self._take(frame)
        if not self._set.at_once:
            over = self._open.times(changed) <= self._closed
            self._changed.append(changed[~over])
            changed = changed[over]
        made = self._fire(changed)
        self.adds_whole = True
        return Made(made.rows, late, failed=made.failed)

    def _take(self, frame: pl.DataFrame) -> Slots:
        """Adds rows to their windows; gives the windows that changed."""
        split, keys = self._set.aggregation, [*self._set.keys]
        panes = [SLOT, AFTER] if self._windows.overlaps else [SLOT]
        partials = self._grouped(frame, [*keys, *panes], split.partial_exprs, split.partial_folds)
        if self._windows.overlaps:
            partials = self._grouped(
                self._spread(partials), [*keys, SLOT], split.merge_exprs, split.merge_folds
            )
        self.adds_whole = False
        slots = self._open.slots(partials.select(*self._keys), insert=True)
        known = self._open.present(slots)
        if known.any():
            before = pl.concat(
                [self._open.keys(slots[known]), self._open.get(slots[known])], how="horizontal"
            )
            both = pl.concat([partials, before.select(partials.columns)])
            partials = self._grouped(both, [*keys, SLOT], split.merge_exprs, split.merge_folds)
            slots = self._open.slots(partials.select(*self._keys))
        ends = partials.select(self._windows.bounds(pl.col(SLOT))[1]).to_series().to_numpy()
        self._open.put(slots, partials.select(*split.partial_schema), ends)
        if self._kept is not None:
            rows = self._spread(frame) if self._windows.overlaps else frame
            self._kept.add(rows.select(*self._keys), rows.select(*self._kept_columns, *ORDER))
        return slots

    def _grouped(
        self, frame: pl.DataFrame, keys: Sequence[str], exprs: Sequence[pl.Expr], folds: Folds | None
    ) -> pl.DataFrame:
        steps = {SLOT: self._windows.pane}
        return grouped(frame, keys, exprs, nested=self._set.nested, folds=folds, steps=steps)

    def _spread(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A copy for each of a row's windows, whose ends are in ``SLOT``."""
        end, last = pl.col(_WINDOW), self._windows.last_end_of(pl.col(SLOT))
        copies = [
            frame.lazy()
            .with_columns((last - back * self._windows.every).alias(_WINDOW))
            .filter(end > pl.col(SLOT), end > pl.col(AFTER))
            .drop(SLOT, AFTER)
            .rename({_WINDOW: SLOT})
            for back in range(self._windows.most)
        ]
        return pl.concat(pl.collect_all(copies, engine="in-memory"))

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives what is due by now, and forgets the windows that will change no more."""
        if watermark <= self._closed:
            return
        due = self._due(watermark)
        self._closed = watermark
        yield self._fire(due)
        self._forget()

    def _due(self, watermark: int) -> Slots:
        changed = ascending(np.concatenate(self._changed)) if self._changed else _NONE
        changed = changed[self._open.present(changed)]
        if self._is_early_due(watermark):
            self._changed = []
            return changed
        over = self._open.times(changed) <= watermark
        self._changed = [changed[~over]]
        return changed[over]

    def _is_early_due(self, watermark: int) -> bool:
        """Whether time has come to a further step, at which windows give results that are not over."""
        every = self._set.every
        if every is None:
            return False
        return self._closed == NEVER or watermark // every > self._closed // every

    def _forget(self) -> None:
        if self._final == NEVER:
            return
        over = self._open.expire(min(FOREVER, self._final + 1)).select(*self._keys)
        if over.height:
            shown = self._shown.slots(over)
            self._shown.remove(shown[shown >= 0])
            if self._kept is not None:
                self._kept.remove(self._kept.matching(over).ids)

    def _fire(self, slots: Slots) -> Made:
        """What the windows at distinct slots put in the place of what they gave before."""
        if not len(slots):
            return NOTHING
        parts = [self._open.keys(slots), self._open.get(slots)]
        partials = ordered(pl.concat(parts, how="horizontal"), [SLOT, *self._set.keys])
        windows = partials.select(*self._keys)
        rows = self._rows_of(windows) if self._kept is not None else None
        start, end = self._windows.bounds(pl.col(SLOT))
        finished = self._results.of(partials, rows, start, end, tolerates=self.tolerates)
        gone = None
        if finished.there is not None:
            gone = self._taken_back(partials.filter(~pl.Series(finished.there)), start, end)
            windows = windows.filter(pl.Series(finished.there))
        parts = [part for part in (gone, self._put(windows, finished.rows)) if part is not None]
        return Made(pl.concat(parts) if parts else None, failed=finished.failed)

    def _put(self, windows: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame | None:
        """Puts results in the place of what their windows gave before."""
        shown = self._shown.slots(windows, insert=True)
        known = self._shown.present(shown)
        values = results.select(*self._set.aggregation.output_schema)
        before = self._shown.get(shown[known])
        differs = np.ones(len(shown), np.bool_)
        if self._all_comparable and known.any():
            differs[known] = _differ(values.filter(pl.Series(known)), before)
        self._shown.put(shown, values)
        return self._changes(results, before, known, differs)

    def _taken_back(self, windows: pl.DataFrame, start: pl.Expr, end: pl.Expr) -> pl.DataFrame | None:
        """Takes back what windows gave that have no result any more, since an expression raises over it."""
        shown = self._shown.slots(windows.select(*self._keys))
        there = self._shown.present(shown)
        if not there.any():
            return None
        bounds = self._results.bounds(start, end)
        named = windows.filter(pl.Series(there)).select(*self._set.keys, *bounds, SLOT)
        rows = self._results.with_origin(named.hstack(self._shown.get(shown[there])))
        self._shown.remove(shown[there])
        return with_op(rows, DELETE)

    def _changes(
        self,
        results: pl.DataFrame,
        before: pl.DataFrame,
        known: npt.NDArray[np.bool_],
        differs: npt.NDArray[np.bool_],
    ) -> pl.DataFrame | None:
        if not differs.any():
            return None
        place = pl.int_range(pl.len(), dtype=pl.Int64).alias(_PLACE)
        op = np.where(known, UPDATE_AFTER, INSERT)
        new = results.with_columns(pl.Series(OP, op).cast(OP_TYPE), place).filter(pl.Series(differs))
        again = known & differs
        if not again.any():
            return new.drop(_PLACE)
        taken = results.with_columns(pl.lit(UPDATE_BEFORE, dtype=OP_TYPE).alias(OP), place)
        taken = taken.filter(pl.Series(again)).with_columns(before.filter(pl.Series(differs[known])))
        return pl.concat([taken, new]).sort(_PLACE, maintain_order=True).drop(_PLACE)

    def _rows_of(self, windows: pl.DataFrame) -> pl.DataFrame:
        assert self._kept is not None
        probe, ids = self._kept.matching(windows)
        mine = windows.select(pl.all().gather(probe))
        rows = pl.concat([mine, self._kept.get(ids)], how="horizontal")
        return rows.select(SLOT, *self._set.keys, *self._kept_columns, *ORDER)

    def restored(self, closed: int) -> None:
        """What of the windows was not given out yet shows when they are compared with what was."""
        super().restored(closed)
        self._changed = [self._open.slots(self._open.frame().select(*self._keys))]

    def view(self) -> pl.DataFrame:
        """The windows that are open, as they would be given out now."""
        self._shown = KeyedTable(self._keys, self._set.aggregation.output_schema)
        self.tolerates = True
        return self._results.view([self._fire(self._open.slots(self._open.frame().select(*self._keys)))])


def _differ(values: pl.DataFrame, before: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Which rows differ."""
    differs = np.zeros(values.height, np.bool_)
    for column in values.get_columns():
        differs |= column.ne_missing(before.get_column(column.name)).to_numpy()
    return differs
