"""Keyed state, one row for each key: running totals, tables, what was seen, the fields of a user's function.

An operator turns a batch's keys into slots once, reads and writes rows by slot, and lets go of keys whose time is
over. It sees nothing of where the rows are, so that they can leave memory later. A commit costs what changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from mamba_stream.errors import InvalidInput
from mamba_stream.operators.expiry import DueTimes
from mamba_stream.operators.grouping import ordered
from mamba_stream.operators.keyindex import KeyIndex, Slots
from mamba_stream.operators.lateness import Ticks
from mamba_stream.operators.places import Marks, ascending
from mamba_stream.operators.rowstore import Mask, RowStore, stacked

TOUCHED: Final = "__mamba_touched"
"""The time by which a row expires, in ticks, where rows are given out or saved with their time."""

ROWS: Final = "rows"
REMOVED: Final = "removed"


class KeyedTable:
    """At most one row of values for each key.

    ``slots`` with ``insert`` reserves a slot for a key; the key counts once something was ``put`` there. A slot
    belongs to its key until that is removed, after which another key may get it: slots are not for keeping.

    Example:
        >>> table = KeyedTable({"user": pl.String()}, {"clicks": pl.Int64()})
        >>> slots = table.slots(pl.DataFrame({"user": ["ann", "bob"]}), insert=True)
        >>> table.put(slots, pl.DataFrame({"clicks": [3, 1]}))
        >>> found = table.slots(pl.DataFrame({"user": ["bob", "eve"]}))
        >>> table.get(found).to_series().to_list(), table.present(found).tolist()
        ([1, None], [True, False])
        >>> {part: frame.height for part, frame in table.delta().items()}
        {'rows': 2}
        >>> table.remove(found[:1])
        >>> table.frame().rows(), table.delta()["removed"].rows()
        ([('ann', 3)], [('bob',)])
    """

    def __init__(
        self,
        keys: Mapping[str, pl.DataType],
        values: Mapping[str, pl.DataType],
        *,
        timed: bool = False,
        index: KeyIndex | None = None,
    ) -> None:
        """An empty table.

        Args:
            keys: The key columns.
            values: The value columns; there may be none.
            timed: Whether each row has a time, by which it can expire.
            index: An empty index of the same keys, where not the usual one.

        Raises:
            InvalidInput: There is no key column, or a name stands twice or is one of the engine's own.
        """
        checked_names(keys, values, [TOUCHED])
        self._index = index or KeyIndex(keys)
        self._key_names = list(keys)
        self._values = RowStore(values)
        self._marks = Marks()
        self._removed: list[pl.DataFrame] = []
        self._times = DueTimes() if timed else None

    @property
    def rows(self) -> int:
        """How many keys have a row."""
        return self._marks.live

    @property
    def bytes(self) -> int:
        """The memory that the table takes, the room for more rows included."""
        times = 0 if self._times is None else self._times.bytes
        removed = sum(int(keys.estimated_size()) for keys in self._removed)
        return self._index.bytes + self._values.bytes + self._marks.bytes + times + removed

    def slots(self, keys: pl.DataFrame, *, insert: bool = False) -> Slots:
        """The slot of each key, -1 where it has none; with ``insert``, each gets one.

        Args:
            keys: The key columns, in their order; a key may come several times.
            insert: Whether unknown keys get slots. Something should be put there.

        Raises:
            InvalidInput: The columns are not the key's.
        """
        return self._index.slots(keys, insert=insert)

    def keys(self, slots: Slots) -> pl.DataFrame:
        """The keys of slots."""
        return self._index.keys(slots)

    def present(self, slots: Slots) -> Mask:
        """Which slots have a row."""
        return self._marks.lives(slots)

    def get(self, slots: Slots) -> pl.DataFrame:
        """The values at slots, in any order and as often; nulls where there is no row, or the slot is -1."""
        return self._values.take(slots, self._marks.lives(slots))

    def times(self, slots: Slots) -> Ticks:
        """The times of the rows at slots that have one; the table has to be timed."""
        assert self._times is not None
        return self._times.of(slots)

    @property
    def soonest(self) -> int | None:
        """No row of a timed table has a time before this; ``None`` where there is none."""
        return self._times.soonest if self._times is not None and self.rows else None

    def put(self, slots: Slots, frame: pl.DataFrame, times: Ticks | None = None) -> None:
        """Writes rows; what was there is overwritten.

        Args:
            slots: Distinct slots of keys.
            frame: The values, one row for each slot.
            times: In a timed table, when each row was last of use, in ticks.

        Raises:
            SchemaMismatch: The frame's columns or length are not right.
        """
        assert (times is None) == (self._times is None), "a timed table needs times, and only that"
        self._write(slots, frame, times, saved=False)

    def remove(self, slots: Slots) -> None:
        """Removes the keys at distinct slots, whether they have a row or not."""
        if len(slots):
            self.clear(slots)
            self._index.remove(slots)

    def unreserve(self, slots: Slots) -> None:
        """Removes the keys at slots that have no row: nothing is to be put there after all."""
        unused = slots[(slots >= 0) & ~self._marks.lives(slots)]
        if len(unused):
            self.remove(ascending(unused))

    def clear(self, slots: Slots) -> None:
        """Removes the rows of keys at distinct slots, which they keep until they are removed themselves."""
        live = slots[self._marks.lives(slots)]
        saved = live[self._marks.drop(live)]
        if len(saved):
            self._removed.append(self._index.keys(saved))
        self._values.forget(live)
        if self._times is not None:
            self._times.forget(live)

    def expire(self, before: int) -> pl.DataFrame:
        """Removes the rows with times before the bound; costs what it removes.

        Args:
            before: The bound, in ticks; a row of exactly this time stays.

        Returns:
            The rows that were removed, keys and values and ``TOUCHED``, in the order of time and key.
        """
        assert self._times is not None
        slots = self._times.due(before)
        frame = self._at(slots)
        self.remove(slots)
        return frame.sort([TOUCHED, *self._key_names])

    def frame(self) -> pl.DataFrame:
        """All rows, keys and values, in the order of keys, nulls first."""
        frame = self._at(self._marks.all())
        return ordered(frame.drop(TOUCHED) if self._times is not None else frame, self._key_names)

    def delta(self) -> dict[str, pl.DataFrame]:
        """What changed since the last delta or snapshot: keys that were removed, and the rows that are new."""
        parts = {}
        if self._removed:
            parts[REMOVED] = pl.concat(self._removed)
            self._removed = []
        changed = self._marks.changed()
        if len(changed):
            parts[ROWS] = self._at(changed)
        return parts

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All rows."""
        self._removed = []
        self._marks.all_saved()
        return {ROWS: self._at(self._marks.all())} if self.rows else {}

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back a part of a delta or snapshot; the parts come in the order in which they were written.

        Raises:
            InvalidInput: The frame's columns are not the table's.
        """
        keys = frame.select(self._key_names)
        if part == REMOVED:
            slots = self._index.slots(keys)
            self.remove(ascending(slots[slots >= 0]))
            self._removed = []
            return
        times = frame.get_column(TOUCHED).to_numpy() if self._times is not None else None
        slots = self._index.slots(keys, insert=True)
        self._write(slots, frame, times, saved=True)

    def _write(self, slots: Slots, frame: pl.DataFrame, times: Ticks | None, *, saved: bool) -> None:
        self._values.put(slots, frame)
        self._marks.put(slots, saved=saved)
        if self._times is not None and times is not None:
            self._times.put(slots, times)

    def _at(self, slots: Slots) -> pl.DataFrame:
        """Keys, values and times of slots that have rows."""
        parts = [self._index.keys(slots), self._values.take(slots)]
        if self._times is not None:
            parts.append(pl.DataFrame({TOUCHED: self._times.of(slots)}))
        return stacked(parts)


def checked_names(
    keys: Mapping[str, pl.DataType], values: Mapping[str, pl.DataType], own: Sequence[str]
) -> None:
    """Raises InvalidInput where a key, a value or a column of the state's own could not be told apart."""
    if twice := sorted(keys.keys() & values.keys()):
        raise InvalidInput(f"columns {twice} are keys and values of the same state: name them differently")
    if taken := [name for name in own if name in keys or name in values]:
        raise InvalidInput(f"columns {taken} are the state's own: name them differently")
