"""Dead letters as somebody who operates a queue looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mamba_stream.core.deadletters import DEAD
from mamba_stream.errors import NotFound
from mamba_stream.log import Log, LogBatch
from mamba_stream.messaging.letterbook import LetterBook, Place, letter_book, passes
from mamba_stream.messaging.message import Block, Rule
from mamba_stream.messaging.schema import Headers

State = Literal["left", "redriven", "purged"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be done.

    Attributes:
        partition: Its partition in the topic of dead letters.
        offset: Its offset there.
        state: ``left``, ``redriven`` (it was put back) or ``purged``.
        topic: The topic it came from.
        origin: Its partition and offset there.
        group: The group that gave it up.
        attempts: How often it was delivered.
        cause: Why.
        at: When.
        value: What was sent; the row of a typed topic.
        key: The key it was sent with.
        headers: Its headers.
        event_type: What kind of event its sender called it.
        time: When it was sent, or what its sender said, in microseconds since the epoch.
        priority: Its priority.
    """

    partition: int
    offset: int
    state: State
    topic: str
    origin: Place
    group: str
    attempts: int
    cause: str
    at: datetime
    value: Any
    key: Any
    headers: Headers
    event_type: str | None
    time: int | None
    priority: int


def letters(log: Log, name: str, *, where: Rule | None = None, every: bool = False) -> Iterator[DeadLetter]:
    """The letters that are left, in the order in which they came, partition by partition.

    Args:
        log: The log.
        name: The topic of dead letters.
        where: Only those that this lets pass; it sees the columns of the message, and ``_dead``.
        every: Also those that were put back or purged.

    Raises:
        TopicNotFound: There is no such topic.
        InvalidInput: It is not one of dead letters.
    """
    return _told(letter_book(log, name), where, every)


def letter(log: Log, name: str, partition: int, offset: int) -> DeadLetter:
    """One letter, whatever became of it.

    Raises:
        NotFound: It is not there, or not any more.
    """
    known = letter_book(log, name)
    begin, end = known.topic.offsets().get(partition, (0, 0))
    if not begin <= offset < end:
        raise NotFound(
            f"topic {name!r}, partition {partition}, has no letter {offset}: "
            + (f"its offsets are {begin}..{end - 1}" if begin < end else "it holds none")
        )
    [batch] = known.topic.read(
        start={partition: offset}, end={partition: offset + 1}, partitions=[partition], max_rows=1
    )
    return next(_decoded(known, batch, np.ones(1, bool)))


def _told(known: LetterBook, where: Rule | None, every: bool) -> Iterator[DeadLetter]:
    for partition, (begin, end) in known.offsets.items():
        for batch in known.batches(partition, begin, end):
            redriven, purged = known.gone(partition, batch.offsets)
            shown = passes(where, batch.data)
            if not every:
                shown &= ~redriven & ~purged
            yield from _decoded(known, batch, shown)


def _decoded(known: LetterBook, batch: LogBatch, shown: Any) -> Iterator[DeadLetter]:
    rows = np.flatnonzero(shown)
    if not len(rows):
        return
    redriven, purged = known.gone(batch.partition, batch.offsets[rows])
    data = batch.data.take(pa.array(rows))
    offsets = batch.offsets[rows].tolist()
    block = Block(known.topic.name, batch.partition, known.messages(data), offsets, batch.append_time)
    for row, fact in enumerate(data.column(DEAD).to_pylist()):
        yield DeadLetter(
            partition=batch.partition,
            offset=offsets[row],
            state="redriven" if redriven[row] else "purged" if purged[row] else "left",
            topic=fact["topic"],
            origin=(fact["partition"], fact["offset"]),
            group=fact["group"],
            attempts=fact["attempts"],
            cause=fact["cause"],
            at=fact["at"].astimezone(UTC),
            value=block.values[row],
            key=block.keys[row],
            headers=block.headers[row],
            event_type=block.event_types[row],
            time=block.times[row],
            priority=block.priorities[row],
        )
