"""The keys of one call of a user's function: which there are, and at what time each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import ColumnNotFound, InvalidInput, SchemaMismatch
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.lateness import Ticks
from mamba_stream.operators.rowstore import picked, room_for


class CallKeys:
    """Keys by slot, with the time of the row or timer for which each is in the call."""

    def __init__(self, table: KeyedTable, keys: Mapping[str, pl.DataType]) -> None:
        self._table = table
        self._schema = dict(keys)
        self._names = list(keys)
        self._call_of: Ticks = np.zeros(0, np.int64)
        self._time_of: Ticks = np.zeros(0, np.int64)
        self._seen: Ticks = np.zeros(0, np.int64)
        self._call = 0

    @property
    def bytes(self) -> int:
        return self._call_of.nbytes + self._time_of.nbytes + self._seen.nbytes

    def begin(self, slots: Slots, times: Ticks) -> None:
        """A call begins, with these keys; of a key that comes several times the last time counts."""
        self._call += 1
        if len(slots):
            top = int(slots.max()) + 1
            self._call_of, self._time_of = room_for(self._call_of, top), room_for(self._time_of, top)
            self._call_of[slots] = self._call
            self._time_of[slots] = times

    def times(self, slots: Slots) -> Ticks:
        """The times of keys of the call."""
        return self._time_of[slots]

    def slots(self, frame: Any, what: str) -> Slots:
        """The slot of the key of each row.

        Args:
            frame: What the user passed: rows with the key columns.
            what: What they called, for messages.

        Raises:
            InvalidInput: It is no frame, lacks a key column, or has keys that this call is not about.
        """
        if not isinstance(frame, pl.DataFrame):
            raise InvalidInput(
                f"{what} takes a pl.DataFrame with the key columns, not {type(frame).__name__}"
            )
        for name, dtype in self._schema.items():
            if name not in frame.columns:
                raise ColumnNotFound(
                    f"{what}: the frame lacks key column {name!r}{did_you_mean(name, frame.columns)}"
                )
            if frame.schema[name] != dtype:
                raise SchemaMismatch(
                    f"{what}: key column {name!r} is {frame.schema[name]}, and has to be {dtype}"
                )
        found = self._table.slots(picked(frame, self._names))
        known = (found >= 0) & (found < len(self._call_of))
        if not known.all() or not (self._call_of[found] == self._call).all():
            known[known] = self._call_of[found[known]] == self._call
            stranger = frame.select(self._names).row(int(np.argmin(known)), named=True)
            raise InvalidInput(
                f"{what}: the key {stranger} is neither among the rows nor among the timers of this call: keys are "
                "independent of each other, and other ones may be elsewhere"
            )
        return found

    def distinct(self, frame: Any, what: str) -> Slots:
        """As :meth:`slots`, of keys that come once each.

        Raises:
            InvalidInput: A key comes twice.
        """
        found = self.slots(frame, what)
        self._seen = room_for(self._seen, len(self._call_of))
        numbers = np.arange(len(found))
        self._seen[found] = numbers
        if (self._seen[found] != numbers).any():
            twice = (
                frame.select(self._names).filter(pl.struct(self._names).is_duplicated()).row(0, named=True)
            )
            raise InvalidInput(
                f"{what}: the key {twice} comes several times: pass one row for each key, as "
                ".group_by(keys, maintain_order=True).last() gives it"
            )
        return found
