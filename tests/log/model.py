"""The log as plain Python: dicts of lists, and the rules of ``docs/log.md`` in the fewest words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = tuple[Any, ...]
NAMES = ("id", "ts", "who", "x")


@dataclass
class Partition:
    """Rows by offset, those that were trimmed away included."""

    rows: list[Row] = field(default_factory=list)
    begin: int = 0

    @property
    def end(self) -> int:
        return len(self.rows)

    def kept(self) -> list[Row]:
        return self.rows[self.begin :]


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
                    "rows": {p: part.kept() for p, part in enumerate(topic.partitions) if part.kept()},
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
