"""The answer to an append."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mamba_stream.core.durability import PROMISES, Durability


class Appended(dict[int, tuple[int, int]]):
    """Where appended rows lie: ``{partition: (first offset, next offset)}``.

    Attributes:
        lsn: The number that the log had reached with them.
        durability: How durable they are.

    >>> answer = Appended({0: (4, 6)}, 17, "interval")
    >>> answer
    {0: (4, 6)}
    >>> answer.promise
    'on the disk within a second; a loss of power takes the log back to a commit of the second before'
    """

    def __init__(self, ranges: Mapping[int, tuple[int, int]], lsn: int, durability: Durability) -> None:
        """The answer to one."""
        super().__init__(ranges)
        self.lsn = lsn
        self.durability = durability

    @property
    def promise(self) -> str:
        """What that means, in words."""
        return PROMISES[self.durability]


def merged_ranges(ranges: Sequence[tuple[int, int, int, int]]) -> dict[int, tuple[int, int]]:
    """``{partition: (first, next)}`` over the batches of one append."""
    merged: dict[int, tuple[int, int]] = {}
    for _, partition, first, following in ranges:
        known = merged.get(partition)
        merged[partition] = (first if known is None else known[0], following)
    return merged
