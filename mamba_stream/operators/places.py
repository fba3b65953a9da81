"""Numbers for things that come and go, and what of them is not saved yet."""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from mamba_stream.operators.rowstore import Mask, Places, room_for

_Number = TypeVar("_Number", bound=np.integer)

_LIVE: Final = np.uint8(1)
_CHANGED: Final = np.uint8(2)
_SAVED: Final = np.uint8(4)


def ascending(numbers: NDArray[_Number]) -> NDArray[_Number]:
    """The distinct ones of some numbers, ascending; NumPy's own hashes them, and takes ten times as long for many."""
    numbers = np.sort(numbers)
    first = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    return numbers[first]


class Numbering:
    """Gives out small non-negative integers; those that are given back are given out again."""

    def __init__(self) -> None:
        self._free: NDArray[np.int32] = np.empty(0, np.int32)
        self._freed = 0
        self.top = 0
        """Every number that was ever given out is below this."""

    @property
    def used(self) -> int:
        """How many are given out."""
        return self.top - self._freed

    @property
    def bytes(self) -> int:
        return self._free.nbytes

    def take(self, count: int) -> Places:
        """Distinct numbers that nobody has."""
        again = min(count, self._freed)
        self._freed -= again
        fresh = np.arange(self.top, self.top + count - again)
        self.top += count - again
        return np.concatenate([self._free[self._freed : self._freed + again], fresh]) if again else fresh

    def give_back(self, places: Places) -> None:
        """These may be given out again."""
        freed = self._freed + len(places)
        self._free = room_for(self._free, freed)
        self._free[self._freed : freed] = places
        self._freed = freed


class Marks:
    """For each place whether something lives there, and whether that was saved: what a delta has to write.

    Example:
        >>> marks = Marks()
        >>> marks.put(np.array([3, 5]))
        >>> marks.changed().tolist()
        [3, 5]
        >>> marks.put(np.array([5, 6]))
        >>> marks.drop(np.array([3, 6])).tolist()  # 6 was never saved: no delta has to take it back
        [True, False]
        >>> marks.changed().tolist()
        [5]
    """

    def __init__(self) -> None:
        self._of: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._changed: list[Places] = []
        self.live = 0
        """At how many places something lives."""

    @property
    def bytes(self) -> int:
        return self._of.nbytes + sum(places.nbytes for places in self._changed)

    def put(self, places: Places, *, saved: bool = False) -> None:
        """Something new lives at these distinct places; ``saved`` says that it is stored already."""
        if not len(places):
            return
        self._of = room_for(self._of, int(places.max()) + 1)
        marks = self._of[places]
        self.live += len(places) - int(np.count_nonzero(marks & _LIVE))
        if saved:
            self._of[places] = _LIVE | _SAVED
            return
        self._of[places] = marks | (_LIVE | _CHANGED)
        self._changed.append(places[marks & _CHANGED == 0])

    def drop(self, places: Places) -> Mask:
        """Nothing lives at these distinct places any more, where something did; tells where it had been saved."""
        saved = self._of[places] & _SAVED > 0
        self._of[places] = 0
        self.live -= len(places)
        return saved

    def lives(self, places: Places) -> Mask:
        """Where something lives; a place may be any number."""
        known = (places >= 0) & (places < len(self._of))
        if known.all():
            return self._of[places] & _LIVE > 0
        found = np.zeros(len(places), np.bool_)
        found[known] = self._of[places[known]] & _LIVE > 0
        return found

    def all(self) -> Places:
        """Every place where something lives, ascending."""
        return np.flatnonzero(self._of & _LIVE)

    def changed(self) -> Places:
        """The places whose content is not saved, ascending; from now on it counts as saved."""
        # A place may be listed twice, or be empty again.
        places = ascending(np.concatenate(self._changed)) if self._changed else np.empty(0, np.int64)
        places = places[self._of[places] & _CHANGED > 0]
        self._of[places] = _LIVE | _SAVED
        self._changed = []
        return places

    def all_saved(self) -> None:
        """Everything counts as saved from now on."""
        self.changed()
