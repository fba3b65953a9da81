"""The best rows of each group: of whole windows at once, of rows that stay and of tables as a changelog.

Of rows that stay only the best are kept, since no other can ever become one of them. Of a table all are: what is taken
away makes room for the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.operators.changes import Emitted, differences
from mamba_stream.operators.columns import (
    DELETE,
    INSERT,
    OP,
    ORDER,
    ORDER_TYPES,
    PREFIX,
    TIME,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    tick_values,
)
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.latest import order_of
from mamba_stream.operators.members import PLACE, Members, places_of
from mamba_stream.operators.places import ascending
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.rowstore import Mask, Places, stacked
from mamba_stream.operators.single import written_out
from mamba_stream.operators.step import NOTHING, Made

_ALL: Final = f"{PREFIX}all"
_ROW: Final = f"{PREFIX}row"
_COUNT: Final = f"{PREFIX}count"

_SMALL: Final = (pl.Int16, pl.Int32)
"""The types of columns that say from where a row came, rather than when."""

RANK_TYPE: Final = pl.Int64()


@dataclass(frozen=True, kw_only=True)
class BestSettings:
    """What the step is told by the plan.

    Attributes:
        k: How many rows of each group.
        by: The columns that rows are compared by.
        descending: For each whether its greatest values are the best.
        per: The columns that tell groups apart, and their types.
        values: The other columns that are kept.
        columns: All columns of the result, in order, the rank included.
        rank: The column that says a row's rank, if there is one.
        time: The time column, where there is one.
        shift: Ticks to add to it.
        order: Of a table, what decides between rows that are equally good.
        number: The step's own number, where a later step needs the origin of the rows it makes.
    """

    k: int
    by: tuple[str, ...]
    descending: tuple[bool, ...]
    per: Mapping[str, pl.DataType]
    values: Mapping[str, pl.DataType]
    columns: tuple[str, ...]
    rank: str | None
    time: str | None
    shift: int
    order: tuple[str, ...]
    number: int | None

    @property
    def keys(self) -> dict[str, pl.DataType]:
        """The columns that tell groups apart in the state."""
        return dict(self.per) or {_ALL: pl.Int8()}


class BestOfWindows(Remembering):
    """Every frame holds whole windows: their best rows are known at once, and nothing has to be kept."""

    def __init__(self, settings: BestSettings) -> None:
        super().__init__()
        self._set = settings

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Gives the best rows, in the order of the stream."""
        groups = frame.select(list(self._set.per)).unique()
        places = places_of(frame, groups)
        rows, rank, _ = _ranked(places, frame, self._set, ())
        best = rank < self._set.k
        rows, rank = rows[best], rank[best]
        back = np.argsort(rows)
        made = frame[rows[back]]
        if self._set.rank is not None:
            made = made.with_columns(pl.Series(self._set.rank, rank[back] + 1, RANK_TYPE))
        return Made(written_out(made))

    def view(self) -> pl.DataFrame:
        """Nothing: windows come whole."""
        return pl.DataFrame()


