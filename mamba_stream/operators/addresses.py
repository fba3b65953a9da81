"""Slots by code, where codes are whole numbers that lie close together: each slot stands at the place its code says.

Ids that count up are such codes. To find one is a look into an array, which takes a fifth of a search in a hash table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]

_NONE: Final = -1
_NO_PLACES: Final[Places] = np.empty(0, np.int64)
_ROOM: Final = 4_096
"""So many places there may be beside four for each code."""


class Addresses:
    """Where the slot of each code is.

    Example:
        >>> addresses = Addresses()
        >>> addresses.reach(np.array([7, 9]), 0, lambda slots: slots)
        True
        >>> addresses.claim(np.array([9, 7, 9])).tolist()
        [1, 2]
        >>> addresses.put(np.array([7, 9]), np.array([0, 1]))
        >>> addresses.find(np.array([9, 8, 7, 100])).tolist()
        [1, -1, 0, -1]
    """

    def __init__(self) -> None:
        self._least = 0
        self._slots: NDArray[np.int32] = np.empty(0, np.int32)

    @property
    def bytes(self) -> int:
        return self._slots.nbytes

    def find(self, codes: Places) -> Places:
        """The slot of each code, -1 where it has none."""
        places = codes - self._least
        # What lies below the least wraps around and lies above all.
        inside = places.view(np.uint64) < np.uint64(len(self._slots))
        if inside.all():
            return self._slots.take(places).astype(np.int64)
        found = np.full(len(codes), _NONE, np.int64)
        rows = np.flatnonzero(inside)
        found[rows] = self._slots.take(places[rows])
        return found

    def reach(self, codes: Places, used: int, code_of: Callable[[Places], Places]) -> bool:
        """Makes room for codes; ``False`` where all of them would lie too far apart.

        Args:
            codes: Codes that are to get slots.
            used: How many have some.
            code_of: Gives the codes of slots.
        """
        least, most, room = int(codes.min()), int(codes.max()), 4 * (used + len(codes)) + _ROOM
        end = self._least + len(self._slots)
        if len(self._slots) and self._least <= least and most < end:
            return True
        if not len(self._slots) or not used:
            return self._lay(least, most, room, _NO_PLACES, _NO_PLACES)
        if max(end, most + 1) - min(self._least, least) <= room:
            there = np.flatnonzero(self._slots >= 0)
            return self._lay(
                min(self._least, least), max(end - 1, most), room, self._slots[there], there + self._least
            )
        # Those at the beginning may be gone for long.
        live = self.live()
        codes_there = code_of(live)
        least, most = min(least, int(codes_there.min())), max(most, int(codes_there.max()))
        # If little were won by that, it would be done again and again.
        return 2 * (most - least + 1) <= room and self._lay(least, most, room, live, codes_there)

    def _lay(self, least: int, most: int, room: int, slots: NDArray[np.integer], codes: Places) -> bool:
        """Lays places out anew, with some more behind the last: codes count up."""
        span = most - least + 1
        if span > room:
            return False
        self._least = least
        self._slots = np.full(min(span + (span >> 1), room), _NONE, np.int32)
        self._slots[codes - least] = slots
        return True

    def claim(self, codes: Places) -> Places:
        """Of codes within reach that have no slot, the rows that stand for each of them once."""
        tickets = np.arange(len(codes), dtype=np.int32)
        places = codes - self._least
        self._slots[places] = tickets
        return np.flatnonzero(self._slots.take(places) == tickets)

    def put(self, codes: Places, slots: Places) -> None:
        """Gives distinct codes within reach their slots."""
        self._slots[codes - self._least] = slots

    def remove(self, codes: Places) -> None:
        """Takes the slots of codes that have some."""
        self._slots[codes - self._least] = _NONE

    def live(self) -> Places:
        """All slots."""
        return self._slots[self._slots >= 0].astype(np.int64)
