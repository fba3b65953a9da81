"""``Publisher``: publishes messages to one topic, each at once."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from mamba_stream.core.clock import Clock
from mamba_stream.core.names import check_name
from mamba_stream.log import Topic
from mamba_stream.log.opening import Place
from mamba_stream.messaging.parcel import Sent
from mamba_stream.messaging.producer import Producer, ProducerStatistics, topic_for
from mamba_stream.messaging.routing import RoutingPolicy
from mamba_stream.messaging.schema import MAX_MESSAGE_BYTES, Headers


class Publisher:
    """Publishes messages to a topic, which is created if missing, with one partition.

    A program that publishes and ends has published. What could not be published is raised from the message's handle,
    or else by the next ``publish``, ``flush`` or ``close``.

    Args:
        topic: The topic's name.
        log: The log: a directory, an address, an open log, or nothing for the default one.
        max_message_bytes: The size of the largest message.
        clock: The clock.

    Example:
        >>> import mamba_stream as mamba
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place, mamba.Publisher("my-topic", place) as publisher:
        ...     publisher.publish("Hello, world!").result()
        Receipt(topic='my-topic', partition=0, offset=0)
    """

    def __init__(
        self,
        topic: str,
        log: Place = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._topic = check_name(topic)
        self._producer = Producer(log, linger="0s", max_message_bytes=max_message_bytes, clock=clock)
        try:
            topic_for(self._producer.log, topic)
        except BaseException:
            self._producer.close()
            raise

    def __repr__(self) -> str:
        return f"Publisher({self._topic!r}, log={self._producer.log.place!r})"

    @property
    def topic(self) -> Topic:
        """The topic that it publishes to."""
        return self._producer.log[self._topic]

    def publish(
        self,
        value: Any,
        *,
        key: str | bytes | int | None = None,
        headers: Headers | None = None,
        event_type: str | None = None,
        delay: str | timedelta | None = None,
        at: datetime | date | str | None = None,
        priority: int = 0,
    ) -> Sent:
        """Publishes a message; returns at once with a handle that knows when it is durable, and where.

        Arguments as for :meth:`Producer.send`.

        Raises:
            InvalidInput: The message cannot be published as it is; nothing was published.
        """
        return self._producer.send(
            self._topic,
            value,
            key=key,
            headers=headers,
            event_type=event_type,
            delay=delay,
            at=at,
            priority=priority,
        )

    def set_routing_policy(self, policy: RoutingPolicy | None) -> None:
        """Routes what is published from now on by this policy; ``None`` for none."""
        self._producer.set_routing_policy(policy)

    def flush(self, timeout: float | None = None) -> None:
        """Waits until all that was published is durable; as :meth:`Producer.flush`."""
        self._producer.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Flushes, and ends."""
        self._producer.close(timeout)

    def statistics(self) -> ProducerStatistics:
        """What was published, and what is still to be."""
        return self._producer.statistics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._producer.__exit__(kind, error, trace)
