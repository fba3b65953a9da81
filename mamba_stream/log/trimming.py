"""Trimming a topic in steps: who commits meanwhile waits for one of them, and not for millions of batches to go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.log.storage import PartitionHead

FIRST: Final = 1 << 17
"""Offsets of a partition that go in the first step: at worst as many batches, which take a second."""
_SHORT: Final = 0.05
_LONG: Final = 0.2
"""Seconds: after a shorter step than the one the next is larger, after a longer one than the other smaller."""


def steps(
    bounds: Mapping[int, int], heads: Mapping[int, PartitionHead], clock: Clock
) -> Iterator[dict[int, int]]:
    """Where each partition is to begin, step by step; each is to be committed before the next one is asked for.

    Where that lies behind a partition's end, all is one step, which is refused as a whole.

    Args:
        bounds: Where each partition is to begin in the end.
        heads: How they are now.
        clock: How long steps take.
    """
    left = dict(bounds)
    if any(bound > heads[partition].end for partition, bound in bounds.items()):
        yield left
        return
    begins = {partition: heads[partition].begin for partition in bounds}
    size = FIRST
    while True:
        reached = {partition: min(bound, begins[partition] + size) for partition, bound in left.items()}
        begun = clock.monotonic()
        yield reached
        left = {partition: bound for partition, bound in left.items() if reached[partition] < bound}
        if not left:
            return
        took = clock.monotonic() - begun
        size = 2 * size if took < _SHORT else max(1, size // 2) if took > _LONG else size
        begins |= reached