class BestOfRows(Remembering):
    """The best of rows that stay, of which no others are kept."""

    def __init__(self, settings: BestSettings) -> None:
        self._set = settings
        self._stored = [*settings.values, *ORDER]
        self._rows = KeyedRows(settings.keys, {**settings.values, **ORDER_TYPES})
        self._emitted = Emitted(settings.number)
        super().__init__(best=self._rows, emitted=self._emitted)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives what changes among the best."""
        if not frame.height:
            return NOTHING
        time = self._set.time
        ticks = pl.lit(0, dtype=pl.Int64) if time is None else tick_values(frame, time) + self._set.shift
        frame = _with_keys(frame.with_columns(ticks.alias(TIME)), self._set)
        groups = frame.select(list(self._set.keys)).unique()
        places = places_of(frame, groups)
        rows, rank, place = _ranked(places, frame, self._set, () if order_of(frame) is None else ORDER)
        best = rank < self._set.k
        rows, rank, place = rows[best], rank[best], place[best]
        found = self._rows.matching(groups)
        # Of groups that had no rows, those that come are ranked already.
        alone = np.bincount(found.probe, minlength=groups.height)[place] == 0
        frame = frame.select(*self._set.keys, *self._stored)
        made = [self._begun(frame[rows[alone]], rank[alone])]
        if len(found.ids):
            kept = stacked([groups[found.probe], self._rows.get(found.ids)])
            both = pl.concat([kept, frame[rows[~alone]]])
            made.append(self._changed(both, np.concatenate([found.probe, place[~alone]]), found.ids))
        shown = [part for part in made if part is not None]
        return Made(self._emitted.numbered(written_out(pl.concat(shown)))) if shown else NOTHING

    def _begun(self, rows: pl.DataFrame, rank: Places) -> pl.DataFrame | None:
        """Keeps the best rows of groups that had none; gives them."""
        if not rows.height:
            return None
        self._rows.add(rows.select(list(self._set.keys)), rows.select(self._stored))
        ops = np.full(rows.height, INSERT, np.int8)
        return _shown(rows, None, ops, rank, self._set)

    def _changed(self, rows: pl.DataFrame, place: Places, ids: Places) -> pl.DataFrame | None:
        """Keeps the best of what is there and what comes; gives the difference.

        Args:
            rows: What is there, then what comes.
            place: The group of each.
            ids: Those of the rows that are there.
        """
        order, rank, place = _ranked(pl.Series(place), rows, self._set, ORDER)
        old, best = order < len(ids), rank < self._set.k
        self._rows.remove(ids[order[old & ~best]])
        comes = rows[order[best & ~old]]
        self._rows.add(comes.select(list(self._set.keys)), comes.select(self._stored))
        if self._set.rank is None and self._set.k > 1:
            at = np.flatnonzero(old != best)
            ops = np.where(old[at], DELETE, INSERT).astype(np.int8)
            return _shown(rows, order[at], ops, None, self._set)
        before = _counted(place, old)[old]
        spots, was = place * self._set.k, order[old]
        return self._moved(rows, spots[old] + before, was, (spots + rank)[best], order[best])

    def _moved(
        self, rows: pl.DataFrame, spots_before: Places, before: Places, spots_after: Places, after: Places
    ) -> pl.DataFrame | None:
        """The difference between two rankings of rows, which stand at spots."""
        spots = ascending(np.concatenate([spots_before, spots_after]))
        goes, comes = np.full(len(spots), -1), np.full(len(spots), -1)
        goes[np.searchsorted(spots, spots_before)] = before
        comes[np.searchsorted(spots, spots_after)] = after
        other = goes != comes
        spots, goes, comes = spots[other], goes[other], comes[other]
        both = (goes >= 0) & (comes >= 0)
        pairs = np.stack([goes, comes], axis=1).ravel()
        ops = np.stack(
            [np.where(both, UPDATE_BEFORE, DELETE), np.where(both, UPDATE_AFTER, INSERT)], axis=1
        ).ravel()
        there = pairs >= 0
        rank = np.repeat(spots % self._set.k, 2)[there]
        return _shown(rows, pairs[there], ops[there].astype(np.int8), rank, self._set)

    def view(self) -> pl.DataFrame:
        """The best rows of each group."""
        return _best(self._rows.frame(), self._set, ORDER).select(self._set.columns)


class BestOfTable(Remembering):
    """The best rows of a table, all of whose rows are kept."""

    def __init__(self, settings: BestSettings) -> None:
        self._set = settings
        self._members = Members(settings.keys, settings.values, settings.order)
        self._emitted = Emitted(settings.number)
        super().__init__(members=self._members, emitted=self._emitted)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes changes in; gives what changes among the best."""
        if not frame.height:
            return NOTHING
        frame = _with_keys(frame, self._set)
        groups = frame.select(list(self._set.keys)).unique()
        before = self._best(groups)
        signs = 1 - 2 * (frame.get_column(OP) % 2)
        self._members.change(frame.select(list(self._set.keys)), frame, signs)
        after = self._best(groups)
        made = self._by_rank(before, after) if self._set.rank is not None else self._by_row(before, after)
        return NOTHING if made is None else Made(self._emitted.numbered(made))

    def _best(self, groups: pl.DataFrame) -> pl.DataFrame:
        rows = self._members.of(groups)
        place = rows.get_column(PLACE).to_numpy()
        return _best(stacked([groups[place], rows]), self._set, self._set.order, rows.get_column(PLACE))

    def _by_rank(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame | None:
        assert self._set.rank is not None
        spots = [
            frame.get_column(PLACE).to_numpy() * self._set.k + frame.get_column(self._set.rank).to_numpy()
            for frame in (before, after)
        ]
        union = ascending(np.concatenate(spots))
        was, now = (np.isin(union, one, assume_unique=True, kind="sort") for one in spots)
        return differences(before.select(self._set.columns), after.select(self._set.columns), was, now)

    def _by_row(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame | None:
        columns = list(self._set.columns)
        both = pl.concat(
            frame.select(columns).with_columns(pl.lit(sign, dtype=pl.Int64).alias(_COUNT))
            for frame, sign in ((before, -1), (after, 1))
        )
        net = both.group_by(columns).agg(pl.col(_COUNT).sum()).filter(pl.col(_COUNT) != 0).sort(_COUNT)
        if not net.height:
            return None
        counts = net.get_column(_COUNT).to_numpy()
        made = net.select(columns)[np.repeat(np.arange(net.height), np.abs(counts))]
        ops = np.repeat(np.where(counts < 0, DELETE, INSERT).astype(np.int8), np.abs(counts))
        return written_out(made.with_columns(pl.Series(OP, ops)))

    def view(self) -> pl.DataFrame:
        """The best rows of each group."""
        return _best(self._members.frame(), self._set, self._set.order).select(self._set.columns)


def _with_keys(frame: pl.DataFrame, settings: BestSettings) -> pl.DataFrame:
    return frame if settings.per else frame.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))


