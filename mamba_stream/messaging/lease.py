"""Messages that are a session's until a deadline: settling one is noted in its lease, and written by the group."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Protocol

import numpy as np

from mamba_stream.core.clock import Clock
from mamba_stream.core.deadletters import Death
from mamba_stream.core.durations import duration_us
from mamba_stream.errors import PreconditionFailed, StaleLease
from mamba_stream.log import Log, Topic, Transaction
from mamba_stream.messaging.message import Block, Message
from mamba_stream.messaging.outputs import MessageTransaction
from mamba_stream.messaging.parts import Part
from mamba_stream.messaging.pending import Pending, due_of


class Keeper(Protocol):
    """Who keeps the books of leases."""

    log: Log
    topic: Topic
    name: str
    clock: Clock

    def backoff(self, attempt: int) -> int: ...
    def last(self, attempt: int) -> bool: ...
    def holds(self, lease: Lease) -> bool: ...
    def settle(self, leases: Sequence[Lease]) -> None: ...
    def write(
        self, leases: Sequence[Lease], transaction: Transaction | None = None, done: int | None = None
    ) -> None: ...


class Lease:
    """A run of messages that is ours. Any thread may settle them.

    What was settled leaves ``left`` and is noted elsewhere in one moment, for those who ask whether it is over.

    Attributes:
        key: The key of its record now.
        value: Its record now; whoever takes the messages from us replaces it.
        run: The same, decoded.
        deadline: When it ends, in microseconds since the epoch; written with the next change.
        left: The offsets that are not settled.
        done: Acknowledged, and not written yet.
        again: To be delivered again: (offset, when, how many deliveries count).
        dead: Given up, and not written yet.
        stale: Somebody else has what was left.
        until: By offset, when a message that was extended has to be done.
        size: The bytes of its rows.
        keyed: Whether some of its messages have keys whose order is kept.
        keeper: Who keeps its books.
    """

    def __init__(self, keeper: Keeper, key: str, value: bytes, run: Pending, parts: Sequence[Part]) -> None:
        self.key = key
        self.value = value
        self.run = run
        self.parts = parts
        self.attempt = run.attempt
        self.deadline = due_of(key)
        self.left = set(itertools.chain.from_iterable(part.offsets.tolist() for part in parts))
        self.done: list[int] = []
        self.again: list[tuple[int, int, int]] = []
        self.dead: list[Death] = []
        self.stale = False
        self.until: dict[int, int] = {}
        self.size = sum([part.size for part in parts])
        self.keyed = bool(run.keys)
        self.writing = threading.Lock()
        self._noting = threading.Lock()
        self._committing = 0
        self.keeper = keeper

    @property
    def changed(self) -> bool:
        """Whether something is not written yet."""
        return bool(self.done or self.again or self.dead or self.deadline != due_of(self.key))

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done with it."""
        with self._noting:
            return self.stale or not (self.left or self._committing or self.changed)

    def messages(self) -> Iterator[Message]:
        """Its messages, in the order of their offsets."""
        topic = self.keeper.topic.name
        for part in self.parts:
            offsets = part.offsets.tolist()
            block = Block(topic, self.run.partition, part.data, offsets, part.append_time)
            for row in range(len(offsets)):
                yield Message(block, row, self)

    def group_of(self, offset: int) -> int:
        """The key group of a message; -1 where it has no key, or no order is kept."""
        for part in self.parts:
            at = int(np.searchsorted(part.offsets, offset))
            if at < len(part) and part.offsets[at] == offset:
                return -1 if part.groups is None else int(part.groups[at])
        return -1

    def ack(self, offset: int) -> None:
        with self._settling(offset):
            self.done.append(offset)

    def nack(
        self, offset: int, delay: str | timedelta | None = None, cause: str = "not acknowledged"
    ) -> None:
        wait = None if delay is None else duration_us(delay, what="delay")
        if self.keeper.last(self.attempt):
            self.reject(offset, cause)
            return
        wait = self.keeper.backoff(self.attempt) if wait is None else wait
        with self._settling(offset):
            self.again.append((offset, self.keeper.clock.now() + wait, self.attempt))
        # What follows of its key must not overtake it.
        group = self.group_of(offset)
        if group >= 0:
            for later in sorted(self.left):
                if later > offset and self.group_of(later) == group:
                    with suppress(StaleLease):
                        self.release(later, delivered=False)

    def reject(self, offset: int, cause: str = "rejected") -> None:
        death = Death(offset, self.attempt, str(cause))
        with self._settling(offset):
            self.dead.append(death)

    def release(self, offset: int, *, delivered: bool) -> None:
        """Gives it to whoever is next; whether this delivery counts as one."""
        with self._settling(offset):
            self.again.append((offset, self.keeper.clock.now(), self.attempt - (not delivered)))

    def extend(self, offset: int, by: str | timedelta) -> None:
        length = duration_us(by, what="extend", zero=False)
        with self._noting:
            if self.stale or offset not in self.left:
                raise self._ended(offset)
            self.until[offset] = self.keeper.clock.now() + length
            self.deadline = max(self.deadline, self.until[offset])
        self.keeper.settle([self])
        if self.stale:
            raise self._ended(offset)

    def renew(self, now: int, length: int) -> None:
        """Has it last so much longer, if half of that is over; written with the next change."""
        with self._noting:
            if self.left and not self.stale and self.deadline - now < length // 2:
                self.deadline = now + length

    @contextmanager
    def transaction(self, offset: int) -> Iterator[MessageTransaction]:
        if self.stale or offset not in self.left:
            raise self._ended(offset)
        transaction = MessageTransaction(self.keeper.log, self.keeper.clock)
        try:
            yield transaction
            with self._settling(offset):
                self._committing += 1
        except BaseException:
            transaction.abort()
            raise
        try:
            # Not by way of ``done``: others write that, without the transaction.
            self.keeper.write([self], transaction, offset)
        except BaseException as error:
            # Not done, as far as this process knows; if it is, the next write finds that the record has changed.
            with self._noting:
                self.left.add(offset)
            if self.stale and isinstance(error, PreconditionFailed):
                raise self._ended(offset) from error
            raise
        finally:
            with self._noting:
                self._committing -= 1

    @contextmanager
    def _settling(self, offset: int) -> Iterator[None]:
        """Takes a message out of ``left`` as the block notes what became of it."""
        if self.stale or (self.keeper.clock.now() > self.deadline and not self._held()):
            raise self._ended(offset)
        with self._noting:
            if offset not in self.left:
                raise self._ended(offset)
            yield
            self.left.remove(offset)

    def _held(self) -> bool:
        # A write that is under way replaces the record before it says so here.
        with self.writing:
            return self.keeper.holds(self)

    def _ended(self, offset: int) -> StaleLease:
        where = f"topic {self.keeper.topic.name!r}, partition {self.run.partition}, offset {offset}"
        if offset not in self.left and not self.stale:
            return StaleLease(
                f"{where}: the message was settled before, or given back; settle a message once"
            )
        return StaleLease(
            f"{where}: the lease of group {self.keeper.name!r} ended, and the message went to another; nothing "
            "was changed. Give handlers more time with visibility=, or with message.extend(...)"
        )
