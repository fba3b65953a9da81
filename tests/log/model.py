"""The log as plain Python: dicts of lists, and the rules of ``docs/log.md`` in the fewest words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Row = tuple[Any, ...]
NAMES = ("id", "ts", "who", "x")


@dataclass
class Partition:
    """Rows by offset, those that were trimmed or compacted away included."""

    rows: list[Row] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    """When each was appended."""
    begin: int = 0
    gone: set[int] = field(default_factory=set)
    """Offsets whose rows were compacted away, as was seen."""

    @property
    def end(self) -> int:
        return len(self.rows)

    def kept(self) -> list[Row]:
        return [row for _, row in self.there(self.begin, self.end)]

    def there(self, first: int, following: int) -> list[tuple[int, Row]]:
        """Offsets and rows from one offset on and before another, where there are any."""
        return [(at, self.rows[at]) for at in range(first, following) if at not in self.gone]

    def take(self, rows: Sequence[Row], now: int) -> None:
        """Appends."""
        self.rows.extend(rows)
        self.times.extend([now] * len(rows))


@dataclass
class Settings:
    """How a topic is kept; times are in microseconds."""

    retention: int | None = None
    retention_bytes: int | None = None
    compact: bool = False
    compact_after: int = 60_000_000
    tombstones: int = 86_400_000_000
    seal_compression: str | None = None


@dataclass
class Topic:
    """What is known of a topic."""

    partitions: list[Partition]
    key: list[str]
    time: str | None
    compression: str
    ended: bool = False
    added: list[str] = field(default_factory=list)
    """Columns that were added, null in every row."""
    wide: bool = False
    """Whether the column of numbers was widened."""
    large: bool = False
    """Whether an append may have large numbers, and no columns that were added."""
    settings: Settings = field(default_factory=Settings)
    homes: dict[Row, int] = field(default_factory=dict)
    """The partition in which a key was first seen: it must stay there."""
    producers: dict[str, list[Any]] = field(default_factory=dict)
    """For each producer the answers to its sequences, from its first on."""
    first: dict[str, int] = field(default_factory=dict)
    """The producer's first sequence."""


@dataclass
class Model:
    """What a log must look like."""

    topics: dict[str, Topic] = field(default_factory=dict)
    groups: dict[str, dict[tuple[str, int], int]] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    lsn: int = 0

    def everything(self) -> dict[str, Any]:
        """As ``Desk.everything`` gives it, with the rows of each partition joined."""
        return {
            "lsn": self.lsn,
            "topics": {
                name: {
                    "offsets": [[p, part.begin, part.end] for p, part in enumerate(topic.partitions)],
                    "ended": topic.ended,
                    "rows": {
                        p: rows
                        for p, part in enumerate(topic.partitions)
                        if (rows := part.there(part.begin, part.end))
                    },
                    "settings": [len(topic.partitions), topic.key, topic.time, topic.compression],
                    "columns": [*NAMES, *topic.added],
                }
                for name, topic in sorted(self.topics.items())
            },
            "groups": {
                group: [[*place, offset] for place, offset in sorted(offsets.items())]
                for group, offsets in sorted(self.groups.items())
                if offsets
            },
            "records": self.records,
        }

    def unread(self, name: str, begins: dict[int, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Of what went of a topic, how much each group had yet to read: ``{partition: (from, to)}``; as :meth:`went`."""
        return {
            group: self.went(
                name,
                {
                    p: (max(before, offsets[name, p]), after)
                    for p, (before, after) in begins.items()
                    if (name, p) in offsets
                },
            )
            for group, offsets in self.groups.items()
        }

    def went(self, name: str, begins: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """How many rows there were between offsets that went, and how many offsets: of a batch of which some rows were
        compacted away it is not known which, where only a part of it went.
        """
        least = most = 0
        for p, (before, after) in begins.items():
            span = range(before, after)
            most += len(span)
            least += len(span) - sum(at in span for at in self.topics[name].partitions[p].gone)
        return least, most

    def delete(self, name: str) -> None:
        del self.topics[name]
        for offsets in self.groups.values():
            for place in [place for place in offsets if place[0] == name]:
                del offsets[place]

    def sequence_state(self, name: str, producer: str, number: int) -> str:
        """Whether a producer's sequence is ``new``, ``repeated`` or a ``gap``."""
        topic = self.topics[name]
        if producer not in topic.first:
            return "new"
        first, count = topic.first[producer], len(topic.producers[producer])
        if number == first + count:
            return "new"
        return "repeated" if first <= number < first + count else "gap"

    def remember(self, name: str, producer: str, number: int, answer: Any) -> None:
        topic = self.topics[name]
        topic.first.setdefault(producer, number)
        topic.producers.setdefault(producer, []).append(answer)


def keys_of(topic: Topic, partition: Partition) -> dict[Row, list[int]]:
    """The offsets at which each key lies, those whose rows are gone included."""
    found: dict[Row, list[int]] = {}
    for offset in range(partition.begin, partition.end):
        key = tuple(partition.rows[offset][NAMES.index(column)] for column in topic.key)
        found.setdefault(key, []).append(offset)
    return found


def deletes(topic: Topic, row: Row) -> bool:
    """Whether a row says that its key is gone."""
    return all(value is None for name, value in zip(NAMES, row, strict=True) if name not in topic.key)


def due(topic: Topic, partition: Partition, now: int) -> set[int]:
    """The offsets that a compaction takes away if it comes to everything that is old enough."""
    settings = topic.settings
    found: set[int] = set()
    for offsets in keys_of(topic, partition).values():
        old = [at for at in offsets if partition.times[at] <= now - settings.compact_after]
        found.update(old[:-1])
        found.update(
            at
            for at in old
            if deletes(topic, partition.rows[at]) and partition.times[at] < now - settings.tombstones
        )
    return found


def holds(predicate: list[Any], row: Row) -> bool | None:
    """A predicate on a row, in the three values of SQL and Polars."""
    kind, *parts = predicate
    match kind:
        case "and" | "or":
            both = [holds(part, row) for part in parts]
            decisive = kind == "or"
            if decisive in both:
                return decisive
            return None if None in both else not decisive
        case "not":
            inner = holds(parts[0], row)
            return None if inner is None else not inner
        case "null":
            return _cell(row, parts[0]) is None
        case "between":
            value = _cell(row, parts[0])
            return None if value is None else parts[1] <= value <= parts[2]
    value, other = _cell(row, parts[0]), parts[1]
    if value is None:
        return None
    return {
        "<": value < other,
        "<=": value <= other,
        "==": value == other,
        ">=": value >= other,
        ">": value > other,
    }[kind]


def _cell(row: Row, column: str) -> Any:
    return row[NAMES.index(column)]
