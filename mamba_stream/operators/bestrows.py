"""The best rows of each group, of rows that stay: no others are kept, since none of them can ever become one.

What rows are compared by is looked at first, as numbers: a row that is worse than the last that its group keeps is
dropped before anything else is done, and the other columns are touched only of rows that come, go or change their rank.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import polars as pl
from msgspec.structs import replace
from numpy.typing import NDArray

from mamba_stream.core.single import written_out
from mamba_stream.operators.best import RANK_TYPE, BestSettings, best_of, with_keys
from mamba_stream.operators.changes import Emitted
from mamba_stream.operators.columns import (
    DELETE,
    INSERT,
    OP,
    ORDER_TYPES,
    TIME,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    tick_values,
)
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.places import ascending
from mamba_stream.operators.ranking import (
    Codes,
    Ranked,
    all_differ,
    best_of_each,
    codes_of,
    ranked,
    rough_codes,
)
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.rowstore import Mask, Places, picked, room_for, stacked
from mamba_stream.operators.step import NOTHING, Made

_UNKNOWN: Final = (1 << 64) - 1
"""No row is worse than this."""


class _Rivals(NamedTuple):
    """Rows that are there, and such as come, of groups that have both.

    Attributes:
        ids: Those that are there, in the state.
        frame: Those that come.
        rows: Which rows of the frame; they are numbered behind the ``ids``.
    """

    ids: Places
    frame: pl.DataFrame
    rows: Places


class BestOfRows(Remembering):
    """The best of rows that stay, of which no others are kept."""

    def __init__(self, settings: BestSettings) -> None:
        # What tells groups apart is the same for all rows of one.
        told = [place for place, name in enumerate(settings.by) if name not in settings.per]
        self._set = settings = replace(
            settings,
            by=tuple(settings.by[place] for place in told),
            descending=tuple(settings.descending[place] for place in told),
        )
        self._keys = list(settings.keys)
        self._order = [TIME, *settings.origin]
        self._stored = [*settings.values, *self._order]
        self._compared = list(dict.fromkeys((*settings.by, *self._order)))
        order = {TIME: ORDER_TYPES[TIME], **settings.origin}
        self._rows = KeyedRows(settings.keys, {**settings.values, **order})
        self._last = _Last(settings)
        self._emitted = Emitted(settings.number)
        super().__init__(best=self._rows, emitted=self._emitted)

    @property
    def bytes(self) -> int:
        return super().bytes + self._last.bytes

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives what changes among the best."""
        if not frame.height:
            return NOTHING
        frame = self._with_time(frame)
        groups = self._rows.groups(picked(frame, self._keys))
        best = self._best_of_batch(frame, groups)
        if not len(best.rows):
            return NOTHING
        frame = picked(frame, [*self._keys, *self._stored])
        # Of groups that had no rows, those that come are ranked already.
        old = self._rows.has_rows(best.groups)
        made = [self._begun(frame, best.where(~old))]
        if old.any():
            best = best.where(old)
            groups = ascending(best.groups)
            found = self._rows.of(groups)
            rivals = _Rivals(found.ids, frame, best.rows)
            made.append(self._changed(rivals, np.concatenate([groups[found.probe], best.groups])))
        return self._given(made)

    def _with_time(self, frame: pl.DataFrame) -> pl.DataFrame:
        time = self._set.time
        ticks = pl.lit(0, dtype=pl.Int64) if time is None else tick_values(frame, time) + self._set.shift
        return with_keys(frame.with_columns(ticks.alias(TIME)), self._set)

    def _best_of_batch(self, frame: pl.DataFrame, groups: Places) -> Ranked:
        """The rows that may be among the best of their group: none of their batch or of the state rule them out."""
        compared = picked(frame, self._compared)
        rows = self._last.not_worse(compared, groups)
        if rows is not None and not len(rows):
            return Ranked(rows, rows, rows)
        if self._set.k == 1 and self._set.by:
            codes = _all_codes(compared, self._set)
            if rows is not None:
                codes = [code[rows] for code in codes]
            best = best_of_each(groups if rows is None else groups[rows], codes)
            rows = best if rows is None else rows[best]
            if all_differ(groups[rows]):
                return Ranked(rows, np.zeros(len(rows), np.int64), groups[rows])
        if rows is not None:
            compared, groups = compared[rows], groups[rows]
        found = ranked(groups, compared, self._set.by, self._set.descending, self._order)
        found = found.where(found.rank < self._set.k)
        return found if rows is None else found._replace(rows=rows[found.rows])

    def _begun(self, frame: pl.DataFrame, best: Ranked) -> pl.DataFrame | None:
        """Keeps the best rows of groups that had none; gives them."""
        if not len(best.rows):
            return None
        rows = frame[best.rows]
        self._rows.add_to(best.groups, picked(rows, self._stored))
        self._last.learn(frame, best)
        return _shown(rows, np.full(rows.height, INSERT, np.int8), best.rank, self._set)

    def _changed(self, rivals: _Rivals, place: Places) -> pl.DataFrame | None:
        """Keeps the best of what is there and what comes; gives the difference.

        Args:
            rivals: The rows.
            place: The group of each.
        """
        ids = rivals.ids
        compared = pl.concat(
            [self._rows.columns(self._compared, ids), picked(rivals.frame, self._compared)[rivals.rows]]
        )
        found = ranked(place, compared, self._set.by, self._set.descending, self._order)
        self._last.learn(compared, found)
        order, rank, place = found
        old, best = order < len(ids), rank < self._set.k
        goes, comes = old & ~best, best & ~old
        if not comes.any():
            return None
        if self._set.rank is None and self._set.k > 1:
            at = np.flatnonzero(old != best)
            ops = np.where(old[at], DELETE, INSERT).astype(np.int8)
            made = _shown(self._wide(rivals, order[at]), ops, None, self._set)
        else:
            before = _counted(place, old)[old]
            spots = place * self._set.k
            made = self._moved(rivals, spots[old] + before, order[old], (spots + rank)[best], order[best])
        self._replace(
            ids[order[goes]], place[goes], rivals.frame[rivals.rows[order[comes] - len(ids)]], place[comes]
        )
        return made

    def _replace(self, goes: Places, places: Places, comes: pl.DataFrame, groups: Places) -> None:
        """Puts rows that come in the place of those that go, of which their group has no more; adds the others.

        Args:
            goes: The ids of those that go, by group.
            places: The group of each.
            comes: The rows that come, by group.
            groups: The group of each.
        """
        rows = picked(comes, self._stored)
        taken = np.searchsorted(groups, places) + _counted(places, np.ones(len(places), np.bool_))
        if len(taken):
            self._rows.update(goes, rows if len(taken) == len(groups) else rows[taken])
        more = np.delete(np.arange(len(groups)), taken)
        if len(more):
            self._rows.add_to(groups[more], rows[more])

    def _moved(
        self, rivals: _Rivals, spots_before: Places, before: Places, spots_after: Places, after: Places
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
        return _shown(self._wide(rivals, pairs[there]), ops[there].astype(np.int8), rank, self._set)

    def _wide(self, rivals: _Rivals, at: Places) -> pl.DataFrame:
        """Some of the rows, with all columns."""
        old = at < len(rivals.ids)
        ids, rows = rivals.ids[at[old]], rivals.rows[at[~old] - len(rivals.ids)]
        there = stacked([self._rows.keys_of(ids), self._rows.get(ids)])
        back = np.empty(len(at), np.int64)
        back[np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)])] = np.arange(len(at))
        return pl.concat([there, rivals.frame[rows]])[back]

    def _given(self, made: list[pl.DataFrame | None]) -> Made:
        shown = [part for part in made if part is not None]
        if not shown:
            return NOTHING
        return Made(self._emitted.numbered(shown[0] if len(shown) == 1 else written_out(pl.concat(shown))))

    def view(self) -> pl.DataFrame:
        """The best rows of each group."""
        return best_of(self._rows.frame(), self._set, self._order).select(self._set.columns)


