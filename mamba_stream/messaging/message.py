"""A message as a subscriber or consumer has it: a row in queue clothing, and what may be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.messaging.schema import (
    BYTES,
    TEXT,
    decode_headers,
    decode_key,
    decode_value,
    is_message_schema,
    value_kind,
)
from mamba_stream.messaging.waiting import in_thread

if TYPE_CHECKING:
    from mamba_stream.messaging.outputs import MessageTransaction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rule(Protocol):
    """Decides on columns which rows become messages."""

    def mask(self, batch: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """For every row whether it does; ``None``: all do."""
        ...


class Delivery(Protocol):
    """What stands behind a message: whoever handed it out, and keeps the books."""

    attempt: int
    """How often its messages were delivered, this time included; counted from 1."""

    def ack(self, offset: int) -> None: ...
    def nack(self, offset: int, delay: str | timedelta | None, cause: str) -> None: ...
    def reject(self, offset: int, cause: str) -> None: ...
    def extend(self, offset: int, by: str | timedelta) -> None: ...
    def transaction(self, offset: int) -> AbstractContextManager[MessageTransaction]: ...


class Block:
    """Rows that became messages together: columns are decoded once, when they are first asked for."""

    def __init__(
        self, topic: str, partition: int, data: pa.RecordBatch, offsets: Sequence[int], append_time: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.data = data
        self.offsets = offsets
        self.append_time = append_time
        self.plain = not is_message_schema(data.schema)
        self._masks: dict[int, np.ndarray[tuple[int], np.dtype[np.bool_]] | None] = {}

    def mask_of(self, rule: Rule) -> np.ndarray[tuple[int], np.dtype[np.bool_]] | None:
        """Which rows a rule lets pass; ``None``: all."""
        if id(rule) not in self._masks:
            self._masks[id(rule)] = rule.mask(self.data)
        return self._masks[id(rule)]

    @cached_property
    def kinds(self) -> list[int]:
        kinds: list[int] = self.data.column("kind").to_pylist()
        return kinds

    @cached_property
    def values(self) -> list[Any]:
        values: list[Any]
        if self.plain:
            values = self.data.to_pylist()
            return values
        column = self.data.column("value")
        kinds = set(map(value_kind, self.kinds))
        values = (column.cast(pa.large_string()) if kinds == {TEXT} else column).to_pylist()
        return values if kinds <= {TEXT} or kinds <= {BYTES} else list(map(decode_value, values, self.kinds))

    @cached_property
    def keys(self) -> list[Any]:
        if self.plain:
            return [None] * self.data.num_rows
        return list(map(decode_key, self.data.column("key").to_pylist(), self.kinds))

    @cached_property
    def headers(self) -> list[dict[str, str | bytes]]:
        if self.plain:
            return [{}] * self.data.num_rows
        return list(map(decode_headers, self.data.column("headers").to_pylist()))

    @cached_property
    def event_types(self) -> list[str | None]:
        types: list[str | None] = [None] * self.data.num_rows
        return types if self.plain else self.data.column("event_type").to_pylist()

    @cached_property
    def times(self) -> list[int | None]:
        times: list[int | None] = [None] * self.data.num_rows
        return times if self.plain else pc.cast(self.data.column("time"), pa.int64()).to_pylist()

    @cached_property
    def priorities(self) -> list[int]:
        priorities: list[int] = [0] * self.data.num_rows
        return priorities if self.plain else self.data.column("priority").to_pylist()


class TransactionBlock:
    """What ``with`` or ``async with`` goes through; in a coroutine a thread commits, and the event loop goes on."""

    __slots__ = ("_block",)

    def __init__(self, block: AbstractContextManager[MessageTransaction]) -> None:
        self._block = block

    def __enter__(self) -> MessageTransaction:
        return self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self._block.__exit__(kind, error, trace)

    async def __aenter__(self) -> MessageTransaction:
        return self._block.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is not None:
            return self._block.__exit__(kind, error, trace)
        return await in_thread(self._block.__exit__, None, None, None)


class Message:
    """One message.

    Attributes:
        topic: The topic it came from.
        partition: Its partition.
        offset: Its offset there.
        attempt: How often it was delivered, this time included; counted from 1.

    On a typed topic, ``value`` is the row as a dict, and there is neither key nor header.
    """

    __slots__ = ("_block", "_delivery", "_row", "attempt", "offset")

    def __init__(self, block: Block, row: int, delivery: Delivery) -> None:
        self._block = block
        self._row = row
        self._delivery = delivery
        self.offset = block.offsets[row]
        self.attempt = delivery.attempt

    def __repr__(self) -> str:
        value = repr(self.value)
        shown = value if len(value) <= 60 else value[:60] + "…"
        return f"Message({shown}, topic={self.topic!r}, partition={self.partition}, offset={self.offset})"

    def passes(self, rule: Rule) -> bool:
        """Whether a rule lets it pass; asked once for all messages that became messages together."""
        mask = self._block.mask_of(rule)
        return mask is None or bool(mask[self._row])

    @property
    def topic(self) -> str:
        """The topic it came from."""
        return self._block.topic

    @property
    def partition(self) -> int:
        """Its partition."""
        return self._block.partition

    @property
    def value(self) -> Any:
        """What was sent: a str, bytes, dict, list, number or None again; the row of a typed topic."""
        return self._block.values[self._row]

    @property
    def key(self) -> Any:
        """The key it was sent with."""
        return self._block.keys[self._row]

    @property
    def headers(self) -> dict[str, str | bytes]:
        """Its headers; values are text where they are UTF-8, else bytes."""
        return self._block.headers[self._row]

    @property
    def event_type(self) -> str | None:
        """What kind of event its sender called it."""
        return self._block.event_types[self._row]

    @property
    def time(self) -> datetime | None:
        """When it was sent, or what its sender said, in UTC."""
        time = self._block.times[self._row]
        return None if time is None else _EPOCH + timedelta(microseconds=time)

    @property
    def append_time(self) -> datetime:
        """When the log took it, in UTC."""
        return _EPOCH + timedelta(microseconds=self._block.append_time)

    @property
    def priority(self) -> int:
        """0 to 9; higher ones are delivered first."""
        return self._block.priorities[self._row]

    def ack(self) -> None:
        """Done: it is not delivered again. Durable within moments, together with others.

        Raises:
            StaleLease: The lease ended, or it was settled before; somebody else may have it now.
        """
        self._delivery.ack(self.offset)

    def nack(self, delay: str | timedelta | None = None, cause: str = "not acknowledged") -> None:
        """Not done: delivered again after ``delay``, or after the subscription's back-off.

        After the last attempt it goes to the dead letters, with the cause.

        Raises:
            StaleLease: The lease ended, or it was settled before.
        """
        self._delivery.nack(self.offset, delay, cause)

    def reject(self, cause: str = "rejected") -> None:
        """Never to be done: goes to the dead letters, with the cause.

        Raises:
            StaleLease: The lease ended, or it was settled before.
        """
        self._delivery.reject(self.offset, cause)

    def extend(self, by: str | timedelta) -> None:
        """Keeps it for so much longer from now on, before it is delivered again.

        Raises:
            StaleLease: The lease ended, or it was settled before.
        """
        self._delivery.extend(self.offset, by)

    async def extend_async(self, by: str | timedelta) -> None:
        """As :meth:`extend`, in a coroutine: a thread commits, and the event loop goes on.

        Cancelled while that is under way, it is kept for so much longer all the same.

        Raises:
            StaleLease: The lease ended, or it was settled before.
        """
        await in_thread(self._delivery.extend, self.offset, by)

    def transaction(self) -> TransactionBlock:
        """A transaction that also acknowledges this message: outputs and ack commit together, or not at all.

        ``tx.send(...)`` sends messages in it, ``tx.append(...)`` rows; its records and offsets are those of the log. In
        a coroutine write ``async with message.transaction() as tx``.

        Raises:
            StaleLease: The lease ended meanwhile; nothing was committed.
        """
        return TransactionBlock(self._delivery.transaction(self.offset))
