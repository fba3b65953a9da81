"""``Subscriber``: callbacks for messages. Returning acknowledges, raising means a retry."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import InvalidInput, LogClosed, Reject, StaleLease, TopicNotFound
from mamba_stream.log import Log, Topic
from mamba_stream.log.opening import Place, locate
from mamba_stream.messaging.books import Book, LogBook, PrivateBook
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.deadletters import DEAD
from mamba_stream.messaging.interest import interest_in
from mamba_stream.messaging.latency import Latencies
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.message import Message, Rule
from mamba_stream.messaging.parts import Mask
from mamba_stream.messaging.schema import is_message_schema
from mamba_stream.messaging.shared import Counts, SharedGroup, Terms
from mamba_stream.messaging.slots import Coroutines, Inline, Slots, Threads

Callback = Callable[[Message], Any]

_LOOK = 0.2
"""Seconds between two looks at topics that may have come, and at whether to stop."""
_REPORT = 1.0
_PATIENCE = 2.0
"""A subscriber that starts at the latest message and waits so long beside earlier ones says so."""
_logger = logging.getLogger("mamba_stream.messaging")


@dataclass(frozen=True)
class SubscriberStatistics:
    """What a subscriber did since it was made.

    Attributes:
        delivered: Messages handed out, each time they were.
        acknowledged: Messages that were done, and are written as such.
        retried: Deliveries that failed, or were given back.
        dead: Messages that went to the dead letters.
        expired: Messages taken from others whose leases had ended.
        stale: Acknowledgements that came too late: the messages were another's.
        trimmed: Messages that were gone before they could be delivered.
        inhand: Messages that are being handled now.
        paused: Topics whose group has so much open that it takes nothing new.
        latency: Seconds from the append to the acknowledgement: ``latency_sum``, ``latency_count``, ``p50``, ``p99``.
    """

    delivered: int
    acknowledged: int
    retried: int
    dead: int
    expired: int
    stale: int
    trimmed: int
    inhand: int
    paused: tuple[str, ...]
    latency: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Subscription:
    callback: Callback
    event_type: str | None
    rule: Rule | None

    def mask(self, batch: pa.RecordBatch) -> Mask | None:
        mask = None if self.rule is None else self.rule.mask(batch)
        if self.event_type is None:
            return mask
        if not is_message_schema(batch.schema):
            return np.zeros(batch.num_rows, bool)
        same = pc.fill_null(pc.equal(batch.column("event_type"), self.event_type), False)
        found: Mask = same.to_numpy(zero_copy_only=False)
        return found if mask is None else found & mask


class _Wanted:
    """What at least one of the subscriptions wants."""

    def __init__(self, subscriptions: list[_Subscription]) -> None:
        self._subscriptions = subscriptions

    def mask(self, batch: pa.RecordBatch) -> Mask | None:
        wanted = np.zeros(batch.num_rows, bool)
        for subscription in self._subscriptions:
            mask = subscription.mask(batch)
            if mask is None:
                return None
            wanted |= mask
        return wanted


class Subscriber:
    """Calls back for every message of its topics.

    Without a group it gets all messages. With one, each message goes to one of the group's subscribers, wherever they
    run. A callback that returns has done its message; one that raises gets it again, later; one that raises
    :class:`mamba_stream.Reject` sends it to the dead letters. A message is done at least once: effects outside the log
    should bear a repetition, and those inside belong into ``message.transaction()``, where they happen exactly once.

    Args:
        topics: A topic, a list of them, a glob (``"orders.*"``) or a compiled regular expression; topics that come
            later join.
        log: Where the log is: a directory, an open log, or nothing for the default.
        group: The group that shares the messages.
        concurrency: How many messages are handled at once: in threads, or as coroutines where the callback is one.
        visibility: How long a callback may take; then its message goes to another.
        attempts: After so many deliveries that failed a message goes to the dead letters.
        backoff: How long the first retry waits, which doubles from one to the next, and the longest.
        dead_letter: The topic of the dead letters; the topic's name and ``.dead`` unless told otherwise.
        start: Where a new group, or a subscriber without a group, begins: ``"latest"``, ``"earliest"`` or a time.
        ordered: Keep messages of a key in order: one waits until those before it are done.
        name: What statistics call it.
        clock: Tells the time; for tests.

    Example:
        >>> import mamba_stream as mamba, tempfile
        >>> log = mamba.open(tempfile.mkdtemp())
        >>> with mamba.Publisher("greetings", log) as publisher:
        ...     _ = publisher.publish("Hello, world!")
        >>> subscriber = mamba.Subscriber("greetings", log, start="earliest")
        >>> subscriber.subscribe(lambda message: print(message.value))
        >>> subscriber.run(until="empty")
        Hello, world!
        >>> log.close()
    """

    def __init__(
        self,
        topics: Any,
        log: Place = None,
        *,
        group: str | None = None,
        concurrency: int = 1,
        visibility: str | timedelta = "30s",
        attempts: int = 5,
        backoff: tuple[str | timedelta, str | timedelta] = ("1s", "5m"),
        dead_letter: str | None = None,
        start: str | datetime = "latest",
        ordered: bool = True,
        name: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._interest = interest_in(topics)
        self._group = None if group is None else check_name(group, "group")
        for what, number in (("concurrency", concurrency), ("attempts", attempts)):
            if not is_whole(number, 1):
                raise InvalidInput(f"{what}={number!r}: give a number from 1 on")
        if start not in ("latest", "earliest") and not isinstance(start, datetime):
            raise InvalidInput(f"start={start!r}: choose 'latest', 'earliest' or a datetime")
        self._concurrency = int(concurrency)
        self._attempts = int(attempts)
        self._visibility = duration_us(visibility, what="visibility", zero=False)
        self._backoff = _backoff(backoff)
        self._dead_letter = None if dead_letter is None else check_name(dead_letter)
        self._start = start
        self._ordered = ordered
        self._name = name
        self._clock = clock or SystemClock()
        self._subscriptions: list[_Subscription] = []
        self._open = locate(log)
        self._own_log = not isinstance(log, Log)
        self._book: Book = PrivateBook(self._open) if self._group is None else LogBook(self._open)
        self._groups: dict[str, SharedGroup] = {}
        self._counted: list[Counts] = []
        self._ends: dict[str, dict[int, int]] = {}
        self._courier = self._courier_anew()
        self._member: Member | None = None
        self._next_look = self._next_report = 0.0
        self._coroutines: Coroutines | None = None
        self._stopping = threading.Event()
        self._closed = False
        # What is there when it subscribes begins at ``start``; what comes later, at its beginning.
        for topic in self._wanted():
            self._ends[topic.name] = self._first(topic)

    def __repr__(self) -> str:
        group = f", group={self._group!r}" if self._group else ""
        return f"Subscriber({', '.join(self._interest.topics) or self._interest.regex!r}{group})"

    def subscribe(
        self, callback: Callback, *, event_type: str | None = None, rule: Rule | None = None
    ) -> None:
        """Has the callback called for every message, or for those of an event type, or that a rule lets pass.

        A message that several callbacks want is done when all of them have returned.

        Args:
            callback: A function or a coroutine function of one message.
            event_type: Only messages of this type.
            rule: A :class:`mamba_stream.FilterRule`, evaluated on columns before rows become messages.
        """
        if not callable(callback):
            raise InvalidInput(f"subscribe({callback!r:.80}): give a function of one message")
        if rule is not None and not callable(getattr(rule, "mask", None)):
            raise InvalidInput(f"rule={rule!r:.80}: give a mamba.FilterRule")
        if self._groups:
            raise InvalidInput("subscribe before run(): it is under way")
        self._subscriptions.append(_Subscription(callback, event_type, rule))

    def run(self, until: str = "stopped") -> None:
        """Calls back until it is stopped, or until nothing is left.

        Args:
            until: ``"stopped"``; or ``"empty"``: until every message of these topics is done, also those that wait for
                a retry or for their time.
        """
        self._run(until, None)

    def _run(self, until: str, event_loop: asyncio.AbstractEventLoop | None) -> None:
        """Runs; coroutines on this event loop, where one is given."""
        if until not in ("stopped", "empty"):
            raise InvalidInput(f"until={until!r}: choose 'stopped' or 'empty'")
        if not self._subscriptions:
            raise InvalidInput("nobody is called back yet: subscriber.subscribe(callback) before run()")
        self._check_open()
        asynchronous = {_is_async(each.callback) for each in self._subscriptions}
        if len(asynchronous) > 1:
            raise InvalidInput("the callbacks are functions and coroutine functions: make them all one kind")
        slots: Slots
        if asynchronous == {True}:
            self._coroutines = slots = Coroutines(
                self._handle_async, self._concurrency, self._courier.returned, event_loop
            )
        elif self._concurrency > 1:
            slots = Threads(self._handle, self._concurrency)
        else:
            slots = Inline(self._handle)
        self._begin()
        try:
            self._loop(slots, until == "empty")
        finally:
            slots.close()
            self._coroutines = None
            self._courier.close()
            self._courier = self._courier_anew()
            self._counted = [group.counts for group in self._groups.values()]
            self._groups.clear()
            self._stopping.clear()

    def stop(self) -> None:
        """Has ``run`` return, from another thread or a signal handler; what is being handled is finished."""
        self._stopping.set()

    def statistics(self) -> SubscriberStatistics:
        """What it did since ``run`` began, or in the last run."""
        latencies = Latencies()
        counts = [group.counts for group in self._groups.values()] or self._counted
        for count in counts:
            latencies.merge(count.latencies)
        return SubscriberStatistics(
            delivered=sum(c.delivered for c in counts),
            acknowledged=sum(c.acknowledged for c in counts),
            retried=sum(c.retried for c in counts),
            dead=sum(c.dead for c in counts),
            expired=sum(c.expired for c in counts),
            stale=sum(c.stale for c in counts),
            trimmed=sum(c.trimmed for c in counts),
            inhand=self._courier.inhand,
            paused=tuple(name for name, group in self._groups.items() if group.full),
            latency=latencies.counters(),
        )

    def close(self) -> None:
        """Leaves. Not while ``run`` is under way: stop it first."""
        if self._closed:
            return
        self._closed = True
        if self._member is not None:
            self._member.close()
        if self._own_log:
            self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # The loop.

    def _begin(self) -> None:
        if self._member is None:
            self._member = Member(
                LogBook(self._open),
                self._clock,
                kind="subscriber",
                group=self._group or "",
                name=self._name,
                reads="shared" if self._group else "alone",
                interest=self._interest,
            )
        self._look(first=True)

    def _loop(self, slots: Slots, until_empty: bool) -> None:
        courier, log = self._courier, self._open
        told = self._clock.monotonic() + _PATIENCE if self._start == "latest" else float("inf")
        while not self._stopping.is_set():
            courier.check()
            lsn = log.lsn()
            now = self._clock.monotonic()
            if now >= self._next_look:
                self._look()
            took = courier.fetch()
            started = False
            while slots.free and not self._stopping.is_set() and (message := courier.next()) is not None:
                slots.start(message)
                started = True
            if took or started:
                told = float("inf") if took else told
                continue
            if until_empty and courier.empty and not courier.inhand:
                courier.settle()
                if all(group.idle() for group in self._groups.values()):
                    return
            if now >= told:
                told = float("inf")
                self._tell()
            log.wait(lsn, self._pause(slots))

    def _pause(self, slots: Slots) -> float:
        if not slots.free:
            return 0.001
        due = [due for group in self._groups.values() if (due := group.next_due()) is not None]
        soon = (min(due) - self._clock.now()) / 1e6 if due else _LOOK
        return max(0.001, min(soon, _LOOK))

    def _look(self, *, first: bool = False) -> None:
        """Finds topics that came, and forgets those that went."""
        now = self._clock.monotonic()
        self._next_look = now + _LOOK
        assert self._member is not None
        for topic in self._wanted():
            known = self._groups.get(topic.name)
            if known is None or known.topic.number != topic.number:
                self._join(topic)
        if now >= self._next_report or first:
            self._next_report = now + _REPORT
            facts = self.statistics()
            self._member.report(
                {"received": facts.delivered, "acknowledged": facts.acknowledged, **facts.latency}
            )

    def _join(self, topic: Topic) -> None:
        assert self._member is not None
        everything = any(each.event_type is None and each.rule is None for each in self._subscriptions)
        terms = Terms(
            dead_letter=self._dead_letter or f"{topic.name}.dead",
            visibility=self._visibility,
            attempts=self._attempts,
            backoff=self._backoff,
            ordered=self._ordered,
            rule=None if everything else _Wanted(self._subscriptions),
        )
        group = SharedGroup(
            self._open,
            topic,
            self._group or f"subscriber-{self._member.id}",
            session=self._member.session,
            terms=terms,
            book=self._book,
            clock=self._clock,
            chance=_chance,
        )
        group.begin(self._ends.get(topic.name) or {p: begin for p, (begin, _) in topic.offsets().items()})
        self._groups[topic.name] = group
        self._courier.add(group)

    def _wanted(self) -> list[Topic]:
        names = self._open.topics() if self._interest.open else self._interest.named
        found = []
        for name in names:
            if self._interest.wants(name) and name in self._open:
                with suppress(TopicNotFound):
                    topic = self._open[name]
                    # A pattern does not mean the dead letters of what it names.
                    if name in self._interest.named or DEAD not in topic.schema.names:
                        found.append(topic)
        return found

    def _first(self, topic: Topic) -> dict[int, int]:
        if isinstance(self._start, datetime):
            return topic.offset_at(self._start, by="time" if topic.time else "append")
        return {p: begin if self._start == "earliest" else end for p, (begin, end) in topic.offsets().items()}

    def _tell(self) -> None:
        earlier = sum(
            end - begin
            for name in self._ends
            if name in self._groups
            for begin, end in self._groups[name].topic.offsets().values()
        )
        delivered = sum(group.counts.delivered for group in self._groups.values())
        if earlier and not delivered:
            _logger.warning(
                "%r starts at the latest message and waits for new ones; there are %s earlier ones: start='earliest' "
                "would begin with those",
                self,
                f"{earlier:,}",
            )

    # Handling.

    def _handle(self, message: Message) -> None:
        try:
            for callback in self._callbacks(message):
                callback(message)
        except Exception as error:  # noqa: BLE001 - whatever a callback raises is a retry
            self._failed(message, error)
        except BaseException:
            # Interrupted: the message is not to blame.
            self._courier.returned(message)
            raise
        else:
            self._succeeded(message)
        finally:
            self._courier.finished(message)

    async def _handle_async(self, message: Message) -> None:
        try:
            for callback in self._callbacks(message):
                await callback(message)
        except Exception as error:  # noqa: BLE001 - whatever a callback raises is a retry
            self._failed(message, error)
        except BaseException:
            self._courier.returned(message)
            raise
        else:
            self._succeeded(message)
        finally:
            self._courier.finished(message)

    def _callbacks(self, message: Message) -> list[Callback]:
        if len(self._subscriptions) == 1:
            return [self._subscriptions[0].callback]
        return [each.callback for each in self._subscriptions if message.passes(each)]

    def _succeeded(self, message: Message) -> None:
        # The callback may have settled it itself; or it took too long, and the message is another's.
        with suppress(StaleLease, LogClosed):
            message.ack()

    def _failed(self, message: Message, error: Exception) -> None:
        with suppress(StaleLease, LogClosed):
            if isinstance(error, Reject):
                message.reject(str(error) or "rejected")
                return
            _logger.warning("%r failed, attempt %d: %r", message, message.attempt, error, exc_info=error)
            message.nack(None, f"{type(error).__name__}: {error}")

    def _courier_anew(self) -> Courier:
        return Courier(self._clock, self._visibility, self._concurrency)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("this subscriber was closed: make another")


def _chance() -> float:
    return int.from_bytes(os.urandom(4)) / (1 << 32)


def _backoff(given: Any) -> tuple[int, int]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidInput(f"backoff={given!r}: give the first and the longest wait, such as ('1s', '5m')")
    first, longest = (duration_us(each, what="backoff") for each in given)
    if first > longest:
        raise InvalidInput(f"backoff={given!r}: the first wait is longer than the longest")
    return first, longest


def _is_async(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)
