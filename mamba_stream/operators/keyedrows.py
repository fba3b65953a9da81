"""Keyed state, many rows for each key, in the order in which they came: the sides of joins, queues, histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.blocks import Blocks
from mamba_stream.operators.expiry import DueTimes
from mamba_stream.operators.keyed import REMOVED, ROWS, TOUCHED, checked_names
from mamba_stream.operators.keyindex import KeyIndex, Slots
from mamba_stream.operators.lateness import Ticks
from mamba_stream.operators.places import Marks, Numbering
from mamba_stream.operators.rowstore import Places, RowStore, room_for, stacked

ROW: Final = "__mamba_row"
"""The number of a row in the state: it rises in the order of adding, and outlives a restart."""


class Matches(NamedTuple):
    """Which stored rows have the keys of which rows of a probe.

    Attributes:
        probe: Row numbers of the probe, ascending, each as often as its key has rows.
        ids: The stored rows; those of one probe row in the order in which they were added.
    """

    probe: Places
    ids: Places


class KeyedRows:
    """Any number of rows for each key.

    A row has an id until it is removed; then another row may get it: ids are not for keeping.

    Example:
        >>> rows = KeyedRows({"user": pl.String()}, {"page": pl.Int64()})
        >>> ids = rows.add(pl.DataFrame({"user": ["ann", "bob", "ann"]}), pl.DataFrame({"page": [1, 2, 3]}))
        >>> found = rows.matching(pl.DataFrame({"user": ["eve", "ann"]}))
        >>> found.probe.tolist(), rows.get(found.ids).to_series().to_list()
        ([1, 1], [1, 3])
        >>> rows.remove(found.ids[:1])
        >>> rows.frame().rows()
        [('bob', 2), ('ann', 3)]
    """

    def __init__(
        self,
        keys: Mapping[str, pl.DataType],
        values: Mapping[str, pl.DataType],
        *,
        timed: bool = False,
        index: KeyIndex | None = None,
    ) -> None:
        """No rows.

        Args:
            keys: The key columns.
            values: The value columns.
            timed: Whether each row has a time, by which it can expire.
            index: An empty index of the same keys, where not the usual one.

        Raises:
            InvalidInput: There is no key column, or a name stands twice or is one of the engine's own.
        """
        checked_names(keys, values, [TOUCHED, ROW])
        self._index = index or KeyIndex(keys)
        self._key_names = list(keys)
        self._values = RowStore(values)
        self._blocks = Blocks()
        self._marks = Marks()
        self._ids = Numbering()
        self._unlisted: list[Places] = []
        self._slot = np.zeros(0, np.int32)
        self._number = np.zeros(0, np.int64)
        self._next_number = 0
        self._removed: list[Places] = []
        self._times = DueTimes() if timed else None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._marks.live

    @property
    def keys(self) -> int:
        """How many keys have rows."""
        return self._index.rows

    @property
    def bytes(self) -> int:
        """The memory that the rows take, the room for more included."""
        parts = (self._index, self._values, self._blocks, self._marks, self._ids)
        arrays: tuple[NDArray[Any], ...] = (self._slot, self._number, *self._removed, *self._unlisted)
        times = 0 if self._times is None else self._times.bytes
        return sum(part.bytes for part in parts) + times + sum(array.nbytes for array in arrays)

    def add(self, keys: pl.DataFrame, frame: pl.DataFrame, times: Ticks | None = None) -> Places:
        """Adds rows, each behind those that its key has.

        Args:
            keys: The key columns, in their order.
            frame: The values, one row for each key.
            times: If the rows are timed, the time of each, in ticks.

        Returns:
            The id of each row.

        Raises:
            InvalidInput: The columns are not those of the state.
        """
        return self.add_to(self.groups(keys), frame, times)

    def groups(self, keys: pl.DataFrame) -> Slots:
        """Numbers for keys, the same for equal ones; a key keeps its number for as long as it has rows.

        Args:
            keys: The key columns, in their order. One that has no rows should be given some.
        """
        return self._index.slots(keys, insert=True)

    def add_to(self, groups: Slots, frame: pl.DataFrame, times: Ticks | None = None) -> Places:
        """The same as ``add`` for keys by their numbers."""
        for ids in self._unlisted:
            self._ids.give_back(ids)
        self._unlisted = []
        numbers = np.arange(self._next_number, self._next_number + len(groups))
        return self._add(groups, frame, times, numbers, saved=False)

    def matching(self, keys: pl.DataFrame) -> Matches:
        """The rows that have these keys.

        Args:
            keys: The key columns, in their order; a key may come several times.
        """
        slots = self._index.slots(keys)
        known = np.flatnonzero(slots >= 0)
        found = self.of(slots[known])
        return Matches(known[found.probe], found.ids)

    def of(self, groups: Slots) -> Matches:
        """The rows of keys by their numbers."""
        probe, ids = self._blocks.of(groups)
        lives = self._marks.lives(ids)
        return Matches(probe, ids) if lives.all() else Matches(probe[lives], ids[lives])

    def get(self, ids: Places) -> pl.DataFrame:
        """The values of rows, in any order and as often."""
        return self._values.take(ids)

    def has_rows(self, groups: Slots) -> NDArray[np.bool_]:
        """Which keys, by their numbers, have rows."""
        return self._blocks.counts(groups) > 0

    def columns(self, names: Sequence[str], ids: Places) -> pl.DataFrame:
        """Some columns of the values of rows."""
        return pl.DataFrame([self._values.column(name, ids) for name in names])

    def keys_of(self, ids: Places) -> pl.DataFrame:
        """The keys of rows."""
        return self._index.keys(self._slots_of(ids))

    def times(self, ids: Places) -> Ticks:
        """The times of rows, where they are timed."""
        assert self._times is not None
        return self._times.of(ids)

    def update(self, ids: Places, frame: pl.DataFrame) -> None:
        """Overwrites the values of distinct rows; they keep their place and time."""
        self._values.put(ids, frame)
        self._marks.put(ids)

    def remove(self, ids: Places) -> None:
        """Removes distinct rows."""
        if not len(ids):
            return
        saved = ids[self._marks.drop(ids)]
        if len(saved):
            self._removed.append(self._number[saved])
        self._values.forget(ids)
        if self._times is not None:
            self._times.forget(ids)
        unlisted, empty = self._blocks.drop(self._slots_of(ids), self._marks)
        # Ids are not given out again while restoring: so rows keep the order of their numbers there.
        self._unlisted.append(unlisted)
        self._index.remove(empty)

    def expire(self, before: int) -> pl.DataFrame:
        """Removes the rows with times before the bound; costs what it removes.

        Args:
            before: The bound, in ticks; a row of exactly this time stays.

        Returns:
            The rows that were removed, keys and values and ``TOUCHED``, in the order of time, then of adding.
        """
        assert self._times is not None
        ids = self._times.due(before)
        ids = ids[np.lexsort((self._number[ids], self._times.of(ids)))]
        frame = self._at(ids).drop(ROW)
        self.remove(ids)
        return frame

    def frame(self) -> pl.DataFrame:
        """All rows, keys and values, in the order in which they were added."""
        return self._at(self._by_number(self._marks.all())).select(
            self._key_names + list(self._values.schema)
        )

    def delta(self) -> dict[str, pl.DataFrame]:
        """What changed since the last delta or snapshot: the numbers of rows that went, and rows that are new."""
        parts = {}
        if self._removed:
            parts[REMOVED] = pl.DataFrame({ROW: np.concatenate(self._removed)})
            self._removed = []
        changed = self._marks.changed()
        if len(changed):
            parts[ROWS] = self._at(self._by_number(changed))
        return parts

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All rows."""
        self._removed = []
        self._marks.all_saved()
        return {ROWS: self._at(self._by_number(self._marks.all()))} if self.rows else {}

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back a part of a delta or snapshot; nothing was added otherwise before.

        Raises:
            InvalidInput: The frame's columns are not those of the state.
        """
        numbers = frame.get_column(ROW).to_numpy()
        ids = self._numbered(numbers)
        if part == REMOVED:
            self.remove(ids[ids >= 0])
            self._removed = []
            return
        known = ids >= 0
        if known.any():
            self._values.put(ids[known], frame.filter(known))
            frame, numbers = frame.filter(~known), numbers[~known]
        times = frame.get_column(TOUCHED).to_numpy() if self._times is not None else None
        slots = self._index.slots(frame.select(self._key_names), insert=True)
        self._add(slots, frame, times, numbers, saved=True)

    def _add(
        self, slots: Slots, frame: pl.DataFrame, times: Ticks | None, numbers: Places, *, saved: bool
    ) -> Places:
        assert (times is None) == (self._times is None), "timed rows need times, and only they"
        if self._values.schema and frame.height != len(slots):
            raise SchemaMismatch(f"{frame.height} rows came with {len(slots)} keys")
        ids = self._ids.take(len(slots))
        if not len(ids):
            return ids
        self._values.put(ids, frame)
        self._slot = room_for(self._slot, self._ids.top)
        self._number = room_for(self._number, self._ids.top)
        self._slot[ids], self._number[ids] = slots, numbers
        self._next_number = int(numbers[-1]) + 1
        self._blocks.add(slots, ids)
        self._marks.put(ids, saved=saved)
        if self._times is not None and times is not None:
            self._times.put(ids, times)
        return ids

    def _slots_of(self, ids: Places) -> Slots:
        return self._slot[ids].astype(np.int64)

    def _by_number(self, ids: Places) -> Places:
        return ids[np.argsort(self._number[ids], kind="stable")]

    def _numbered(self, numbers: Places) -> Places:
        """The ids of rows by their numbers while restoring; -1 where there is no such row."""
        known = self._number[: self._ids.top]
        if not len(known):
            return np.full(len(numbers), -1)
        ids = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        return np.where((known[ids] == numbers) & self._marks.lives(ids), ids, -1)

    def _at(self, ids: Places) -> pl.DataFrame:
        """Keys, values, times and numbers of rows."""
        parts = [self.keys_of(ids), self._values.take(ids), pl.DataFrame({ROW: self._number[ids]})]
        if self._times is not None:
            parts.append(pl.DataFrame({TOUCHED: self._times.of(ids)}))
        return stacked(parts)
