"""``Subscriber``: callbacks for messages. Returning acknowledges, raising means a retry."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.clock import Clock
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import DiskFull, InvalidInput, LogClosed, Reject, StaleLease
from mamba_stream.log import Log, Topic
from mamba_stream.log.opening import Place, locate
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.courier import Courier
from mamba_stream.messaging.fitting import check_named
from mamba_stream.messaging.interest import interest_in
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.membership import check_group
from mamba_stream.messaging.message import Message, Rule
from mamba_stream.messaging.parts import Mask
from mamba_stream.messaging.schema import is_message_schema
from mamba_stream.messaging.sharing import LOOK, Policy, Sharing, SharingStatistics
from mamba_stream.messaging.slots import Coroutines, Inline, Slots, Threads
from mamba_stream.messaging.terms import Terms

Callback = Callable[[Message], Any]

_MOMENT = 0.005
_PATIENCE = 2.0
"""A subscriber that starts at the latest message and waits so long beside earlier ones says so."""
_logger = logging.getLogger("mamba_stream.messaging")


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

    def check(self, schema: pa.Schema) -> None:
        check = getattr(self.rule, "check", None)
        if check is not None:
            check(schema)


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

    def check(self, schema: pa.Schema) -> None:
        """Raises where one of them cannot judge rows of this schema."""
        for subscription in self._subscriptions:
            subscription.check(schema)


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
        self._group = None if group is None else check_group(group)
        if not is_whole(concurrency, 1):
            raise InvalidInput(f"concurrency={concurrency!r}: give a number from 1 on")
        if start not in ("latest", "earliest") and not isinstance(start, datetime):
            raise InvalidInput(f"start={start!r}: choose 'latest', 'earliest' or a datetime")
        self._concurrency = int(concurrency)
        self._policy = Policy.of(visibility, attempts, backoff, dead_letter, ordered)
        self._start = start
        self._name = name
        self._subscriptions: list[_Subscription] = []
        self._open = locate(log)
        self._clock = clock or self._open.clock
        self._own_log = not isinstance(log, Log)
        self._sharing = Sharing(self._open, self._clock, self._interest, self._group, start)
        self._courier = self._courier_anew()
        self._member: Member | None = None
        self._coroutines: Coroutines | None = None
        self._running = False
        self._full = False
        # Not an event: a signal's handler may set it while this very thread is within the event's lock.
        self._stopping = False
        self._freed = threading.Event()
        self._closed = False

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
            rule: A :class:`mamba_stream.FilterRule`, evaluated on columns before rows become messages. A named topic
                whose rows it cannot judge is an error, here or from ``run`` when it comes; one that only a pattern
                matches is left out, with a warning.

        Raises:
            ColumnNotFound: The rule looks at a column that one of the named topics does not have.
            InvalidInput: This cannot be right, or the rule cannot judge the rows of a named topic.
        """
        if not callable(callback):
            raise InvalidInput(f"subscribe({callback!r:.80}): give a function of one message")
        if rule is not None and not callable(getattr(rule, "mask", None)):
            raise InvalidInput(f"rule={rule!r:.80}: give a mamba.FilterRule")
        if self._running:
            raise InvalidInput("subscribe before run(): it is under way")
        check_named(rule, self._interest, self._open)
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
                self._handle_async,
                self._concurrency,
                self._courier.returned,
                self._freed.set,
                event_loop,
            )
        elif self._concurrency > 1:
            slots = Threads(self._handle, self._concurrency, self._freed.set)
        else:
            slots = Inline(self._handle)
        self._running = True
        try:
            self._join()
            self._loop(slots, until == "empty")
        finally:
            # Whatever interrupts one of these: nobody may go on renewing leases.
            try:
                slots.close()
                self._courier.abandon()
            finally:
                courier, self._courier = self._courier, self._courier_anew()
                self._coroutines = None
                self._stopping = self._running = False
                courier.close()
        if slots.error is not None:
            raise slots.error

    def stop(self) -> None:
        """Has ``run`` return, from another thread or a signal handler; what is being handled is finished.

        Where it does not run, the next ``run`` returns at once.
        """
        self._stopping = True

    def statistics(self) -> SharingStatistics:
        """What became of its messages since ``run`` began last."""
        return self._sharing.statistics()

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

    def _join(self) -> None:
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
        self._sharing.join(self._member, self._courier, self._terms, _Wanted(self._subscriptions))

    def _terms(self, topic: Topic) -> Terms:
        everything = any(each.event_type is None and each.rule is None for each in self._subscriptions)
        return self._policy.terms(topic, None if everything else _Wanted(self._subscriptions))

    def _loop(self, slots: Slots, until_empty: bool) -> None:
        log = self._open
        told = self._clock.monotonic() + _PATIENCE if self._start == "latest" else float("inf")
        while not self._stopping:
            if slots.error is not None:
                raise slots.error
            self._courier.check()
            self._freed.clear()
            # Before it is asked whether all is done: what ends from here on is waited for no longer than a moment.
            inhand = bool(self._courier.inhand)
            lsn = log.heard()
            try:
                took, started = self._hand_out(slots)
                if took or started:
                    told = float("inf") if took else told
                    continue
                if until_empty and self._done():
                    return
            except DiskFull as error:
                self._wait_for_room(error)
                continue
            self._full = False
            if self._clock.monotonic() >= told:
                told = float("inf")
                self._tell()
            self._wait(slots, lsn, until_empty and inhand)

    def _hand_out(self, slots: Slots) -> tuple[bool, bool]:
        """Whether messages were taken, and whether some began to be handled."""
        self._sharing.look()
        took, started = self._courier.fetch(), False
        while slots.free and not self._stopping and (message := self._courier.next()) is not None:
            slots.start(message)
            started = True
        return took, started

    def _done(self) -> bool:
        courier = self._courier
        if not courier.empty or courier.inhand:
            return False
        courier.settle()
        return self._sharing.idle()

    def _wait(self, slots: Slots, lsn: int, ending: bool) -> None:
        """Waits for what may bring something to do: a message that is finished, a commit, a time."""
        if not slots.free:
            # Whatever falls due has to wait for that.
            self._freed.wait(LOOK)
        elif ending or not self._courier.empty:
            # For whichever of both is first. What waits here waits for one that is in hand, or was a moment ago.
            self._freed.wait(_MOMENT)
        else:
            pause = self._sharing.pause()
            if not self._courier.wait(lsn, pause):
                self._open.wait(lsn, pause)

    def _wait_for_room(self, error: DiskFull) -> None:
        if not self._full:
            self._full = True
            _logger.warning("%r goes on when there is room: %s", self, error)
        self._freed.wait(LOOK)

    def _tell(self) -> None:
        shared = self._sharing.groups
        earlier = sum(
            end - begin
            for group in shared.values()
            if group.topic.number in self._sharing.begins
            for begin, end in group.topic.offsets().values()
        )
        if earlier and not self.statistics().delivered:
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
                if inspect.iscoroutine(later := callback(message)):
                    later.close()
                    raise TypeError(
                        f"{callback!r} returned a coroutine, which nobody awaits: subscribe a coroutine function"
                    )
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
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                # Not this one was cancelled, but something that it awaited.
                self._failed(message, error)
                return
            self._courier.returned(message)
            raise
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

    def _failed(self, message: Message, error: BaseException) -> None:
        with suppress(StaleLease, LogClosed):
            if isinstance(error, Reject):
                message.reject(_text(error) or "rejected")
                return
            message.nack(None, f"{type(error).__name__}: {_text(error)}")
        where = f"topic={message.topic!r}, partition={message.partition}, offset={message.offset}"
        _logger.warning("Message(%s) failed, attempt %d", where, message.attempt, exc_info=error)

    def _courier_anew(self) -> Courier:
        return Courier(self._clock, self._policy.visibility, self._concurrency)

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("this subscriber was closed: make another")


def _is_async(callback: Callback) -> bool:
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failed:  # noqa: BLE001 - an error that cannot tell of itself is one all the same
        return f"(its text cannot be had: {type(failed).__name__})"
