"""What readers that go on behind damage have passed over."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was passed over, because it is damaged or lost.

    Attributes:
        batches: Batches.
        rows: Rows, as far as the index knows how many there were.
        offsets: Offsets.

    >>> Skipped(1, 3, 3) + Skipped(offsets=2)
    Skipped(batches=1, rows=3, offsets=5)
    """

    batches: int = 0
    rows: int = 0
    offsets: int = 0

    def __add__(self, other: Skipped) -> Skipped:
        return Skipped(self.batches + other.batches, self.rows + other.rows, self.offsets + other.offsets)


NOTHING = Skipped()


class Tally:
    """Adds up what all readers of a process have passed over."""

    def __init__(self) -> None:
        self._total = NOTHING
        self._lock = threading.Lock()

    @property
    def total(self) -> Skipped:
        """All of it, so far."""
        return self._total

    def add(self, more: Skipped) -> None:
        """Counts some more."""
        with self._lock:
            self._total += more
