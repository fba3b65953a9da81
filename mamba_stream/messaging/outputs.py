"""What a message's transaction is: one of the log's, which can also send."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from mamba_stream.core.clock import Clock
from mamba_stream.log import Log, Transaction
from mamba_stream.messaging.outgoing import Packer
from mamba_stream.messaging.parcel import Lane, Parcel
from mamba_stream.messaging.priorities import announce_priority
from mamba_stream.messaging.schema import MAX_MESSAGE_BYTES, Headers


class MessageTransaction(Transaction):
    """Rows, messages and records that commit together with the acknowledgement of a message, or not at all.

    Example:
        >>> import mamba_stream as mamba, tempfile
        >>> log = mamba.open(tempfile.mkdtemp())
        >>> with mamba.Producer(log) as producer:
        ...     for topic in ("numbers", "squares"):
        ...         _ = producer.create_topic(topic, partitions=1)
        ...     _ = producer.send("numbers", 12)
        >>> def square(message):
        ...     with message.transaction() as tx:
        ...         tx.send("squares", message.value ** 2)
        >>> for topic, callback in (("numbers", square), ("squares", lambda message: print(message.value))):
        ...     with mamba.Subscriber(topic, log, group="mathematicians", start="earliest") as subscriber:
        ...         subscriber.subscribe(callback)
        ...         subscriber.run(until="empty")
        144
        >>> log.close()
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        super().__init__(log)
        self._packer = Packer(clock, MAX_MESSAGE_BYTES)

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
    ) -> None:
        """Sends a message when the transaction commits; arguments as for :meth:`Producer.send`.

        It is not held up where a bounded topic is full: what waits for room would hold up the message that is done.

        Raises:
            TopicNotFound: There is no such topic.
            InvalidInput: The message cannot be sent as it is.
        """
        self._check_open()
        # Messages without a key take turns by the commit that they follow.
        lane = Lane(self._topic(topic), self._log.lsn(), None)
        parcel = Parcel(lane, None, 0.0)
        if lane.messages:
            row, size = self._packer.message(
                lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
            )
            if priority:
                # By itself, and whatever becomes of this: what somebody else notes must not refuse this transaction.
                announce_priority(self._log, lane.topic, priority)
            parcel.add(row, size)
        else:
            batch, given, size = self._packer.row(
                lane, value, key, headers, event_type, partition, timestamp, delay, at, priority
            )
            parcel.add_batch(batch, given, size)
        parcel.build()
        for number, rows in parcel.split(0, parcel.count):
            self.append(topic, rows, partition=number)
