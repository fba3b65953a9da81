"""Aggregation by key and window: rows go in, and whole windows come out once the watermark has passed their end.

Rows are reduced at once to partial results per key and pane; expressions that do not decompose keep the rows they
need. What a batch adds is a sorted run (:mod:`mamba_stream.operators.runs`), so adding costs what the batch is
worth and closing costs what is closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import ORDER, TIME, ticks
from mamba_stream.operators.failures import worked
from mamba_stream.operators.grouping import Panes, combined, grouped, ordered, run_by_panes, run_of
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.results import Results
from mamba_stream.operators.runs import SLOT, Runs, between
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.window_late import AFTER, Punctual, WindowSettings

PARTIALS: Final = "partials"
ROWS: Final = "rows"

_WINDOW = "__mamba_window"
_SMALL = 2_048
"""Frames of fewer rows are put aside until there are enough, or a window of theirs is over."""
_ENOUGH = 16_384
_MOST_COPIES = 4_000_000
"""How many rows overlapping windows may be spread out to at once: a row in a thousand windows is a thousand rows."""


class WindowStep:
    """The state of one window step, and what rows and watermarks do to it."""

    adds_whole = True

    def __init__(self, settings: WindowSettings) -> None:
        self._set = settings
        self.tolerates = False
        self._grid = settings.windows
        self._slots = [SLOT, AFTER] if self._grid.overlaps else [SLOT]
        self._groups = [*self._slots, *settings.keys]
        self._steps = {SLOT: self._grid.pane}
        self._panes = _panes(settings)
        self._partials = Runs(self._merge, self._groups)
        self._rows = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))
        self._closed = self._over = NEVER
        self._gathered: list[pl.DataFrame] = []
        self._gathered_rows = self._gathered_bytes = 0
        self._gathered_first = FOREVER
        # A row may be in other windows too.
        self._results = Results(settings, stay=self._grid.overlaps)
        self._punctual = Punctual(settings)
        split = settings.aggregation
        self._ordered = settings.ordered
        self._nested = settings.nested
        self._kept = list(dict.fromkeys((*settings.keys, *split.kept_columns, *ORDER)))

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return self._partials.bytes + self._rows.bytes + self._gathered_bytes

    @property
    def rows(self) -> int:
        """Partial results and kept rows together."""
        self._take_gathered()
        return self._partials.rows + self._rows.rows

    @property
    def closed(self) -> int:
        """Every window that ends at or before this was given out, in ticks."""
        return self._closed

    @property
    def horizon(self) -> int:
        """Rows carry the end of their window less one tick, and windows that are open end behind ``closed``."""
        return self._closed

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives back those that came too late for all of their windows."""
        if 0 < frame.height < _SMALL and not self.tolerates:
            first = self._punctual.first(frame)
            if self._punctual.is_plain(frame, first, self._closed):
                self._gather(frame, first)
                return NOTHING
        return self._added(frame)

    def _gather(self, frame: pl.DataFrame, first: int) -> None:
        """Puts few rows aside: a hundred cost as much as thousands to group."""
        self._gathered.append(frame)
        self._gathered_rows += frame.height
        self._gathered_bytes += int(frame.estimated_size())
        self._gathered_first = min(self._gathered_first, first)
        if self._gathered_rows >= _ENOUGH:
            self._take_gathered()

    def rest(self) -> None:
        """Takes in what was put aside, so that less is left to do when a window closes."""
        if self._gathered_rows >= _SMALL:
            self._take_gathered()

    def _take_gathered(self) -> None:
        if self._gathered:
            frames, self._gathered = self._gathered, []
            self._gathered_rows = self._gathered_bytes = 0
            self._gathered_first = FOREVER
            rows = frames[0] if len(frames) == 1 else written_out(pl.concat(frames, rechunk=True))
            # Whoever brought rows last brought none of these, perhaps: what it raises says over which it is.
            worked(self._added, rows, tolerates=False)

    def _added(self, frame: pl.DataFrame) -> Made:
        run = self._added_up(frame)
        if run is not None:
            self._partials.add(run)
            return NOTHING
        frame, late = self._punctual.placed(frame, self._closed)
        if frame.height:
            if self._ordered:
                frame = frame.with_columns(ticks(self._set.time, self._set.shift).alias(TIME))
            self._take(frame)
        return NOTHING if late is None else Made(late=late)

    def _added_up(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """The run of many rows of which none is late, where that is all there is to know of them."""
        folds = self._set.aggregation.partial_folds
        if self._panes is None or folds is None or not self._punctual.is_on_time(frame, self._closed):
            return None
        run = run_by_panes(frame, self._panes, [*self._set.keys], folds)
        if run is not None and self._grid.overlaps:
            run.insert_column(1, pl.repeat(NEVER, run.height, dtype=pl.Int64, eager=True).alias(AFTER))
        return run

    def _take(self, frame: pl.DataFrame) -> None:
        split = self._set.aggregation
        exprs, folds = split.partial_exprs, split.partial_folds
        run = run_of(frame, self._groups, exprs, nested=self._nested, folds=folds, steps=self._steps)
        self._partials.add(run)
        if split.kept:
            self._rows.add(frame.select(*self._slots, *self._kept).sort(SLOT, maintain_order=True))

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives out windows that end at or before the watermark, whole, in the order of window and key."""
        while watermark > self._closed:
            if (made := self._close(watermark)) is not None:
                yield made
                # Not before the rows are on their way: it takes time.
                self._drop(self._over)

    def _close(self, watermark: int) -> Made | None:
        """Closes windows; those that are too many to be held at once are left for further calls."""
        if self._gathered and self._grid.first_end(self._gathered_first) <= watermark:
            self._take_gathered()
        first = self._partials.first_slot
        if first is None or self._grid.first_end(first) > watermark:
            self._closed = watermark
            return None
        if self._grid.overlaps:
            return self._close_overlapping(first, watermark)
        self._closed = watermark
        # A slot is a window: those before the first that is open are complete.
        before = self._grid.first_open(min(watermark, self._grid.last_end(self._partials.last_slot)))
        partials = pl.concat(self._partials.head(before))
        rows = self._rows.head(before)
        self._over = before
        return self._finished(partials, pl.concat(rows) if rows else None)

    def _close_overlapping(self, first: int, watermark: int) -> Made | None:
        grid = self._grid
        after = max(self._closed, grid.first_end(first) - grid.every)
        if not grid.ends(after, watermark):
            self._closed = watermark
            return None
        self._closed = reached = self._in_one_go(after, watermark)
        ends = grid.ends(after, min(reached, grid.last_end(self._partials.last_slot)))
        partials = self._expanded(self._partials.head(reached), ends)
        rows = self._expanded(self._rows.head(reached), ends)
        self._over = grid.first_open(reached)
        if partials is None or not partials.height:
            self._drop(self._over)
            return None
        return self._finished(partials, rows)

    def _in_one_go(self, after: int, watermark: int) -> int:
        """How far overlapping windows can be closed at once: by one at least."""
        at_once = _MOST_COPIES // self._grid.most
        bound = min(runs.slot_at(at_once, watermark) for runs in (self._partials, self._rows))
        return min(watermark, max(bound, after + self._grid.every))

    def _expanded(self, runs: Sequence[pl.DataFrame], ends: range) -> pl.DataFrame | None:
        """A copy of each row for each of its windows among those with these ends; ``None`` where there are none."""
        if not ends or not runs:
            return None
        if len(ends) > self._grid.most:
            spread = [copy for run in runs for copy in self._by_place(run, ends)]
            return pl.concat(pl.collect_all(spread, engine="in-memory"))
        copies = [copy for end in ends if (copy := self._of_window(runs, end)) is not None]
        return pl.concat(copies) if copies else None

    def _of_window(self, runs: Sequence[pl.DataFrame], end: int) -> pl.DataFrame | None:
        """The rows that are in one window."""
        start = self._grid.start_before(end)
        parts = [part for run in runs if (part := between(run, start, end)).height]
        if not parts:
            return None
        rows = pl.concat(parts, rechunk=True)
        after: Any = rows.get_column(AFTER).max()
        if after >= end:
            rows = rows.filter(pl.col(AFTER) < end)
        return rows.drop(AFTER).with_columns(pl.repeat(end, rows.height, dtype=pl.Int64).alias(SLOT))

    def _by_place(self, run: pl.DataFrame, ends: range) -> list[pl.LazyFrame]:
        """The rows of a run in the last of their windows, in the one before it, and so on."""
        grid = self._grid
        last, end = grid.last_end_of(pl.col(SLOT)), pl.col(_WINDOW)
        copies = []
        for back in range(grid.most):
            window = run.lazy().with_columns((last - back * grid.every).alias(_WINDOW))
            open_ = window.filter(end > pl.col(SLOT), end > pl.col(AFTER), end.is_between(ends[0], ends[-1]))
            copies.append(open_.drop(SLOT, AFTER).rename({_WINDOW: SLOT}))
        return copies

    def _drop(self, before: int) -> None:
        before = max(before, NEVER)
        self._partials.drop(before)
        self._rows.drop(before)

    def _merge(self, frame: pl.DataFrame) -> pl.DataFrame:
        exprs, folds = self._set.aggregation.merge_exprs, self._set.aggregation.merge_folds
        merged = combined(frame, self._groups, exprs, nested=self._nested, folds=folds, steps=self._steps)
        return merged if merged is not None else run_of(frame, self._groups, exprs, nested=self._nested)

    def _finished(self, partials: pl.DataFrame, rows: pl.DataFrame | None) -> Made:
        """What becomes of whole windows.

        Args:
            partials: All partial results of these windows, those of one key not merged.
            rows: All rows that were kept.
        """
        keys, exprs = [SLOT, *self._set.keys], self._set.aggregation.merge_exprs
        folds = self._set.aggregation.merge_folds
        merged = combined(partials, keys, exprs, nested=self._nested, folds=folds, steps=self._steps)
        if merged is None:
            merged = ordered(grouped(partials, keys, exprs, nested=self._nested), keys)
        start, end = self._grid.bounds(pl.col(SLOT))
        return self._results.of(merged, rows, start, end, tolerates=self.tolerates, in_order=True).made

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot and is still open."""
        self._take_gathered()
        return _present({PARTIALS: self._partials.delta(), ROWS: self._rows.delta()})

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is open."""
        self._take_gathered()
        return _present({PARTIALS: self._partials.snapshot(), ROWS: self._rows.snapshot()})

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave; ``restored`` then drops what was closed since."""
        (self._partials if part == PARTIALS else self._rows).restore(frame)

    def restored(self, closed: int) -> None:
        """Forgets windows that were given out before: those that end at or before the watermark."""
        self._closed = closed
        if self._partials.rows and closed > NEVER:
            self._drop(self._grid.first_open(min(closed, self._grid.last_end(self._partials.last_slot))))

    def view(self) -> pl.DataFrame:
        """The windows that are open, as they would be given out now."""
        self.tolerates = True
        return self._results.view(self.advance(FOREVER))


def _panes(settings: WindowSettings) -> Panes | None:
    """The panes of a step that keeps no rows, where they are regular."""
    windows = settings.windows
    if windows.origin is None or settings.aggregation.kept:
        return None
    return Panes(SLOT, settings.time, settings.shift, windows.origin, windows.pane)


def _present(parts: dict[str, pl.DataFrame | None]) -> dict[str, pl.DataFrame]:
    return {name: frame for name, frame in parts.items() if frame is not None}