def _best(
    rows: pl.DataFrame, settings: BestSettings, order: Sequence[str], places: pl.Series | None = None
) -> pl.DataFrame:
    """The best of rows, by group and rank, with ``PLACE`` and the rank."""
    if places is None:
        places = places_of(rows, rows.select(list(settings.keys)).unique(maintain_order=True))
    at, rank, place = _ranked(places, rows, settings, order)
    best = rank < settings.k
    made = rows[at[best]].with_columns(pl.Series(PLACE, place[best]))
    if settings.rank is None:
        return made
    return made.with_columns(pl.Series(settings.rank, rank[best] + 1, RANK_TYPE))


def _ranked(
    places: pl.Series, frame: pl.DataFrame, settings: BestSettings, order: Sequence[str]
) -> tuple[Places, Places, Places]:
    """The rows by group and then from the best on, the rank of each, counted from 0, and its group.

    Args:
        places: The group of each row.
        frame: The rows.
        settings: What they are compared by.
        order: What decides between rows that are equally good; without any it is the order in which they stand.
    """
    compared = stacked(
        [places.alias(PLACE).to_frame(), frame.select(list(dict.fromkeys((*settings.by, *order))))]
    )
    order = [name for name in order if _differs(compared.get_column(name))]
    # The number of the row as a last key is ten times faster than to ask for a stable sort.
    by = [PLACE, *settings.by, *order, _ROW]
    descending = [False, *settings.descending, *(False for name in order), False]
    # As in Polars nulls are never the best, and come first where rows are ordered.
    nulls_last = [False, *(True for name in settings.by), *(False for name in order), False]
    sorted_ = compared.with_row_index(_ROW).select(
        pl.arg_sort_by(by, descending=descending, nulls_last=nulls_last)
    )
    rows = sorted_.to_series().to_numpy().astype(np.int64)
    place = places.to_numpy()[rows]
    return rows, _counted(place, np.ones(len(place), np.bool_)), place


def _counted(place: Places, which: Mask) -> Places:
    """For each row how many of its group stand before it among some of the rows; groups stand together."""
    total: Places = np.cumsum(which) - which
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return np.asarray(total - np.repeat(total[starts], np.diff(starts, append=len(place))))


def _differs(column: pl.Series) -> bool:
    """Whether a column decides anything between rows: what orders rows is often the same for all."""
    return column.dtype not in _SMALL or bool(column.null_count()) or bool(column.min() != column.max())


def _shown(
    rows: pl.DataFrame, at: Places | None, ops: NDArray[np.int8], rank: Places | None, settings: BestSettings
) -> pl.DataFrame | None:
    """Rows of a changelog, as they are given on; ``at`` says which, unless it is all."""
    if not len(ops):
        return None
    made = rows.select(name for name in settings.columns if name != settings.rank)
    if at is not None:
        made = made[at]
    if settings.rank is not None and rank is not None:
        made = made.with_columns(pl.Series(settings.rank, rank + 1, RANK_TYPE)).select(settings.columns)
    return written_out(made.with_columns(pl.Series(OP, ops)))
