"""Publishers, subscribers, producers and consumers for asyncio: ``mamba.aio``.

The same classes with the same arguments, over the same cores; what may wait is a coroutine, and nothing that waits,
reads or commits runs on the event loop. Each has a thread of its own for that, in which its core is opened when it is
entered (``async with``) or first used.

A coroutine that is cancelled leaves nothing half done: what was not handed out, or handed out and not done, is
delivered again, and a commit that is under way is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar

from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput, LogClosed, MambaStreamError
from mamba_stream.log import Topic
from mamba_stream.log.opening import Place
from mamba_stream.messaging import consumer, producer, subscriber
from mamba_stream.messaging.feed import FeedStatistics, Partition, Run, Start
from mamba_stream.messaging.message import Message, Rule
from mamba_stream.messaging.outgoing import ROW_BYTES
from mamba_stream.messaging.parcel import Receipt
from mamba_stream.messaging.partitionfeed import PartitionFeed
from mamba_stream.messaging.producer import ProducerStatistics, ProducerTransaction
from mamba_stream.messaging.routing import RoutingPolicy
from mamba_stream.messaging.schema import Headers
from mamba_stream.messaging.sharedfeed import SharedFeed
from mamba_stream.messaging.sharing import SharingStatistics
from mamba_stream.messaging.subscriber import Callback
from mamba_stream.messaging.waiting import finished

__all__ = ["Consumer", "Producer", "Publisher", "Subscriber"]

_SLICE: Final = 0.25
"""Seconds that a thread waits at a time: so long it may go on after a coroutine was cancelled."""
_AGES: Final = float("inf")
_Result = TypeVar("_Result")


class _Core(Protocol):
    def close(self) -> None: ...


_CoreType = TypeVar("_CoreType", bound=_Core)


class _Twin(Generic[_CoreType]):
    """A core, and the one thread that works for it."""

    def __init__(self, make: Callable[[], _CoreType]) -> None:
        self._make = make
        self._core: _CoreType | None = None
        self._thread = ThreadPoolExecutor(1, "mamba-aio")
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.core()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except MambaStreamError as failed:
            if error is None:
                raise
            error.add_note(f"besides, closing failed: {failed}")

    async def close(self) -> None:
        """Ends as its core does: what is under way is finished, and made durable."""
        if self._closed:
            return
        self._closed = True
        core = self._core
        try:
            if core is not None:
                await self._finish(core.close)
        finally:
            self._thread.shutdown(wait=False)

    async def core(self) -> _CoreType:
        """The synchronous one, opened."""
        if self._closed:
            raise LogClosed(f"this {type(self).__name__.lower()} was closed: make another")
        return self._core if self._core is not None else await self._finish(self._open)

    def _open(self) -> _CoreType:
        if self._core is None:
            self._core = self._make()
        return self._core

    async def call(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """Runs it in the thread. Cancelled, it is not waited for: it must not matter whether it happens."""
        return await asyncio.wrap_future(self._thread.submit(function, *arguments, **named))

    async def in_thread(self, function: Callable[[_CoreType], _Result]) -> _Result:
        """Calls it with the core in its thread, to the end, also when cancelled."""
        core = await self.core()
        return await self._finish(function, core)

    async def _finish(self, function: Callable[..., _Result], *arguments: Any, **named: Any) -> _Result:
        """Runs it in the thread to its end, also when cancelled."""
        return await finished(asyncio.wrap_future(self._thread.submit(function, *arguments, **named)))


class _ProducerCore(producer.Producer):
    def has_room(self) -> bool:
        """Whether taking a message of any size does not wait."""
        return self._outbox.has_room(self._packer.most + ROW_BYTES)


class _ConsumerCore(consumer.Consumer):
    @property
    def clock(self) -> Clock:
        return self._clock

    def feed(self) -> PartitionFeed | SharedFeed:
        return self._fed()

    def begin(self) -> None:
        self._begin()

    def more(self, deadline: float, *, until_empty: bool) -> tuple[bool, Run | None]:
        """Whether the loop is over, and the next messages, if there are any by now."""
        feed = self._fed()
        if self._clock.monotonic() >= feed.due:
            feed.tick()
        run = feed.take()
        if run is not None:
            return False, run
        now = self._clock.monotonic()
        if (until_empty and feed.at_end()) or now >= deadline:
            return True, None
        self._wait(min(deadline, now + _SLICE))
        return False, None

    _asker: object = None

    def poll_for(self, asker: object, timeout: timedelta, most: int) -> list[Message]:
        messages = self.poll(timeout, max_messages=most)
        self._asker = asker
        return messages

    def forget(self, asker: object) -> None:
        """What was taken for this asker was given to nobody; what another was given before is."""
        if self._asker is asker:
            self._polled.clear()


class _SubscriberCore(subscriber.Subscriber):
    def run_on(self, loop: asyncio.AbstractEventLoop, until: str) -> None:
        self._run(until, loop)

    def abandon(self) -> None:
        """Ends without finishing what is being handled; called on the event loop."""
        self.stop()
        if self._coroutines is not None:
            self._coroutines.cancel()


class _Sending(_Twin[_ProducerCore]):
    """What sends, one message or many."""

    _last: Future[Any] | None = None
    """What the thread was given last to be sent."""

    async def flush(self) -> None:
        """Waits until all that was sent is durable; as :meth:`mamba_stream.Producer.flush`."""
        await self.call((await self.core()).flush)

    async def set_routing_policy(self, policy: RoutingPolicy | None) -> None:
        """Routes what is sent from now on by this policy; ``None`` for none."""
        await self._finish((await self.core()).set_routing_policy, policy)

    async def statistics(self) -> ProducerStatistics:
        """What was sent, and what is still to be sent."""
        return (await self.core()).statistics()

    async def _send(self, topic: str, value: Any, **options: Any) -> Receipt:
        core = await self.core()
        if (self._last is None or self._last.done()) and core.has_room():
            return await core.send(topic, value, **options)
        # Where the buffer is full, taking it waits; those that come after it wait behind it.
        return await (await self._queued(core.send, topic, value, **options))

    async def _queued(self, function: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
        self._last = future = self._thread.submit(function, *arguments, **options)
        return await asyncio.wrap_future(future)


class Producer(_Sending):
    """:class:`mamba_stream.Producer` for asyncio. ``await producer.send(...)`` gives the receipt of a durable message.

    Coroutines that send at the same time share commits: ``asyncio.gather`` them, or use :meth:`send_many`.

    Args:
        place: The log: a directory, an address, an open log, or nothing for the default one.
        options: As for :class:`mamba_stream.Producer`.

    Example:
        >>> import asyncio, tempfile
        >>> import mamba_stream as mamba
        >>> async def main():
        ...     async with mamba.aio.Producer(tempfile.mkdtemp()) as producer:
        ...         await producer.create_topic("greetings", partitions=1)
        ...         return await asyncio.gather(*(producer.send("greetings", word) for word in ("hello", "world")))
        >>> asyncio.run(main())
        [Receipt(topic='greetings', partition=0, offset=0), Receipt(topic='greetings', partition=0, offset=1)]
    """

    def __init__(self, place: Place = None, **options: Any) -> None:
        super().__init__(lambda: _ProducerCore(place, **options))

    async def create_topic(self, name: str, partitions: int | None = None, **options: Any) -> Topic:
        """Creates a topic, unless it exists; arguments as for :meth:`mamba_stream.Producer.create_topic`."""
        core = await self.core()
        return await self._finish(core.create_topic, name, partitions, **options)

    async def send(
        self,
        topic: str,
        value: Any,
        *,
        key: str | bytes | int | None = None,
        headers: Headers | None = None,
        event_type: str | None = None,
        partition: int | None = None,
        timestamp: datetime | date | str | None = None,
        delay: str | timedelta | None = None,
        at: datetime | date | str | None = None,
        priority: int = 0,
    ) -> Receipt:
        """Sends a message, and says where it is, once it is durable there.

        Cancelled while it waits, the message may be sent all the same. Arguments as for
        :meth:`mamba_stream.Producer.send`.
        """
        return await self._send(
            topic,
            value,
            key=key,
            headers=headers,
            event_type=event_type,
            partition=partition,
            timestamp=timestamp,
            delay=delay,
            at=at,
            priority=priority,
        )

    async def send_many(self, topic: str, values: Any, **options: Any) -> dict[int, tuple[int, int]]:
        """Sends many messages, and says which offsets they have in each partition, once all are durable.

        Arguments as for :meth:`mamba_stream.Producer.send_many`.
        """
        core = await self.core()
        return await (await self._queued(core.send_many, topic, values, **options))

    def transaction(self, *, sequence: int | None = None) -> _ProducerTransaction:
        """``async with producer.transaction() as tx: tx.send(...)``; as :meth:`mamba_stream.Producer.transaction`."""
        return _ProducerTransaction(self, sequence)


class _ProducerTransaction:
    """Begins in the thread of its producer, and commits there."""

    def __init__(self, of: Producer, sequence: int | None) -> None:
        self._of = of
        self._sequence = sequence
        self._core: ProducerTransaction | None = None

    async def __aenter__(self) -> ProducerTransaction:
        self._core = await self._of.in_thread(lambda core: core.transaction(sequence=self._sequence))
        return self._core

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        begun = self._core
        assert begun is not None
        await self._of.in_thread(lambda _: begun.__exit__(kind, error, trace))


class Publisher(_Sending):
    """:class:`mamba_stream.Publisher` for asyncio.

    Args:
        topic: The topic's name; it is created if missing.
        log: The log: a directory, an address, an open log, or nothing for the default one.
        options: As for :class:`mamba_stream.Publisher`.

    Example:
        >>> import asyncio, tempfile
        >>> import mamba_stream as mamba
        >>> async def main():
        ...     async with mamba.aio.Publisher("my-topic", tempfile.mkdtemp()) as publisher:
        ...         return await publisher.publish("Hello, world!")
        >>> asyncio.run(main())
        Receipt(topic='my-topic', partition=0, offset=0)
    """

    def __init__(self, topic: str, log: Place = None, **options: Any) -> None:
        self._topic = check_name(topic)
        super().__init__(lambda: _publishing(topic, _ProducerCore(log, linger="0s", **options)))

    async def publish(
        self,
        value: Any,
        *,
        key: str | bytes | int | None = None,
        headers: Headers | None = None,
        event_type: str | None = None,
        delay: str | timedelta | None = None,
        at: datetime | date | str | None = None,
        priority: int = 0,
    ) -> Receipt:
        """Publishes a message, and says where it is, once it is durable there; as :meth:`Producer.send`."""
        return await self._send(
            self._topic,
            value,
            key=key,
            headers=headers,
            event_type=event_type,
            delay=delay,
            at=at,
            priority=priority,
        )


def _publishing(topic: str, core: _ProducerCore) -> _ProducerCore:
    try:
        producer.topic_for(core.log, topic)
    except BaseException:
        core.close()
        raise
    return core


class Consumer(_Twin[_ConsumerCore]):
    """:class:`mamba_stream.Consumer` for asyncio. It belongs to one task; its messages may be settled from any.

    Args:
        place: The log: a directory, an address, an open log, or nothing for the default one.
        options: As for :class:`mamba_stream.Consumer`.

    Example:
        >>> import asyncio, tempfile
        >>> import mamba_stream as mamba
        >>> async def main(place):
        ...     async with mamba.aio.Publisher("my-topic", place) as publisher:
        ...         await publisher.publish("Hello, world!")
        ...     async with mamba.aio.Consumer(place) as consumer:
        ...         await consumer.subscribe("my-topic")
        ...         return [message.value async for message in consumer.consume(until="empty")]
        >>> asyncio.run(main(tempfile.mkdtemp()))
        ['Hello, world!']
    """

    def __init__(self, place: Place = None, **options: Any) -> None:
        super().__init__(lambda: _ConsumerCore(place, **options))

    async def subscribe(self, topics: Any) -> None:
        """Reads these topics, instead of what it read before; as :meth:`mamba_stream.Consumer.subscribe`."""
        await self._finish((await self.core()).subscribe, topics)

    async def assign(self, partitions: Mapping[str, Collection[int]]) -> None:
        """Reads these partitions, instead of what it read before; as :meth:`mamba_stream.Consumer.assign`."""
        await self._finish((await self.core()).assign, partitions)

    def consume(
        self,
        *,
        max_messages: int | None = None,
        timeout: str | timedelta | None = None,
        until: str | None = None,
    ) -> AsyncIterator[Message]:
        """Messages, one after the other: ``async for message in consumer.consume()``.

        Asking for the next message acknowledges the one before. Leaving the loop, by ``break``, an exception or a
        cancellation, does not: that one is delivered again. Arguments as for :meth:`mamba_stream.Consumer.consume`.
        """
        most = consumer.at_most(max_messages, "max_messages")
        wait = _AGES if timeout is None else duration_us(timeout, what="timeout") / 1e6
        if until not in (None, "empty"):
            raise InvalidInput(f"until={until!r}: choose 'empty', or leave it out to go on for ever")
        return _Messages(self, most, wait, until == "empty")

    async def poll(
        self,
        timeout: str | timedelta = "0s",  # noqa: ASYNC109 - as its core has it: the end of waiting, no error
        *,
        max_messages: int = 500,
    ) -> list[Message]:
        """The next messages, as many as there are; as :meth:`mamba_stream.Consumer.poll`.

        Asking again acknowledges those of the last time. A poll that is cancelled has handed out none.
        """
        core = await self.core()
        left, asker = duration_us(timeout, what="timeout"), object()
        try:
            while True:
                now = min(left, int(_SLICE * 1e6))
                found = await self.call(core.poll_for, asker, timedelta(microseconds=now), max_messages)
                left -= now
                if found or left <= 0:
                    return found
        except asyncio.CancelledError:
            # What the thread took, or still takes, nobody was given: the next loop has it delivered again.
            self._thread.submit(core.forget, asker)
            raise

    async def commit(self, messages: Message | Iterable[Message] | None = None) -> None:
        """Commits what was acknowledged, now; as :meth:`mamba_stream.Consumer.commit`."""
        await self._finish((await self.core()).commit, messages)

    async def seek(self, to: Mapping[Partition, int | Start] | Start) -> None:
        """Goes on from elsewhere; as :meth:`mamba_stream.Consumer.seek`."""
        await self._finish((await self.core()).seek, to)

    async def position(self) -> dict[Partition, int]:
        """Where it has come, by topic and partition."""
        return await self._finish((await self.core()).position)

    async def committed(self) -> dict[Partition, int]:
        """Where its group would go on, by topic and partition."""
        return await self._finish((await self.core()).committed)

    async def assignment(self) -> list[Partition]:
        """The partitions that it reads now."""
        return await self._finish((await self.core()).assignment)

    async def pause(self, partitions: Collection[Partition] | None = None) -> None:
        """Hands out no more messages of these partitions, or of any, until :meth:`resume`."""
        await self._finish((await self.core()).pause, partitions)

    async def resume(self, partitions: Collection[Partition] | None = None) -> None:
        """Goes on with what was paused."""
        await self._finish((await self.core()).resume, partitions)

    async def set_filter_rule(self, rule: Rule | None) -> None:
        """From now on receives only messages that a rule accepts; ``None`` takes all."""
        await self._finish((await self.core()).set_filter_rule, rule)

    async def statistics(self) -> FeedStatistics | SharingStatistics:
        """What it did so far."""
        return await self._finish((await self.core()).statistics)


class _Messages:
    """The loop of a consumer: within a run of messages nothing waits; everything else is done in the thread."""

    def __init__(self, of: Consumer, most: int, patience: float, until_empty: bool) -> None:
        self._of = of
        self._left = most
        self._patience = patience
        self._until_empty = until_empty
        self._begun = False
        self._run: Run | None = None
        self._row = -1
        """The row that was handed out last and is not done."""
        self._deadline = _AGES

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        core = await self._of.core()
        feed = core.feed()
        monotonic = core.clock.monotonic
        if not self._begun:
            await self._of.call(core.begin)
            self._begun = True
            self._deadline = monotonic() + self._patience
        run = self._run
        if run is not None and self._row >= 0:
            # Where the run shrank under our hands, it is not ours to settle.
            if self._row < run.count:
                run.done = self._row + 1
            self._row = -1
        if not self._left:
            raise StopAsyncIteration
        if monotonic() >= feed.due:
            await self._of.call(feed.tick)
        while run is None or run.handed >= run.count:
            over, run = await self._of.call(core.more, self._deadline, until_empty=self._until_empty)
            if over:
                raise StopAsyncIteration
        self._run = run
        self._row = row = run.handed
        run.handed = row + 1
        self._left -= 1
        if self._patience < _AGES:
            self._deadline = monotonic() + self._patience
        return Message(run.block, row, run)


class Subscriber(_Twin[_SubscriberCore]):
    """:class:`mamba_stream.Subscriber` for asyncio: coroutine functions are called back on the loop that runs it.

    Functions that are no coroutine functions are called in threads.

    Args:
        topics: A topic, a list of them, a glob or a compiled regular expression.
        log: The log: a directory, an address, an open log, or nothing for the default one.
        options: As for :class:`mamba_stream.Subscriber`; ``concurrency`` is the number of coroutines at once.

    Example:
        >>> import asyncio, tempfile
        >>> import mamba_stream as mamba
        >>> async def main(place):
        ...     async with mamba.aio.Publisher("my-topic", place) as publisher:
        ...         await publisher.publish("Hello, world!")
        ...     async def show(message):
        ...         print(message.value)
        ...     async with mamba.aio.Subscriber("my-topic", place, start="earliest") as subscriber:
        ...         await subscriber.subscribe(show)
        ...         await subscriber.run(until="empty")
        >>> asyncio.run(main(tempfile.mkdtemp()))
        Hello, world!
    """

    def __init__(self, topics: Any, log: Place = None, **options: Any) -> None:
        super().__init__(lambda: _SubscriberCore(topics, log, **options))

    async def subscribe(
        self, callback: Callback, *, event_type: str | None = None, rule: Rule | None = None
    ) -> None:
        """Has the callback called for every message, or for some; as :meth:`mamba_stream.Subscriber.subscribe`."""
        (await self.core()).subscribe(callback, event_type=event_type, rule=rule)

    async def run(self, until: str = "stopped") -> None:
        """Calls back until it is stopped, or until nothing is left; as :meth:`mamba_stream.Subscriber.run`.

        Cancelled, it cancels the callbacks that are under way; their messages are delivered again.
        """
        core = await self.core()
        running = asyncio.wrap_future(self._thread.submit(core.run_on, asyncio.get_running_loop(), until))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            core.abandon()
            await finished(running)
            raise

    def stop(self) -> None:
        """Has ``run`` return; what is being handled is finished."""
        if self._core is not None:
            self._core.stop()

    async def statistics(self) -> SharingStatistics:
        """What it did since ``run`` began."""
        return (await self.core()).statistics()
