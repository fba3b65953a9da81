"""The best rows of each group: of whole windows at once, of tables as a changelog.

Of a table all rows are kept: what is taken away makes room for the next. Rows that stay have a module of their own
(:mod:`mamba_stream.operators.bestrows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.changes import Emitted, differences
from mamba_stream.operators.columns import DELETE, INSERT, OP, PREFIX
from mamba_stream.operators.members import PLACE, Members, places_of
from mamba_stream.operators.places import ascending
from mamba_stream.operators.ranking import ranked
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.rowstore import stacked
from mamba_stream.operators.step import NOTHING, Made

_ALL: Final = f"{PREFIX}all"
_COUNT: Final = f"{PREFIX}count"

RANK_TYPE: Final = pl.Int64()


class BestSettings(msgspec.Struct, frozen=True, kw_only=True):
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
        origin: Of rows, the columns that say where they are from: what decides behind their time.
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
    origin: Mapping[str, pl.DataType]
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
        found = ranked(places.to_numpy(), frame, self._set.by, self._set.descending)
        best = found.where(found.rank < self._set.k)
        back = np.argsort(best.rows)
        made = frame[best.rows[back]]
        if self._set.rank is not None:
            made = made.with_columns(pl.Series(self._set.rank, best.rank[back] + 1, RANK_TYPE))
        return Made(written_out(made))

    def view(self) -> pl.DataFrame:
        """Nothing: windows come whole."""
        return pl.DataFrame()


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
        frame = with_keys(frame, self._set)
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
        return best_of(stacked([groups[place], rows]), self._set, self._set.order, rows.get_column(PLACE))

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
        return best_of(self._members.frame(), self._set, self._set.order).select(self._set.columns)


def with_keys(frame: pl.DataFrame, settings: BestSettings) -> pl.DataFrame:
    """The rows with the columns that tell groups apart in the state."""
    return frame if settings.per else frame.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))


def best_of(
    rows: pl.DataFrame, settings: BestSettings, order: Sequence[str], places: pl.Series | None = None
) -> pl.DataFrame:
    """The best of rows, by group and rank, with ``PLACE`` and the rank."""
    if places is None:
        places = places_of(rows, rows.select(list(settings.keys)).unique(maintain_order=True))
    found = ranked(places.to_numpy(), rows, settings.by, settings.descending, order)
    best = found.where(found.rank < settings.k)
    made = rows[best.rows].with_columns(pl.Series(PLACE, best.groups))
    if settings.rank is None:
        return made
    return made.with_columns(pl.Series(settings.rank, best.rank + 1, RANK_TYPE))
