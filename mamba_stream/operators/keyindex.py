"""Which slot a key has: an open-addressing hash table whose every operation handles a whole batch at once.

Each round of a search looks at one cell for every row that is still on its way; at the table's load nearly all rows
arrive in the first few rounds. For 65,536 among ten million keys it takes a fifth of the time that one sorted array
and a binary search of sorted keys take, and it needs no merging. Keys that are whole numbers close together need no
search at all (:mod:`mamba_stream.operators.addresses`); once they are not, the table takes over for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.errors import InvalidInput
from mamba_stream.operators.addresses import Addresses
from mamba_stream.operators.keycodes import Codes, Coding, coding_of
from mamba_stream.operators.places import Numbering
from mamba_stream.operators.rowstore import RowStore, room_for

Slots = NDArray[np.int64]

ABSENT: Final = -1
"""In place of the slot of a key that has none."""

_EMPTY: Final = -1
_GONE: Final = -2
"""A cell whose key was removed: a search goes on behind it."""
_FEWEST_CELLS: Final = 64
_FULL: Final = 0.65
"""A share of cells in use from which searches would take too many rounds."""
_MOST_SLOTS: Final = (1 << 31) - 1
_SPREAD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)
_32: Final = np.uint64(32)


class KeyIndex:
    """Numbers keys with slots: small non-negative integers, which are used again once their key is removed.

    Keys are equal as in a Polars ``group_by``: null is a key, NaN is one key, -0.0 is 0.0.

    Example:
        >>> index = KeyIndex({"city": pl.String()})
        >>> index.slots(pl.DataFrame({"city": ["Rome", "Oslo", "Rome"]}), insert=True).tolist()
        [1, 0, 1]
        >>> index.slots(pl.DataFrame({"city": ["Oslo", "Bonn"]})).tolist()
        [0, -1]
    """

    def __init__(self, schema: Mapping[str, pl.DataType], coding: Coding | None = None) -> None:
        """An empty index.

        Args:
            schema: The key's columns.
            coding: How keys become 64-bit codes; chosen by the types unless given.

        Raises:
            InvalidInput: There is no key column.
        """
        if not schema:
            raise InvalidInput("a key has at least one column")
        self._coding = coding or coding_of(schema)
        self._keys = RowStore(schema)
        self._names = list(schema)
        self._dtypes = list(schema.values())
        self._floats = [name for name, dtype in schema.items() if dtype.is_float()]
        self._cells = np.full(_FEWEST_CELLS, _EMPTY, np.int32)
        self._in_use = 0
        self._code_of: Codes = np.zeros(16, np.uint64)
        self._numbers = Numbering()
        self._addresses: Addresses | None = Addresses()
        """In place of cells, for as long as codes lie close together."""

    @property
    def rows(self) -> int:
        """How many keys there are."""
        return self._numbers.used

    @property
    def bytes(self) -> int:
        """The memory that keys and table take."""
        addresses = 0 if self._addresses is None else self._addresses.bytes
        return addresses + self._cells.nbytes + self._code_of.nbytes + self._numbers.bytes + self._keys.bytes

    def slots(self, keys: pl.DataFrame, *, insert: bool = False) -> Slots:
        """The slot of each key.

        Args:
            keys: The key columns, one key a row; a key may come several times.
            insert: Whether a key that has no slot gets one.

        Returns:
            A slot for each row; ``ABSENT`` where the key has none.

        Raises:
            InvalidInput: The columns are not the key's, or there would be too many keys.
        """
        if keys.columns != self._names or keys.dtypes != self._dtypes:
            raise InvalidInput(f"keys are {dict(keys.schema)}, and should be {self._keys.schema}")
        codes = self._coding.codes(keys)
        if self._addresses is not None and (near := self._addressed(keys, codes, insert=insert)) is not None:
            return near
        if insert:
            self._make_room(len(codes))
        found = np.full(len(codes), ABSENT, np.int64)
        rows, cells = np.arange(len(codes)), self._home(codes)
        while len(rows):
            at, made = self._walk(codes, rows, cells, found, insert=insert)
            if len(made):
                self._keys.put(found[made], self._plain(keys[made]))
            if self._coding.shared is None:
                break
            # Who met a code that several keys may have, and did not bring it, may have met another key.
            doubtful = (at >= 0) & self._coding.shared(codes)
            rows = self._strangers(keys, np.flatnonzero(doubtful), found)
            found[rows] = ABSENT
            cells = self._next(at[rows])
        return found

    def keys(self, slots: Slots) -> pl.DataFrame:
        """The keys of slots that are in use."""
        return self._keys.take(slots)

    def remove(self, slots: Slots) -> None:
        """Removes the keys of distinct slots that are in use."""
        if self._addresses is not None:
            self._addresses.remove(self._code_of[slots].view(np.int64))
            self._keys.forget(slots)
            self._numbers.give_back(slots)
            return
        rows, cells = np.arange(len(slots)), self._home(self._code_of[slots])
        at = np.empty(len(slots), np.int64)
        while len(rows):
            there = self._cells[cells]
            assert (there != _EMPTY).all(), "a slot that is not in use was to be removed"
            here = there == slots[rows]
            at[rows[here]] = cells[here]
            rows, cells = rows[~here], self._next(cells[~here])
        # Where a search would end at the next cell anyway, it may end here.
        ends = self._cells[self._next(at)] == _EMPTY
        self._cells[at] = np.where(ends, _EMPTY, _GONE)
        self._in_use -= int(np.count_nonzero(ends))
        self._keys.forget(slots)
        self._numbers.give_back(slots)

    def _addressed(self, keys: pl.DataFrame, codes: Codes, *, insert: bool) -> Slots | None:
        """The slots, where codes are addresses; ``None`` once they can be no more, and cells take their place."""
        assert self._addresses is not None
        addresses, places = self._addresses, codes.view(np.int64)
        found = addresses.find(places)
        absent = np.flatnonzero(found < 0) if insert else found[:0]
        if not len(absent):
            return found
        new, shared = places[absent], self._coding.shared
        several = shared is not None and shared(codes[absent]).any()
        if several or not addresses.reach(new, self.rows, lambda slots: self._code_of[slots].view(np.int64)):
            self._addresses = None
            self._lay_cells(addresses.live(), self.rows)
            return None
        self._check_room(len(new))
        won = addresses.claim(new)
        slots = self._take_slots(codes[absent[won]])
        addresses.put(new[won], slots)
        found[absent] = addresses.find(new)
        self._keys.put(slots, self._plain(keys[absent[won]]))
        return found

    def _take_slots(self, codes: Codes) -> Slots:
        """New slots for these codes."""
        slots = self._numbers.take(len(codes))
        self._code_of = room_for(self._code_of, self._numbers.top)
        self._code_of[slots] = codes
        return slots

    def _walk(
        self, codes: Codes, rows: Slots, cells: Slots, found: Slots, *, insert: bool
    ) -> tuple[Slots, Slots]:
        """Goes from cell to cell until each row has met its code or an empty cell, and notes the slots it found.

        Gives for each row the cell where it met its code, or -1; and the rows that got a new slot.
        """
        at = np.full(len(codes), ABSENT, np.int64)
        made = []
        while len(rows):
            slots = self._cells[cells]
            mine = (self._code_of[slots] == codes[rows]) & (slots >= 0)
            met = rows[mine]
            found[met] = slots[mine]
            at[met] = cells[mine]
            on = ~mine
            if not insert:
                on &= slots != _EMPTY
                rows, cells = rows[on], self._next(cells[on])
                continue
            empty = slots == _EMPTY
            wanted = np.flatnonzero(empty)
            if len(wanted):
                won = wanted[self._claim(cells[wanted])]
                made.append(rows[won])
                found[rows[won]] = self._allot(codes[rows[won]], cells[won])
                on[won] = False
            # Who lost a cell to another row looks at it again: that row may have the same key.
            rows, cells = rows[on], np.where(empty[on], cells[on], self._next(cells[on]))
        return at, np.concatenate(made) if made else np.empty(0, np.int64)

    def _claim(self, cells: Slots) -> NDArray[np.bool_]:
        """One of the rows that want the same empty cell gets it."""
        tickets = np.arange(len(cells), dtype=np.int32)
        self._cells[cells] = tickets
        return np.asarray(self._cells[cells] == tickets)

    def _allot(self, codes: Codes, cells: Slots) -> Slots:
        """New slots for these codes, in these cells."""
        slots = self._take_slots(codes)
        self._cells[cells] = slots
        self._in_use += len(codes)
        return slots

    def _strangers(self, keys: pl.DataFrame, rows: Slots, found: Slots) -> Slots:
        """Those of these rows whose key is not the one in the slot that they found."""
        if not len(rows):
            return rows
        slots = found[rows]
        same = np.ones(len(rows), np.bool_)
        at = None if len(rows) == keys.height else pl.Series(rows)
        for column in keys.get_columns():
            mine = column if at is None else column.gather(at)
            same &= _equal(mine, self._keys.column(column.name, slots))
        return rows[~same]

    def _plain(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Of keys that are equal, which comes first must not matter: -0.0 becomes 0.0, NaN the usual one."""
        if not self._floats:
            return keys
        return keys.with_columns(
            pl.when(pl.col(name).is_nan())
            .then(float("nan"))
            .otherwise(pl.col(name) + 0.0)
            .cast(dtype)
            .alias(name)
            for name, dtype in self._keys.schema.items()
            if name in self._floats
        )

    def _home(self, codes: Codes) -> Slots:
        """The cell where the search for a code begins."""
        mixed = ((codes ^ (codes >> _32)) * _SPREAD) >> _32
        return ((mixed * np.uint64(len(self._cells))) >> _32).view(np.int64)

    def _next(self, cells: Slots) -> Slots:
        cells = cells + 1
        cells[cells == len(self._cells)] = 0
        return cells

    def _make_room(self, rows: int) -> None:
        """Makes the table large enough for so many more keys, and rids it of cells whose keys are gone."""
        if self._in_use + rows <= _FULL * len(self._cells):
            return
        self._check_room(rows)
        # In the order of their cells, which is nearly that of their new ones: the table is written front to back.
        self._lay_cells(self._cells[self._cells >= 0], self.rows + rows)

    def _check_room(self, more: int) -> None:
        if self.rows + more > _MOST_SLOTS:
            raise InvalidInput(f"{self.rows + more} keys are more than an index holds: use more partitions")

    def _lay_cells(self, slots: NDArray[np.integer], expected: int) -> None:
        """Lays the table out anew, for as many keys as are expected."""
        self._cells = np.full(max(_FEWEST_CELLS, int(1.4 * expected / _FULL)), _EMPTY, np.int32)
        self._in_use = len(slots)
        cells = self._home(self._code_of[slots])
        while len(slots):
            empty = np.flatnonzero(self._cells[cells] == _EMPTY)
            won = empty[self._claim(cells[empty])]
            self._cells[cells[won]] = slots[won]
            lost = np.ones(len(slots), np.bool_)
            lost[won] = False
            slots, cells = slots[lost], self._next(cells[lost])


def _equal(one: pl.Series, other: pl.Series) -> NDArray[np.bool_]:
    """Row by row; null equals null."""
    if one.dtype.is_nested() or one.null_count() or other.null_count():
        return one.eq_missing(other).to_numpy()
    return (one == other).to_numpy()  # a third of the time
