"""How late rows were: counts in buckets of a logarithmic scale, the same on every machine and in every order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

_PARTS = 32
_EXACT = 1 << 53
"""Up to here every whole number is a float of its own."""


class Tally:
    """Counts of positive numbers by size, to about 3%."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = dict(counts or {})

    @property
    def counts(self) -> dict[int, int]:
        """Bucket to count; what the constructor takes."""
        return dict(self._counts)

    @property
    def total(self) -> int:
        return sum(self._counts.values())

    def add(self, values: npt.NDArray[np.int64]) -> None:
        """Counts whole numbers from 1 on."""
        # Rounding must not make a number smaller than it is.
        floats = values.astype(np.float64)
        mantissa, exponent = np.frexp(np.where(values > _EXACT, np.nextafter(floats, np.inf), floats))
        buckets = exponent.astype(np.int64) * _PARTS + np.ceil((mantissa * 2 - 1) * _PARTS).astype(np.int64)
        for bucket, count in zip(*np.unique(buckets, return_counts=True), strict=True):
            self._counts[int(bucket)] = self._counts.get(int(bucket), 0) + int(count)

    def covering(self, leave: float) -> int:
        """A number that all counted ones but ``leave`` of them are at most equal to; 0 if those are all."""
        above = 0
        for bucket in sorted(self._counts, reverse=True):
            above += self._counts[bucket]
            if above > leave:
                return _upper_edge(bucket)
        return 0


def _upper_edge(bucket: int) -> int:
    exponent, part = divmod(bucket - 1, _PARTS)
    return int(np.ceil(np.ldexp((1 + (part + 1) / _PARTS) / 2, exponent)))
