"""How long something took, counted by how long: for those who ask for more than a mean."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Final

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds up to which each bucket counts; one more counts what took longer."""


class Durations:
    """Counts durations, each in the first bucket whose bound it does not exceed. One thread at a time adds.

    Example:
        >>> taken = Durations()
        >>> taken.add(0.0007), taken.add(60.0), taken.counts[1], taken.counts[-1]
        (None, None, 1, 1)
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)

    def add(self, seconds: float) -> None:
        """Counts one more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    @property
    def counts(self) -> tuple[int, ...]:
        """By bucket, the last one for those beyond all bounds."""
        return tuple(self._counts)


def together(one: Iterable[int], other: Iterable[int]) -> list[int]:
    """The counts of two, bucket by bucket.

    Example:
        >>> together([], [1, 2])
        [1, 2]
    """
    return [a + b for a, b in zip_longest(one, other, fillvalue=0)]


def cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Bounds, as texts, and how many did not exceed them, the last of all: as Prometheus counts.

    Example:
        >>> cumulative([1, 2])[:2], cumulative([1, 2])[-1]
        ([('0.0005', 1.0), ('0.001', 3.0)], ('+Inf', 3.0))
    """
    found, total = [], 0
    for bound, count in zip_longest([*map(str, BOUNDS), "+Inf"], counts, fillvalue=0):
        total += int(count)
        found.append((str(bound), float(total)))
    return found
