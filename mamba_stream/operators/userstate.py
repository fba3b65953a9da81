"""What a user's function remembers by key, as it sees it: read and written a batch at a time.

What a call writes is kept aside until the call is over: a call that raises leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import polars as pl

from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.places import ascending
from mamba_stream.operators.rowstore import Mask
from mamba_stream.operators.usercall import Hold
from mamba_stream.operators.userkeys import CallKeys


class State:
    """What is remembered for each key: the columns that ``state=`` names.

    A key that nothing is remembered for has nulls.
    """

    def __init__(
        self,
        table: KeyedTable,
        keys: CallKeys,
        schema: Mapping[str, pl.DataType],
        ttl: int | None,
        hold: Hold,
    ) -> None:
        self._hold = hold
        self._table = table
        self._keys = keys
        self._schema = dict(schema)
        self._ttl = ttl
        self._written: list[tuple[Slots, pl.DataFrame | None]] = []

    def __repr__(self) -> str:
        return f"State({', '.join(f'{name}: {dtype}' for name, dtype in self._schema.items())})"

    def get(self, rows: pl.DataFrame) -> pl.DataFrame:
        """What is remembered for the key of each row: the columns of the state, a row for each row.

        Args:
            rows: A frame with the key columns: the rows of the call, ``timers.fired``, or made of them.
        """
        with self._reached("get"):
            return self._at(self._keys.slots(rows, "state.get"))

    def put(self, rows: pl.DataFrame) -> None:
        """Remembers the columns of the state that the frame has, for the key of each row; others stay as they are.

        Args:
            rows: A frame with the key columns, a row for each key; what else it has is not looked at.
        """
        with self._reached("put"):
            slots = self._keys.distinct(rows, "state.put")
            given = [name for name in self._schema if name in rows.columns]
            if not given:
                raise SchemaMismatch(
                    f"state.put: the frame has none of the columns {', '.join(self._schema)}"
                )
            values = pl.DataFrame([_fitting(rows.get_column(name), self._schema[name]) for name in given])
            if len(given) < len(self._schema):
                values = self._at(slots).with_columns(values.get_columns())
            self._written.append((slots, values))

    def delete(self, rows: pl.DataFrame) -> None:
        """Forgets what is remembered for the keys of these rows.

        Args:
            rows: A frame with the key columns.
        """
        with self._reached("delete"):
            self._written.append((ascending(self._keys.slots(rows, "state.delete")), None))

    def _reached(self, verb: str) -> AbstractContextManager[None]:
        if not self._schema:
            raise InvalidInput(f"state.{verb}: process was given no state=, such as {{'total': pl.Int64}}")
        return self._hold.kept(f"state.{verb}")

    def _at(self, slots: Slots) -> pl.DataFrame:
        found = self._table.get(np.where(self._there(slots), slots, -1))
        if not self._written:
            return found
        frames, place = [found, found.clear(1)], np.arange(len(slots))
        for written, values in self._written:
            order = np.argsort(written)
            at = np.minimum(np.searchsorted(written, slots, sorter=order), max(len(written) - 1, 0))
            here = written[order[at]] == slots if len(written) else np.zeros(len(slots), np.bool_)
            if values is None:
                place[here] = len(slots)
            else:
                place[here] = sum(frame.height for frame in frames) + order[at][here]
                frames.append(values)
        return pl.concat(frames)[place]

    def _there(self, slots: Slots) -> Mask:
        """Where something is remembered, at the time at which each key is: it may be over, and not yet removed."""
        there = self._table.present(slots)
        if self._ttl is None or not there.any():
            return there
        at = slots[there]
        there[there] = self._table.times(at) + self._ttl >= self._keys.times(at)
        return there

    # -- for the step ----------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """The call is over: what it wrote counts."""
        if len(self._written) == 1:
            [(slots, values)] = self._written
            self._keep(slots, values)
        elif self._written:
            slots = np.concatenate([slots for slots, _ in self._written])
            numbers = np.repeat(np.arange(len(self._written)), [len(slots) for slots, _ in self._written])
            places = np.concatenate([np.arange(len(slots)) for slots, _ in self._written])
            # Of each key, the last that was done to it.
            _, last = np.unique(slots[::-1], return_index=True)
            last = len(slots) - 1 - last
            for number, (of, values) in enumerate(self._written):
                mine = np.sort(places[last[numbers[last] == number]])
                self._keep(of[mine], None if values is None else values[mine])
        self._written = []

    def _keep(self, slots: Slots, values: pl.DataFrame | None) -> None:
        if values is not None:
            self._table.put(slots, values, self._keys.times(slots) if self._ttl is not None else None)
        else:
            self._table.clear(slots)


def _fitting(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """A column in the type of the state, where that loses nothing or fails."""
    have: Any = column.dtype
    wider = (have.is_integer() and dtype.is_integer()) or (have.is_numeric() and dtype.is_float())
    if have != dtype and not wider and have != pl.Null:
        raise SchemaMismatch(f"state.put: column {column.name!r} is {have}, and state= says {dtype}")
    return column if have == dtype else column.cast(dtype)
