"""Where a reader is in every partition of a topic, wherever the rows come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mamba_stream.errors import PartitionNotFound
from mamba_stream.log.asked import offsets_of
from mamba_stream.log.rows import TopicRow


class Ending(Protocol):
    """What is asked of the state of a partition."""

    @property
    def end(self) -> int:
        """The next offset to be given."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the topic is closed to appends."""
        ...


class Positioned:
    """Remembers the next offset to read of each partition, and how far to read."""

    def __init__(self, topic: TopicRow, positions: Mapping[int, int], ends: Mapping[int, int] | None) -> None:
        self._topic = topic
        self._positions = dict(positions)
        self._ends = dict(ends or {})

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic.name

    @property
    def positions(self) -> dict[int, int]:
        """The next offset to read, by partition."""
        return dict(self._positions)

    @property
    def at_end(self) -> bool:
        """Whether every partition is read to where it ends now (or to this reader's end)."""
        return all(
            self._positions[p] >= min(head.end, self._ends.get(p, head.end))
            for p, head in self._heads().items()
        )

    @property
    def exhausted(self) -> bool:
        """Whether nothing can come any more: the topic was ended, or this reader's end reached."""
        return all(
            self._positions[p] >= self._ends.get(p, 1 << 63)
            or (head.ended and self._positions[p] >= head.end)
            for p, head in self._heads().items()
        )

    def seek(self, positions: Mapping[int, int]) -> None:
        """Goes on from these offsets; partitions that are not named stay where they are."""
        for partition, offset in offsets_of(self._topic, "positions", positions).items():
            if partition not in self._positions:
                raise PartitionNotFound(
                    f"this reader of topic {self._topic.name!r} does not read partition {partition}; "
                    f"it reads {', '.join(map(str, sorted(self._positions)))}"
                )
            self._positions[partition] = offset
            self._forget(partition)

    def _heads(self) -> Mapping[int, Ending]:
        """The state of the partitions that are read."""
        raise NotImplementedError

    def _forget(self, partition: int) -> None:
        """Lets go of what was read ahead of a partition, whose position is another."""
        raise NotImplementedError
