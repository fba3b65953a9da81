"""Where a consumer's messages come from: the narrow interface.

The consumer owns the loop; a feed does bounded work when it is called, and what time asks for when :meth:`Feed.tick`
is called, which is between messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, Protocol

from mamba_stream.messaging.message import Block, Delivery, Message

Start = Literal["earliest", "latest"] | datetime | date
Partition = tuple[str, int]
"""Topic name and partition."""


class Run(Delivery, Protocol):
    """Messages that are handed out one after the other: all of a feed that a consumer's loop touches.

    Attributes:
        block: Their rows.
        count: How many there are. It may shrink: what was handed out beyond it is not ours to settle any more.
        handed: How many were handed out.
        done: How many, from the first on, are done.
    """

    block: Block
    count: int
    handed: int
    done: int

    def messages(self, most: int) -> list[Message]:
        """Hands out as many as there are, but no more than ``most``."""
        ...

    def finish(self, upto: int) -> None:
        """The first so many are done, but for those that were settled otherwise."""
        ...


class Feed(Protocol):
    """Where messages come from."""

    due: float
    """When :meth:`tick` is to be called again, by the monotonic clock."""

    def begin(self) -> None:
        """A new loop begins: what was handed out and is not done is to be delivered again."""
        ...

    def take(self) -> Run | None:
        """The next messages, none if there are none now; never waits."""
        ...

    def tick(self) -> None:
        """Does what time asks for: commits, leases, other members."""
        ...

    def rest(self) -> None:
        """There is nothing to be taken now: does what others may be waiting for."""
        ...

    def at_end(self) -> bool:
        """Whether everything that is there now, and is ours, was handed out."""
        ...

    def commit(self) -> None:
        """Makes what is done durable now."""
        ...

    def close(self) -> None:
        """Makes what is done durable, and leaves."""
        ...


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """What a consumer did so far.

    Attributes:
        received: Messages that were handed out, repeated ones included.
        acknowledged: Messages that were done.
        filtered: Rows that its rule kept from becoming messages.
        trimmed: Rows of its partitions that were gone before it could read them.
        commits: How often it committed offsets.
        rebalances: How often its partitions changed.
        taken: Partitions that another consumer took, since this one was silent for too long.
        latency: Seconds from appended to done: the sum, ``latency_sum``, over ``latency_count`` messages, and what half
            (``p50``) and 99 of 100 (``p99``) did not exceed.
    """

    received: int
    acknowledged: int
    filtered: int
    trimmed: int
    commits: int
    rebalances: int
    taken: int
    latency: dict[str, float]


@dataclass(slots=True)
class Settings:
    """How a feed reads.

    Attributes:
        start: Where a group, or a consumer of its own, begins.
        commit: Seconds between two commits; ``None``: only when asked to.
        max_rows: How many rows to read at once.
    """

    start: Start = "earliest"
    commit: float | None = 1.0
    max_rows: int = 8192


class Pulse:
    """Something that changes as long as the consumer asks for messages."""

    __slots__ = ("beat", "run")

    def __init__(self) -> None:
        self.beat = 0
        self.run: Run | None = None

    def __call__(self) -> object:
        return self.beat, 0 if self.run is None else self.run.handed
