"""What the tests of receiving share: messages made by hand, a clock that is moved, and books in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mamba_stream.errors import PreconditionFailed, TopicNotFound
from mamba_stream.messaging.books import Change, Place
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.membership import OffsetChange
from mamba_stream.messaging.schema import MESSAGES, encode_headers, encode_key, encode_value

SECOND = 1_000_000


def messages(
    values: Sequence[Any], *, keys: Sequence[Any] = (), headers: Sequence[dict[str, str]] = ()
) -> pa.Table:
    """Rows of a message topic."""
    rows = []
    for number, value in enumerate(values):
        data, kind = encode_value(value)
        key, key_kind = encode_key(keys[number] if keys else None)
        rows.append(
            {
                "key": key,
                "value": data,
                "kind": kind | key_kind,
                "headers": encode_headers(headers[number] if headers else {}),
                "event_type": None,
                "time": 0,
                "deliver_at": None,
                "priority": 0,
            }
        )
    return pa.Table.from_pylist(rows, MESSAGES)


class MovedClock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.time = 1_000 * SECOND

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / SECOND

    def pass_by(self, seconds: float) -> None:
        self.time += int(seconds * SECOND)


class SomeTopics:
    """Topics that exist because the test says so: name -> (number, partitions)."""

    def __init__(self) -> None:
        self.there: dict[str, tuple[int, int]] = {}
        self._next = 1

    def create(self, name: str, partitions: int) -> int:
        self.there[name] = (self._next, partitions)
        self._next += 1
        return self._next - 1

    def wanted(self, interests: Any) -> dict[str, tuple[int, int]]:
        interests = list(interests)
        return {
            name: facts for name, facts in self.there.items() if any(each.wants(name) for each in interests)
        }

    def number(self, name: str) -> int | None:
        return self.there.get(name, (None, 0))[0]

    def existing(self, numbers: Any) -> set[int]:
        return {number for number, _ in self.there.values()} & {*numbers}


class MemoryBook:
    """Records and offsets in memory, as the log's ledger applies them; others may come before any commit."""

    def __init__(self) -> None:
        self.kept: dict[Place, bytes] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.commits = 0
        self.before: list[Any] = []

    def get(self, place: Place) -> bytes | None:
        return self.kept.get(place)

    def records(
        self, namespace: str, *, before: str | None = None, limit: int | None = None
    ) -> dict[str, bytes]:
        keys = sorted(
            key for space, key in self.kept if space == namespace and (before is None or key < before)
        )
        return {key: self.kept[namespace, key] for key in keys[:limit]}

    def commit(self, change: Change, transaction: Any = None) -> None:
        if self.before:
            self.before.pop()()
        for place, value in change.requires.items():
            if self.kept.get(place) != value:
                raise PreconditionFailed("/".join(place))
        if isinstance(change, OffsetChange):
            for name, number in change.numbers.items():
                if change.topics.number(name) != number:
                    raise TopicNotFound(name)
            for (name, partition), offset in change.offsets.items():
                self.moved(change, name, partition, offset)
                self.offsets[change.group, name, partition] = offset
        for place, value in change.records.items():
            if value is None:
                self.kept.pop(place, None)
            else:
                self.kept[place] = value
        self.commits += 1

    def moved(self, change: OffsetChange, name: str, partition: int, offset: int) -> None:
        """Is called before an offset moves."""


def everything() -> Interest:
    return Interest(("*",))
