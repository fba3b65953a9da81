"""What is to lie in a segment, what came to lie there, and what became of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mamba_stream.log.batch import Numbers
from mamba_stream.log.rows import Entry, TopicRow
from mamba_stream.log.shelf import Placed


@dataclass(frozen=True)
class Segment:
    """What is to lie in one segment: batches of one partition and one schema, in the order of their offsets.

    Attributes:
        topic: The topic.
        partition: The partition.
        batches: Where they lie now.
        kept: The offsets of the rows of each that are kept, ``None`` for all of them; all of all, if it is not given.
    """

    topic: TopicRow
    partition: int
    batches: list[Placed]
    kept: Sequence[Numbers | None] | None = None

    @property
    def schema(self) -> int:
        """The number of their schema."""
        return self.batches[0].entry.schema


@dataclass(frozen=True)
class Moved:
    """A batch of a segment, and those that it stands for."""

    offset: int
    entry: Entry
    stood: list[Placed] = field(default_factory=list)


@dataclass
class Repacked:
    """What became of batches.

    Attributes:
        bytes: That were written.
        merged: Batches that there are fewer.
        dropped: Rows that there are fewer.
    """

    bytes: int = 0
    merged: int = 0
    dropped: int = 0

    def add(self, other: Repacked) -> None:
        """Counts it in."""
        self.bytes += other.bytes
        self.merged += other.merged
        self.dropped += other.dropped
