"""What tests of shared groups work with: a clock that they move, messages as rows, members of a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mamba_stream.log import Log, Topic
from mamba_stream.messaging.books import Book, LogBook
from mamba_stream.messaging.schema import MESSAGES, TIME, encode_headers, encode_key, encode_value
from mamba_stream.messaging.shared import SharedGroup
from mamba_stream.messaging.terms import Terms

SECOND = 1_000_000


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1_800_000_000 * SECOND

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / SECOND

    def advance(self, seconds: float) -> None:
        self.time += int(seconds * SECOND)


@dataclass(frozen=True)
class Sent:
    """A message to be."""

    value: Any
    key: Any = None
    headers: Mapping[str, str] | None = None
    deliver_at: int | None = None
    priority: int = 0


def rows(messages: Iterable[Sent], now: int = 0) -> pa.Table:
    """Messages as rows of a message topic."""
    made = []
    for message in messages:
        value, kind = encode_value(message.value)
        key, shifted = encode_key(message.key)
        made.append(
            {
                "key": key,
                "value": value,
                "kind": kind | shifted,
                "headers": None if message.headers is None else encode_headers(message.headers),
                "event_type": None,
                "time": now,
                "deliver_at": message.deliver_at,
                "priority": message.priority,
            }
        )
    return pa.Table.from_pylist(made, MESSAGES)


def message_topic(log: Log, name: str = "work", partitions: int = 1) -> Topic:
    return log.create_topic(name, MESSAGES, time=TIME, partitions=partitions, exist_ok=True)


def member(
    log: Log,
    session: int,
    clock: HandClock,
    *,
    topic: str = "work",
    group: str = "group",
    book: Book | None = None,
    **terms: Any,
) -> SharedGroup:
    """A member of a group that shares a topic."""
    return SharedGroup(
        log,
        log[topic],
        group,
        session=session,
        terms=Terms(**{"dead_letter": f"{topic}.dead", **terms}),
        book=LogBook(log) if book is None else book,
        clock=clock,
        chance=lambda: 0.5,
    )


def values(leases: Iterable[Any]) -> list[Any]:
    return [message.value for lease in leases for message in lease.messages()]


def messages(leases: Iterable[Any]) -> list[Any]:
    return [message for lease in leases for message in lease.messages()]
