"""How long messages took, in a histogram small enough for a record: its buckets are an eighth wide."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_MOST_BUCKETS: Final = 48


class Latencies:
    """Durations in microseconds, of which only the distribution is kept."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self._buckets: Counter[int] = Counter(buckets or {})
        self._sum = 0
        self._count = sum(self._buckets.values())

    @classmethod
    def of(cls, other: Latencies) -> Latencies:
        """What another counted so far."""
        copy = cls()
        copy.merge(other)
        return copy

    def add(self, duration: int, times: int = 1) -> None:
        """Counts a duration, ``times`` times; a negative one, where the clock jumped, as none."""
        duration = max(duration, 1)
        self._buckets[math.ceil(math.log2(duration) * 6)] += times
        self._sum += duration * times
        self._count += times

    def merge(self, other: Latencies) -> None:
        """Counts what another counted too."""
        self._buckets.update(other._buckets)
        self._sum += other._sum
        self._count += other._count

    @property
    def count(self) -> int:
        """How many were counted."""
        return self._count

    def buckets(self) -> dict[int, int]:
        """The distribution, as others can go on counting with."""
        return dict(self._buckets)

    def since(self, before: Mapping[int, int], most: int = _MOST_BUCKETS) -> dict[int, int]:
        """What was counted since the buckets were those, in few enough buckets for a record, if need be wider ones.

        >>> latencies = Latencies()
        >>> latencies.add(1_000_000)
        >>> before = latencies.buckets()
        >>> latencies.add(1_000_000, times=2)
        >>> latencies.since(before)
        {120: 2}
        """
        found = {
            bucket: count - before.get(bucket, 0)
            for bucket, count in sorted(self._buckets.items())
            if count > before.get(bucket, 0)
        }
        width = 1
        while len(found) > most:
            width *= 2
            wider: Counter[int] = Counter()
            for bucket, count in found.items():
                wider[-(-bucket // width) * width] += count
            found = dict(wider)
        return found

    def quantile(self, share: float) -> float:
        """The duration in seconds that this share of all does not exceed, an eighth too long at most; 0 of none.

        >>> latencies = Latencies()
        >>> latencies.add(1_000_000, times=99)
        >>> latencies.add(60_000_000)
        >>> 1.0 <= latencies.quantile(0.5) < 1.13
        True
        """
        left = share * self._count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return float(2 ** (bucket / 6) / 1e6)
        return 0.0

    def counters(self) -> dict[str, float]:
        """For a client's record: seconds in all, how many, and what half and 99 of 100 do not exceed."""
        return {
            "latency_sum": self._sum / 1e6,
            "latency_count": self._count,
            "p50": self.quantile(0.5),
            "p99": self.quantile(0.99),
        }


def merged(several: Iterable[Latencies]) -> Latencies:
    """What all of these counted."""
    latencies = Latencies()
    for each in several:
        latencies.merge(each)
    return latencies
