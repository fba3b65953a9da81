"""How long messages took, in a histogram small enough for a record: its buckets are an eighth wide."""

from __future__ import annotations

import math
from collections import Counter


class Latencies:
    """Durations in microseconds, of which only the distribution is kept."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._sum = 0
        self._count = 0

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
