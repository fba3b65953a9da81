"""``Producer``: sends messages to topics; Kafka's shape."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import AlreadyExists, InvalidInput, MambaStreamError
from mamba_stream.log import Log, Topic, locate
from mamba_stream.log.opening import Place
from mamba_stream.messaging import bounds
from mamba_stream.messaging.outbox import Outbox
from mamba_stream.messaging.outgoing import Packer
from mamba_stream.messaging.parcel import Parcel, Piece, Sent, SentMany
from mamba_stream.messaging.routing import RoutingPolicy
from mamba_stream.messaging.schema import MAX_MESSAGE_BYTES, MESSAGES, TIME, Headers
from mamba_stream.messaging.sending import Bundle

PARTITIONS: Final = 4
BATCH_BYTES: Final = 1 << 20
MAX_BUFFER_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class ProducerStatistics:
    """What a producer has sent, and what it has still to send.

    Attributes:
        sent: Messages that are durable.
        sent_bytes: Their bytes.
        failed: Messages that were not sent, and never will be.
        waiting: Messages under way.
        waiting_bytes: Their bytes.
        commits: Change sets they took.
    """

    sent: int
    sent_bytes: int
    failed: int
    waiting: int
    waiting_bytes: int
    commits: int


class Producer:
    """Sends messages to topics. ``send`` returns at once; a thread commits what has gathered.

    A program that sends and ends has sent. What could not be sent is raised from the message's handle, or else by
    the next ``send``, ``flush`` or ``close``.

    Args:
        place: The log: a directory, an address, an open log, or nothing for the default one.
        linger: How long a message waits for company before it is committed.
        batch_bytes: So many bytes are committed without waiting any longer.
        max_buffer_bytes: So many may be under way; who sends more waits until some are durable.
        idempotent: Whether a commit that has to be repeated lands only once.
        name: Under this name what has a ``sequence`` lands only once, in whichever life of the program.
        max_message_bytes: The size of the largest message.
        clock: The clock.

    Example:
        >>> import mamba_stream as mamba
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place, mamba.Producer(place) as producer:
        ...     producer.create_topic("greetings", partitions=1)
        ...     sent = producer.send("greetings", "Hello, world!", headers={"lang": "en"})
        ...     sent.result()
        Topic('greetings', partitions=1, log='...')
        Receipt(topic='greetings', partition=0, offset=0)
    """

    def __init__(
        self,
        place: Place = None,
        *,
        linger: str | timedelta = "5ms",
        batch_bytes: int = BATCH_BYTES,
        max_buffer_bytes: int = MAX_BUFFER_BYTES,
        idempotent: bool = True,
        name: str | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        for what, value in (
            ("batch_bytes", batch_bytes),
            ("max_buffer_bytes", max_buffer_bytes),
            ("max_message_bytes", max_message_bytes),
        ):
            if not is_whole(value, 1):
                raise InvalidInput(f"{what}={value!r:.40}: give a number of bytes from 1 on")
        if max_message_bytes > MAX_MESSAGE_BYTES:
            raise InvalidInput(
                f"max_message_bytes={max_message_bytes}: a message has at most {MAX_MESSAGE_BYTES} bytes"
            )
        waits = duration_us(linger, what="linger") / 1e6
        self._name = None if name is None else check_name(name, "producer")
        log = locate(place)
        clock = log.clock if clock is None else clock
        self._packer = Packer(clock, max_message_bytes)
        self._outbox = Outbox(
            log,
            linger=waits,
            batch_bytes=batch_bytes,
            max_bytes=max_buffer_bytes,
            idempotent=idempotent,
            clock=clock,
            owned=log is not place,
        )
        self._lanes = self._outbox.lanes
        self._put = self._outbox.put
        # One that is forgotten sends what it has, and lets go of the log.
        weakref.finalize(self, self._outbox.retire).atexit = False

    def __repr__(self) -> str:
        return f"Producer({self.log.place!r})"

    @property
    def log(self) -> Log:
        """The log that it sends to."""
        return self._outbox.log

    def create_topic(
        self,
        name: str,
        partitions: int | None = None,
        *,
        schema: Any = None,
        key: str | Sequence[str] | None = None,
        time: str | None = None,
        compression: str = "none",
        exist_ok: bool = True,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        when_full: bounds.WhenFull = "block",
    ) -> Topic:
        """Creates a topic, unless it exists.

        Args:
            name: Its name.
            partitions: How many; 4 unless told otherwise, or as many as it has if it exists.
            schema: The columns of a typed topic, whose rows are the messages. Without, it takes messages of any kind.
            key: Of a typed topic: the columns whose equal values go to one partition.
            time: Of a typed topic: the column that holds the time of a row.
            compression: ``none``, ``lz4`` or ``zstd``.
            exist_ok: Whether it may exist already, with the same columns.
            max_messages: It holds at most so many messages that a group still needs.
            max_bytes: It holds at most so many bytes of them.
            when_full: What happens to messages beyond: ``"block"`` (they wait), ``"reject"`` (``QueueFull``), or
                ``"drop_oldest"`` (the oldest ones make room).

        Raises:
            AlreadyExists: It exists, and is another or ``exist_ok`` is not set.
        """
        limit = bounds.bound(max_messages, max_bytes, when_full, name)
        log = self.log
        if schema is None and (key is not None or time is not None):
            raise InvalidInput(
                f"topic {name!r}: key= and time= name columns of schema=; a message's key is given to send(...)"
            )
        columns, time = (MESSAGES, TIME) if schema is None else (schema, time)
        create = partial(
            log.create_topic, name, columns, key=key, time=time, compression=compression, exist_ok=exist_ok
        )
        anyhow = partitions is None and exist_ok
        if partitions is None:
            partitions = log[name].partitions if anyhow and name in log else PARTITIONS
        try:
            topic = create(partitions=partitions)
        except AlreadyExists:
            if not anyhow or name not in log or log[name].partitions == partitions:
                raise
            # Another process was faster, with another number of partitions.
            topic = create(partitions=log[name].partitions)
        if limit is not None:
            bounds.write(log, topic, limit)
        return topic

    def send(
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
    ) -> Sent:
        """Sends a message; returns at once with a handle that knows when it is durable, and where.

        Args:
            topic: The topic's name.
            value: A str, bytes, None, or a dict, list, number or bool; of a typed topic a row, as a dict.
            key: Messages of equal keys go to one partition, and stay in order.
            headers: What is known of it besides: names and str or bytes.
            event_type: What kind of event it is.
            partition: Where it goes, if not where the policy or its key say.
            timestamp: When it happened, if not now.
            delay: It is delivered so much later.
            at: It is not delivered before then.
            priority: 0 to 9; higher ones are delivered first.

        Raises:
            TopicNotFound: There is no such topic.
            PartitionNotFound: The topic has no such partition.
            InvalidInput: The message cannot be sent as it is; nothing was sent.
        """
        try:
            lane = self._lanes[topic]
        except (KeyError, TypeError):
            lane = self._outbox.lane(topic)
        if not lane.messages:
            batch, given, size = self._packer.row(
                lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
            )
            return self._outbox.put_batch(lane, batch, given, size).first()
        row, size = self._packer.message(
            lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
        )
        return self._put(lane, row, size)

    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        headers: Headers | None = None,
        event_type: str | None = None,
        partition: int | None = None,
        timestamp: datetime | date | str | None = None,
        delay: str | timedelta | None = None,
        at: datetime | date | str | None = None,
        priority: int = 0,
        sequence: int | None = None,
    ) -> SentMany:
        """Sends many messages at once; the fast way.

        Args:
            topic: The topic's name.
            values: A list of values, a Polars series or Arrow array of text or bytes, or a frame or table with columns
                of messages (``value``, ``key``, ``headers``, …). For a typed topic whatever ``append`` takes.
            keys: A key for each, in a list, series or array.
            headers: The headers of each of them.
            event_type: What kind of event each of them is.
            partition: Where all go, if not where the policy or their keys say.
            timestamp: When they happened, if not now.
            delay: They are delivered so much later.
            at: They are not delivered before then.
            priority: Of each of them, 0 to 9.
            sequence: They land once under this number and the producer's name, however often they are sent with it; one
                more than the last. Waits until they are durable.
        """
        if sequence is not None:
            with self.transaction(sequence=sequence) as transaction:
                return transaction.send_many(
                    topic,
                    values,
                    keys=keys,
                    headers=headers,
                    event_type=event_type,
                    partition=partition,
                    timestamp=timestamp,
                    delay=delay,
                    at=at,
                    priority=priority,
                )
        lane = self._outbox.lane(topic)
        batch, given, size = self._packer.many(
            lane, values, keys, headers, event_type, partition, timestamp, delay, at, priority
        )
        if not batch.num_rows:
            return SentMany(Parcel(lane, self._outbox, 0.0), 0, 0)
        return self._outbox.put_batch(lane, batch, given, size)

    def transaction(self, *, sequence: int | None = None) -> ProducerTransaction:
        """Begins a transaction: ``with producer.transaction() as tx: tx.send(...)``; all of it is sent, or none.

        Args:
            sequence: It lands once under this number and the producer's name, however often it is tried; one more than
                the last.
        """
        if sequence is not None:
            if self._name is None:
                raise InvalidInput(
                    "a sequence counts under a producer's name: make it with Producer(name=...)"
                )
            if not is_whole(sequence):
                raise InvalidInput(
                    f"sequence={sequence!r:.40}: give a number from 0 on, one more than the last"
                )
        self._outbox.check()
        once = None if sequence is None else (str(self._name), int(sequence))
        return ProducerTransaction(self._outbox, self._packer, once)

    def set_routing_policy(self, policy: RoutingPolicy | None) -> None:
        """Routes what is sent from now on by this policy, as it is now; ``None`` for none.

        Raises:
            PartitionNotFound: A rule names a partition that its topic does not have.
        """
        if policy is not None and not isinstance(policy, RoutingPolicy):
            raise InvalidInput(
                f"a routing policy is a RoutingPolicy, not {type(policy).__name__} {policy!r:.60}"
            )
        self._outbox.set_policy(RoutingPolicy() if policy is None else policy)

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all that was sent is durable.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: Some is still under way.
            MambaStreamError: Some was not sent, and nobody had heard of it yet.
        """
        self._outbox.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes, and ends; raises as :meth:`flush` does."""
        self._outbox.close(timeout)

    def statistics(self) -> ProducerStatistics:
        """What was sent, and what is still to be sent."""
        outbox = self._outbox
        waiting, waiting_bytes = outbox.waiting
        return ProducerStatistics(
            outbox.sent, outbox.sent_bytes, outbox.failed, waiting, waiting_bytes, outbox.commits
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except MambaStreamError as failed:
            if error is None:
                raise
            error.add_note(f"besides, some messages were not sent: {failed}")


class ProducerTransaction:
    """Messages, rows and offsets that become visible together when the block ends, or not at all.

    They come after all that the producer sent before. Handles have their answer once the block has ended.
    """

    def __init__(self, outbox: Outbox, packer: Packer, sequence: tuple[str, int] | None) -> None:
        self._outbox = outbox
        self._packer = packer
        self._parcels: dict[str, Parcel] = {}
        self._bundle = Bundle([], together=True, sequence=sequence)
        self._done = False

    def send(
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
    ) -> Sent:
        """Sends a message; arguments as for :meth:`Producer.send`."""
        parcel = self._parcel(topic)
        lane, packer = parcel.lane, self._packer
        if not lane.messages:
            batch, given, size = packer.row(
                lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
            )
            return Sent(parcel, parcel.add_batch(batch, given, size))
        row, size = packer.message(
            lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
        )
        return Sent(parcel, parcel.add(row, size))

    def send_many(
        self,
        topic: str,
        values: Any,
        *,
        keys: Any = None,
        headers: Headers | None = None,
        event_type: str | None = None,
        partition: int | None = None,
        timestamp: datetime | date | str | None = None,
        delay: str | timedelta | None = None,
        at: datetime | date | str | None = None,
        priority: int = 0,
    ) -> SentMany:
        """Sends many messages; arguments as for :meth:`Producer.send_many`."""
        parcel = self._parcel(topic)
        batch, given, size = self._packer.many(
            parcel.lane, values, keys, headers, event_type, partition, timestamp, delay, at, priority
        )
        if not batch.num_rows:
            return SentMany(parcel, 0, 0)
        start = parcel.add_batch(batch, given, size)
        return SentMany(parcel, start, start + batch.num_rows)

    def append(self, topic: str, data: Any, *, partition: int | None = None) -> SentMany:
        """Appends rows of the topic's own columns, in any form that a topic takes."""
        parcel = self._parcel(topic)
        batch, given, size = self._packer.rows(parcel.lane, data, partition)
        if not batch.num_rows:
            return SentMany(parcel, 0, 0)
        start = parcel.add_batch(batch, given, size)
        return SentMany(parcel, start, start + batch.num_rows)

    def commit_offsets(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        """Sets the next offset that a group reads, by (topic, partition)."""
        self._check()
        # Refuses now what could only be refused then.
        draft = self._outbox.log.transaction()
        draft.commit_offsets(group, offsets)
        draft.abort()
        self._bundle.offsets.append((group, dict(offsets)))

    def commit(self) -> None:
        """Sends all of it; returns once it is durable.

        Raises:
            MambaStreamError: Nothing of it was sent.
        """
        self._check()
        self._done = True
        self._bundle.parcels = [parcel for parcel in self._parcels.values() if parcel.count]
        if self._bundle.parcels or self._bundle.offsets:
            try:
                self._outbox.submit(self._bundle)
            except MambaStreamError as error:
                self._give_up(f"its transaction was not committed ({error})")
                raise

    def abort(self) -> None:
        """Forgets all of it; nothing was sent."""
        if not self._done:
            self._done = True
            self._give_up("its transaction was aborted")

    def _give_up(self, why: str) -> None:
        """Whoever holds a handle of what the outbox never had may know it."""
        for parcel in self._parcels.values():
            if parcel.home is None and parcel.count > parcel.settled:
                error = MambaStreamError(f"a message to topic {parcel.lane.name!r} was not sent: {why}")
                parcel.settle(Piece(parcel.settled, parcel.count, error=error))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._done:
            return
        if error is None:
            self.commit()
        else:
            self.abort()

    def _parcel(self, topic: str) -> Parcel:
        self._check()
        lane = self._outbox.lane(topic)
        parcel = self._parcels.get(lane.name)
        if parcel is None:
            # Under a sequence what is sent again goes where it went.
            once = self._bundle.sequence
            parcel = self._parcels[lane.name] = Parcel(lane, None, 0.0, None if once is None else once[1])
        return parcel

    def _check(self) -> None:
        if self._done:
            raise MambaStreamError("this transaction is over: begin another with producer.transaction()")


def topic_for(log: Log, name: str) -> Topic:
    """The topic of this name; made for messages, with one partition, where there is none."""
    if name in log:
        return log[name]
    try:
        return log.create_topic(name, MESSAGES, time=TIME, exist_ok=True)
    except AlreadyExists:
        # Another process was faster, with more partitions.
        return log[name]
