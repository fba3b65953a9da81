"""Rows of two streams meet where their keys are equal and they lie in the same window.

Rows wait until their window is over; then all of its rows meet at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
import numpy as np
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import ORIGIN, ORIGIN_TYPES, TIME, ticks
from mamba_stream.operators.grid import Grid, Windows
from mamba_stream.operators.joined import (
    LEFT,
    RIGHT,
    SIDES,
    How,
    JoinSource,
    Outcome,
    both_sides,
    numbered,
    origin_names,
)
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.pairing import Rows, bounded_pairs, keyed
from mamba_stream.operators.results import WINDOW_END, WINDOW_START
from mamba_stream.operators.runs import SLOT, Runs
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.times import as_time
from mamba_stream.operators.window_late import AFTER, Punctual

_ORDER: Final = (*origin_names(LEFT).values(), *origin_names(RIGHT).values())


class WindowJoinSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a join in windows is told by the plan.

    Attributes:
        sides: Left and right.
        how: What becomes of rows that meet none, or several.
        windows: Which windows a time falls into.
        outcome: The columns of the result, beside those of the window.
        dtype: The type of the time columns.
        number: The step's own number, for the origin of the rows it makes.
        with_origin: Whether a later step needs the origin of the rows it makes.
    """

    sides: tuple[JoinSource, JoinSource]
    how: How
    windows: Windows
    outcome: Outcome
    dtype: pl.DataType
    number: int
    with_origin: bool


class _Placing(msgspec.Struct, frozen=True):
    windows: Windows
    time: str
    shift: int
    dtype: pl.DataType
    corrections: int = 0


