"""The latest row of each key, as a changelog: of rows by the order of the stream, of a log of changes as it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.operators.changes import OP_COLUMN, Emitted, check_words, differences
from mamba_stream.operators.columns import (
    OFFSET,
    ORDER,
    ORDER_TYPES,
    ORDINAL,
    PARTITION,
    SOURCE,
    TIME,
    comes_later,
    hidden,
    tick_values,
)
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.rowstore import Mask, Places, picked, stacked
from mamba_stream.operators.step import NOTHING, Made

_FEW = 16_384
"""Rows up to which sorting them is cheaper than an array with a cell for each slot there is."""


class LatestSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a table is told by the plan.

    Attributes:
        keys: The key columns and their types.
        values: The other columns.
        columns: All of them, in order.
        log: Whether the rows are a log of changes, with ``_op``.
        time: The time column, where there is one and it counts.
        shift: Ticks to add to it.
        number: The step's own number, where a later step needs the origin of the rows it makes.
    """

    keys: Mapping[str, pl.DataType]
    values: Mapping[str, pl.DataType]
    columns: tuple[str, ...]
    log: bool
    time: str | None
    shift: int
    number: int | None


class Latest(Remembering):
    """A table of the latest rows, and what rows do to it."""

    adds_whole = True

    def __init__(self, settings: LatestSettings) -> None:
        self._set = settings
        self._keys = list(settings.keys)
        order = {} if settings.log else ORDER_TYPES
        self._table = KeyedTable(settings.keys, {**settings.values, **order})
        self._stored = [*settings.values, *order]
        self._emitted = Emitted(settings.number)
        super().__init__(latest=self._table, emitted=self._emitted)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives the keys whose latest row is another now."""
        if not frame.height:
            return NOTHING
        if self._set.log:
            check_words(frame.get_column(OP_COLUMN))
        slots = self._table.slots(frame.select(self._keys), insert=True)
        frame = frame if self._set.log else self._with_time(frame)
        last = _last_of_each(slots, None if self._set.log else order_of(frame))
        if len(last) < frame.height:
            frame, slots = frame[last], slots[last]
        known = self._table.present(slots)
        if not self._set.log and known.any():
            later = self._later(frame, slots, known)
            if not later.all():
                frame, slots, known = frame.filter(later), slots[later], known[later]
        brings = self._brings(frame)
        old = stacked([frame.select(self._keys).filter(known), self._table.get(slots[known])])
        new = frame.filter(brings)
        made = differences(old.select(self._set.columns), new.select(self._set.columns), known, brings)
        self._table.put(slots[brings], new.select(self._stored))
        self._table.remove(slots[~brings])
        return NOTHING if made is None else Made(self._emitted.numbered(made))

    def _with_time(self, frame: pl.DataFrame) -> pl.DataFrame:
        time = self._set.time
        ticks = pl.lit(0, dtype=pl.Int64) if time is None else tick_values(frame, time) + self._set.shift
        return frame.with_columns(ticks.alias(TIME))

    def _later(self, frame: pl.DataFrame, slots: Slots, known: Mask) -> Mask:
        """Which rows come behind the one that their key has, in the order of the stream; all of new keys do."""
        found = np.ones(len(slots), np.bool_)
        found[known] = comes_later(frame.filter(known), self._table.get(slots[known]))
        return found

    def _brings(self, frame: pl.DataFrame) -> Mask:
        """Which rows are a key's row, and do not say that it has none."""
        if not self._set.log:
            return np.ones(frame.height, np.bool_)
        return frame.get_column(OP_COLUMN).is_in(["+I", "+U"]).to_numpy()

    def view(self) -> pl.DataFrame:
        """The latest row of each key, in the order of keys."""
        return self._table.frame().select(self._set.columns)


class Retold(Remembering):
    """A changelog that has the key of the table that is asked for already; it remembers nothing."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self._columns = columns

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Gives the rows on."""
        return Made(picked(frame, [*self._columns, *hidden(frame)]))

    def view(self) -> pl.DataFrame:
        """Nothing: the step before has the table."""
        return pl.DataFrame()


def order_of(frame: pl.DataFrame) -> NDArray[np.int64] | None:
    """The rows in the order of the stream; ``None`` where they are in order."""
    if frame.get_column(TIME).is_sorted() and frame.get_column(OFFSET).is_sorted():
        same = all(
            frame.get_column(name).min() == frame.get_column(name).max() for name in (SOURCE, PARTITION)
        )
        if same and frame.get_column(ORDINAL).max() == 0:
            return None
    return frame.select(pl.arg_sort_by(ORDER)).to_series().to_numpy().astype(np.int64)


def _last_of_each(slots: Slots, order: Places | None) -> Places:
    """The last row of each slot, in any order of rows; ascending."""
    given = slots if order is None else slots[order]
    if len(slots) <= _FEW:
        _, place = np.unique(given[::-1], return_index=True)
        last = len(given) - 1 - place
    else:
        at = np.empty(int(slots.max()) + 1, np.int64)
        rows = np.arange(len(given))
        # Of several values for one cell, numpy keeps the last.
        at[given] = rows
        last = rows[at[given] == rows]
    return np.sort(last if order is None else order[last])
