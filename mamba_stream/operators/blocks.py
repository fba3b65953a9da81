"""Which rows belong to a slot, in the order in which they came: lists of ids, all in one array.

The ids of a slot lie in one block with some room behind them. A block that is full moves to the end of the array
with twice the room, so that adding costs what is added, and reading is one range for each slot, however many rows
there are. Ids of rows that are gone stay in their block until they are half of it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mamba_stream.operators.places import Marks
from mamba_stream.operators.rowstore import Places, room_for

_SMALL: Final = 4_096


class Blocks:
    """For each slot a list of ids.

    Example:
        >>> blocks = Blocks()
        >>> blocks.add(np.array([1, 0, 1]), np.array([10, 11, 12]))
        >>> [values.tolist() for values in blocks.of(np.array([1, 0, 1]))]
        [[0, 0, 1, 2, 2], [10, 12, 11, 10, 12]]
    """

    def __init__(self) -> None:
        self._ids: NDArray[np.int32] = np.empty(0, np.int32)
        self._top = 0
        self._holes = 0
        self._first = np.zeros(0, np.int64)
        self._count = np.zeros(0, np.int32)
        self._gone = np.zeros(0, np.int32)
        self._room = np.zeros(0, np.int32)

    @property
    def bytes(self) -> int:
        arrays = (self._ids, self._first, self._count, self._gone, self._room)
        return sum(array.nbytes for array in arrays)

    def add(self, slots: Places, ids: Places) -> None:
        """Appends each id to the list of its slot."""
        if not len(slots):
            return
        order = np.argsort(slots, kind="stable")
        sorted_slots = slots[order]
        starts = np.flatnonzero(np.diff(sorted_slots, prepend=-1))
        distinct, added = sorted_slots[starts], np.diff(starts, append=len(slots))
        self._reach(int(distinct[-1]) + 1)
        counts = self._count[distinct]
        needed = counts + added
        full = needed > self._room[distinct]
        if full.any():
            self._move(distinct[full], needed[full] + counts[full])
        self._ids[_ranges(self._first[distinct] + counts, added)] = ids[order]
        self._count[distinct] = needed

    def of(self, slots: Places) -> tuple[Places, Places]:
        """The ids of each slot in their order, also those that are gone, and for each which of ``slots`` it is of."""
        counts = self.counts(slots)
        return np.repeat(np.arange(len(slots)), counts), self._in(slots)

    def counts(self, slots: Places) -> NDArray[np.int32]:
        """How many ids each list has, also those that are gone; none where all are."""
        if len(slots):
            self._reach(int(slots.max()) + 1)
        return self._count[slots]

    def drop(self, slots: Places, lives: Marks) -> tuple[Places, Places]:
        """Notes that one more id of each of these slots is gone; a slot may come several times.

        Args:
            slots: The slots of the ids.
            lives: Knows of every id whether it is gone.

        Returns:
            Ids that are in no list any more, and slots without ids.
        """
        distinct, gone = np.unique(slots, return_counts=True)
        self._gone[distinct] += gone.astype(np.int32)
        return self._sweep(distinct[2 * self._gone[distinct] >= self._count[distinct]], lives)

    def _sweep(self, slots: Places, lives: Marks) -> tuple[Places, Places]:
        """Takes ids that are gone off the lists of distinct slots; gives them, and the slots that have no others."""
        of, ids = self.of(slots)
        stays = lives.lives(ids)
        left = np.bincount(of[stays], minlength=len(slots))
        self._ids[_ranges(self._first[slots], left)] = ids[stays]
        self._count[slots], self._gone[slots] = left, 0
        room = np.minimum(self._room[slots], 2 * left)
        self._holes += int((self._room[slots] - room).sum())
        self._room[slots] = room
        self._close_holes()
        return ids[~stays], slots[left == 0]

    def _reach(self, top: int) -> None:
        """Slots below ``top`` have a list, be it empty."""
        if top > len(self._count):
            self._first = room_for(self._first, top)
            self._count, self._gone, self._room = (
                room_for(array, top) for array in (self._count, self._gone, self._room)
            )

    def _in(self, slots: Places) -> Places:
        return self._ids[_ranges(self._first[slots], self._count[slots])].astype(np.int64)

    def _move(self, slots: Places, room: Places) -> None:
        """Gives these slots larger blocks."""
        ids, size = self._in(slots), int(room.sum())
        self._holes += int(self._room[slots].sum())
        self._ids = room_for(self._ids, self._top + size)
        self._first[slots] = self._top + np.cumsum(room) - room
        self._room[slots] = room
        self._top += size
        self._ids[_ranges(self._first[slots], self._count[slots])] = ids
        self._close_holes()

    def _close_holes(self) -> None:
        """Moves all blocks together once half of the array is no block's."""
        if 2 * self._holes <= self._top + _SMALL:
            return
        slots = np.flatnonzero(self._room)
        ids, room = self._in(slots), self._room[slots].astype(np.int64)
        self._first[slots] = np.cumsum(room) - room
        self._top, self._holes = int(room.sum()), 0
        self._ids = np.zeros(self._top, np.int32)
        self._ids[_ranges(self._first[slots], self._count[slots])] = ids


def _ranges(first: Places, counts: NDArray[np.integer]) -> Places:
    """``first, first + 1, ...``, as many as ``counts`` says, for each pair, one behind the other."""
    ends = np.cumsum(counts, dtype=np.int64)
    shifts = np.repeat(first - ends + counts, counts)
    return shifts + np.arange(len(shifts))