class _Last:
    """How good the last row is that a group keeps once it has as many as it may, by the first column to compare by."""

    def __init__(self, settings: BestSettings) -> None:
        self._k = settings.k
        self._by = settings.by[0] if settings.by else None
        self._descending = settings.descending[:1] == (True,)
        self._of = np.zeros(0, np.uint64)

    @property
    def bytes(self) -> int:
        return self._of.nbytes

    def not_worse(self, compared: pl.DataFrame, groups: Places) -> Places | None:
        """The rows that are not worse than it; ``None`` for all."""
        if self._by is None or not len(self._of):
            return None
        codes = rough_codes(compared.get_column(self._by), descending=self._descending)
        assert codes is not None
        known = groups < len(self._of)
        last = (
            self._of[groups]
            if known.all()
            else np.where(known, self._of[np.where(known, groups, 0)], _UNKNOWN)
        )
        worse = codes > last
        return np.flatnonzero(~worse) if worse.any() else None

    def learn(self, frame: pl.DataFrame, found: Ranked) -> None:
        """Takes note of the best rows of groups."""
        last = found.where(found.rank == self._k - 1)
        if self._by is None or not len(last.rows):
            return
        codes = rough_codes(frame.get_column(self._by).gather(last.rows), descending=self._descending)
        if codes is not None:
            self._of = room_for(self._of, int(last.groups.max()) + 1, fill=_UNKNOWN)
            self._of[last.groups] = codes


def _all_codes(compared: pl.DataFrame, settings: BestSettings) -> list[Codes]:
    return [
        code
        for name, greatest in zip(settings.by, settings.descending, strict=True)
        for code in codes_of(compared.get_column(name), descending=greatest)
    ]


def _counted(place: Places, which: Mask) -> Places:
    """For each row how many of its group stand before it among some of the rows; groups stand together."""
    total: Places = np.cumsum(which) - which
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    return np.asarray(total - np.repeat(total[starts], np.diff(starts, append=len(place))))


def _shown(
    rows: pl.DataFrame, ops: NDArray[np.int8], rank: Places | None, settings: BestSettings
) -> pl.DataFrame | None:
    """Rows of a changelog, as they are given on."""
    if not len(ops):
        return None
    columns = {name: rows.get_column(name) for name in settings.columns if name != settings.rank}
    if settings.rank is not None and rank is not None:
        columns[settings.rank] = pl.Series(settings.rank, rank + 1, RANK_TYPE)
    return written_out(pl.DataFrame([*(columns[name] for name in settings.columns), pl.Series(OP, ops)]))