class WindowJoin:
    """The state of one join in windows, and what rows and watermarks do to it."""

    def __init__(self, settings: WindowJoinSettings) -> None:
        self._set = settings
        self._punctual = tuple(
            Punctual(_Placing(settings.windows, side.time, side.shift, side.dtype)) for side in settings.sides
        )
        self._waiting = (_waiting_rows(), _waiting_rows())
        origin = ORIGIN if settings.with_origin else ()
        self._kept = tuple(
            list(dict.fromkeys((*side.on, *settings.outcome.of_side(place), *origin)))
            for place, side in enumerate(settings.sides)
        )
        self._keeps_alone = (settings.how != "inner", settings.how in ("right", "full"))
        self._closed = NEVER

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return sum(rows.bytes for rows in self._waiting)

    @property
    def rows(self) -> int:
        """Rows of both sides in windows that are open."""
        return sum(rows.rows for rows in self._waiting)

    @property
    def closed(self) -> int:
        """Every window that ends at or before this was given out, in ticks."""
        return self._closed

    @property
    def horizon(self) -> int:
        """Rows carry the end of their window less one tick, and windows that are open end behind ``closed``."""
        return self._closed

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Takes rows of one side in; gives back those that came too late for all of their windows."""
        side = self._set.sides[port]
        frame, late = self._punctual[port].placed(frame, self._closed)
        if (
            frame.height
            and not self._keeps_alone[port]
            and any(frame.get_column(k).null_count() for k in side.on)
        ):
            frame = frame.drop_nulls(list(side.on))
        if frame.height:
            placed = self._in_windows(frame, side) if self._set.windows.overlaps else frame
            run = placed.select(SLOT, *self._kept[port])
            self._waiting[port].add(run.sort(SLOT, maintain_order=True))
        return NOTHING if late is None else Made(late=late)

    def _in_windows(self, frame: pl.DataFrame, side: JoinSource) -> pl.DataFrame:
        """A copy of each row for each of its windows that still takes it, with the window's start in ``SLOT``."""
        grid = self._set.windows
        assert isinstance(grid, Grid)
        frame = frame.with_columns(ticks(side.time, side.shift).alias(TIME))
        last = grid.last_start(pl.col(TIME))
        copies = []
        for back in range(grid.most):
            copy = frame.with_columns((last - back * grid.every).alias(SLOT))
            end = pl.col(SLOT) + grid.size
            copies.append(copy.filter(end > pl.col(TIME), end > pl.col(AFTER), end > self._closed))
        return pl.concat(copies)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives out windows that end at or before the watermark, whole and in their order."""
        if watermark <= self._closed:
            return
        self._closed = watermark
        slots = [rows.last_slot for rows in self._waiting if rows.first_slot is not None]
        if not slots:
            return
        before = self._first_open(watermark, max(slots))
        heads = [self._head(side, before) for side in (LEFT, RIGHT)]
        for rows in self._waiting:
            rows.drop(before)
        if (made := self._joined(*heads)) is not None:
            yield Made(made)

    def _first_open(self, watermark: int, last: int) -> int:
        windows = self._set.windows
        return windows.first_open(min(watermark, windows.last_end(last)))

    def _head(self, side: int, before: int) -> pl.DataFrame:
        heads = self._waiting[side].head(before)
        types = {**self._set.sides[side].types, **ORIGIN_TYPES, SLOT: pl.Int64()}
        empty = pl.DataFrame(schema={name: types[name] for name in (SLOT, *self._kept[side])})
        return pl.concat(heads) if heads else empty

    def _joined(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame | None:
        """The results of windows that are over."""
        how, outcome, frames = self._set.how, self._set.outcome, (left, right)
        mine, theirs = (keyed(frame, [SLOT, *self._set.sides[side].on]) for side, frame in enumerate(frames))
        met = np.zeros(left.height, np.bool_), np.zeros(right.height, np.bool_)
        made = []
        if how in ("semi", "anti"):
            met = theirs.has(mine), met[RIGHT]
        else:
            lefts, rights = bounded_pairs(theirs, mine)
            met[LEFT][lefts], met[RIGHT][rights] = True, True
            rows = outcome.pairs(left, lefts, right, rights)
            slots = left.get_column(SLOT).gather(lefts)
            of = self._origins(left, lefts), self._origins(right, rights)
            made.append(self._placed(rows, slots, *of))
        for side, wanted in enumerate((how in ("left", "full", "semi", "anti"), how in ("right", "full"))):
            if wanted:
                rows = frames[side][np.flatnonzero(met[side] if how == "semi" else ~met[side])]
                of = (rows, None) if side == LEFT else (None, rows)
                made.append(self._placed(outcome.alone(side, rows), rows.get_column(SLOT), *of))
        made = [frame for frame in made if frame.height]
        return self._finished(pl.concat(made)) if made else None

    def _origins(self, frame: pl.DataFrame, rows: Rows) -> pl.DataFrame | None:
        return frame.select(ORIGIN)[rows] if self._set.with_origin else None

    def _placed(self, rows: pl.DataFrame, slots: pl.Series, *of: pl.DataFrame | None) -> pl.DataFrame:
        """Results with their window, and with the origin of the rows that they are of, if somebody asks."""
        parts = [slots.alias(SLOT)]
        if self._set.with_origin:
            for side, source in enumerate(of):
                for name, new in origin_names(side).items():
                    none = pl.Series(new, [None], ORIGIN_TYPES[name])
                    own = none.new_from_index(0, rows.height) if source is None else source.get_column(name)
                    parts.append(own.alias(new))
        return rows.hstack(parts)

    def _finished(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.sort(SLOT, *(_ORDER if self._set.with_origin else ()), maintain_order=True)
        start = pl.col(SLOT)
        end = self._set.windows.last_end_of(start)
        named = rows.with_columns(
            as_time(start, self._set.dtype).alias(WINDOW_START),
            as_time(end, self._set.dtype).alias(WINDOW_END),
        )
        columns = [*self._set.outcome.columns, WINDOW_START, WINDOW_END]
        return written_out(
            numbered(named, columns, SLOT, self._set.number if self._set.with_origin else None)
        )

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot and is still open."""
        return _present(rows.delta() for rows in self._waiting)

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is open."""
        return _present(rows.snapshot() for rows in self._waiting)

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        self._waiting[SIDES.index(part)].restore(frame)

    def restored(self, closed: int) -> None:
        """Forgets windows that were given out before."""
        self._closed = closed
        for rows in self._waiting:
            if closed > NEVER and rows.first_slot is not None:
                rows.drop(self._first_open(closed, rows.last_slot))

    def view(self) -> pl.DataFrame:
        """The rows in windows that are open, and on which side each is."""
        shown = []
        for side, rows in enumerate(self._waiting):
            names = [name for name in self._kept[side] if name not in ORIGIN]
            types = self._set.sides[side].types
            schema = {**{name: types[name] for name in names}, WINDOW_START: self._set.dtype}
            frames = [
                head.select(*names, as_time(pl.col(SLOT), self._set.dtype).alias(WINDOW_START))
                for head in rows.head(FOREVER)
            ]
            shown.append((schema, frames))
        return both_sides(shown, shared=(WINDOW_START,))


def _waiting_rows() -> Runs:
    return Runs(lambda frame: frame.sort(SLOT, maintain_order=True))


def _present(parts: Iterable[pl.DataFrame | None]) -> dict[str, pl.DataFrame]:
    return {name: frame for name, frame in zip(SIDES, parts, strict=True) if frame is not None}
