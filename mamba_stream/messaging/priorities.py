"""Which priorities the messages of a topic have, and where each begins: noted before the first such message comes.

A record of the namespace ``priorities``, by the topic's number. Groups that share the topic read a priority from where
it begins, and no other priority than 0 costs anything that was never used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mamba_stream.core.changes import MAX_RECORD_BYTES
from mamba_stream.errors import PreconditionFailed
from mamba_stream.log import Log, Topic, Transaction

PRIORITIES: Final = "priorities"
Priorities = Mapping[int, Mapping[int, int]]
"""Priorities, and from where on there are such messages, by partition."""
WITHOUT_PRIORITIES: Final[Priorities] = {0: {}}
_FEW = 64
"""Up to here Python has them all before Arrow has begun."""
_decoder = msgspec.msgpack.Decoder(dict[int, dict[int, int]])


def priorities_of(log: Log, number: int) -> Priorities:
    """The priorities of the topic with this number, 0 always among them."""
    return decoded(log.record(PRIORITIES, str(number)))


def decoded(stored: bytes | None) -> Priorities:
    """The priorities that a topic's record notes, 0 always among them."""
    return WITHOUT_PRIORITIES if stored is None else {0: {}, **_decoder.decode(stored)}


def note_priorities(
    log: Log, transaction: Transaction, topic: Topic, column: pa.Array, known: Collection[int] = ()
) -> dict[int, dict[int, int]]:
    """Notes priorities in the transaction in which their messages are appended.

    Args:
        log: The log.
        transaction: What the messages are appended in.
        topic: Where to.
        column: The priorities of the messages.
        known: Priorities that are noted for certain.

    Returns:
        What was noted before, if it had to be looked at.
    """
    used = _used(column)
    if not any(priority and priority not in known for priority in used):
        return {}
    stored = log.record(PRIORITIES, str(topic.number))
    noted = {} if stored is None else _decoder.decode(stored)
    fresh = {priority for priority in used if priority} - noted.keys()
    if fresh:
        ends = {partition: end for partition, (_, end) in topic.offsets().items()}
        transaction.require_record(PRIORITIES, str(topic.number), stored)
        transaction.put_record(PRIORITIES, str(topic.number), _noted(noted, fresh, ends))
    return noted


def _used(column: pa.Array) -> list[int]:
    """Each priority in a column, a few of them perhaps more than once; what is null has none, which is 0."""
    if len(column) <= _FEW:
        return [priority or 0 for priority in column.to_pylist()]
    used: list[int] = np.asarray(pc.unique(column).fill_null(0).to_numpy(zero_copy_only=False)).tolist()
    return used


def announce_priority(log: Log, topic: Topic, priority: int) -> None:
    """Notes a priority at once, where it is new: in a change set that somebody else's note must not refuse."""
    while True:
        transaction = log.transaction()
        if priority in note_priorities(log, transaction, topic, pa.array([priority], pa.uint8())):
            transaction.abort()
            return
        try:
            transaction.commit()
        except PreconditionFailed:
            # Somebody else noted one: look again.
            continue
        return


def _noted(noted: dict[int, dict[int, int]], fresh: set[int], ends: dict[int, int]) -> bytes:
    """The record; where it would be too large, without ends: those priorities are looked for from the beginning."""
    for value in (
        noted | dict.fromkeys(sorted(fresh), ends),
        noted | {priority: {} for priority in sorted(fresh)},
    ):
        encoded = msgspec.msgpack.encode(value)
        if len(encoded) <= MAX_RECORD_BYTES:
            return encoded
    return msgspec.msgpack.encode({priority: {} for priority in sorted({*noted, *fresh})})
