"""Reading one partition as messages, in order: what was handed out, what of it is done, and going back.

A :class:`Lane` is a partition that is read; a :class:`Portion` is a run of its rows that became messages together, and
stands behind them. How far a lane is done moves over done messages without a gap between them.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Final, Protocol

import numpy as np
import pyarrow as pa

from mamba_stream.core.durations import duration_us
from mamba_stream.errors import InvalidInput, OffsetTrimmed, StaleLease, TopicNotFound
from mamba_stream.log import LogBatch, Topic
from mamba_stream.messaging.assignment import Slot
from mamba_stream.messaging.message import Block, Message, Rule
from mamba_stream.messaging.outputs import MessageTransaction

_ROWS: Final = 8192
"""A portion has no more: columns become Python values at once, and these take memory."""

GIVEN_UP: Final = "its partition belongs to another consumer now"
CLOSED: Final = "the consumer was closed"
SOUGHT: Final = "the consumer went elsewhere in its partition, or began to read again"
SENT_BACK: Final = "it, or a message before it, is to be delivered again"


class Host(Protocol):
    """What a lane's feed does for its messages."""

    def count(self, portion: Portion) -> None: ...
    def delay(self, lane: Lane, microseconds: int) -> None: ...
    def extend(self, microseconds: int) -> None: ...
    def transaction(self, portion: Portion, offset: int) -> AbstractContextManager[MessageTransaction]: ...


class Portion:
    """Rows of one partition that became messages together; what stands behind these.

    Attributes:
        block: The rows.
        count: How many messages it has; fewer than ``handed``, where later ones were taken back.
        handed: How many were handed out.
        done: How many, from the first on, are done.
        attempt: How often its messages were delivered, this time included.
        lane: Its partition.
    """

    __slots__ = (
        "_counted",
        "_early",
        "_end",
        "_gone",
        "_seen",
        "attempt",
        "block",
        "count",
        "done",
        "handed",
        "lane",
    )

    def __init__(self, lane: Lane, block: Block, end: int, attempt: int) -> None:
        self.lane = lane
        self._end = end
        self._early: set[int] = set()
        self._gone = ""
        self._seen = 0
        self._counted = 0
        self.block = block
        self.count = len(block.offsets)
        self.handed = 0
        self.done = 0
        self.attempt = attempt

    @property
    def position(self) -> int:
        """The offset before which all is done."""
        offsets = self.block.offsets
        return offsets[self.done] if self.done < len(offsets) else self._end

    def after(self, offset: int) -> int:
        """The offset before which all is done, once this message is."""
        offsets = self.block.offsets
        row = bisect.bisect_right(offsets, offset)
        return offsets[row] if row < len(offsets) else self._end

    def messages(self, most: int) -> list[Message]:
        """Hands out as many as there are, but no more than ``most``."""
        first, self.handed = self.handed, min(self.count, self.handed + most)
        return [Message(self.block, row, self) for row in range(first, self.handed)]

    def finish(self, upto: int) -> None:
        """The first so many are done."""
        with self.lane.lock:
            self._reach(min(upto, self.count))

    def cut(self, row: int, why: str) -> None:
        """What comes from this row on is no business of this portion any more."""
        self.count = row
        self._gone = why

    def news(self) -> tuple[int, int]:
        """How many were handed out, and how many done, since the last time."""
        handed, done = self.handed - self._seen, self.done - self._counted
        self._seen, self._counted = self.handed, self.done
        return handed, done

    def ack(self, offset: int) -> None:
        with self.lane.lock:
            row = self._open(offset)
            if row == self.done:
                self._reach(row + 1)
            else:
                self._early.add(row)

    def nack(self, offset: int, delay: str | timedelta | None, cause: str) -> None:
        pause = 0 if delay is None else duration_us(delay, what="delay")
        with self.lane.lock:
            self._open(offset)
            self.lane.rewind(offset, SENT_BACK)
        self.lane.host.delay(self.lane, pause)

    def reject(self, offset: int, cause: str) -> None:
        raise InvalidInput(
            "a consumer that reads by partition has no dead letters: reject() needs shared consumption, as in "
            "mamba.Subscriber(..., group=, dead_letter=). Here, send the message elsewhere in message.transaction()"
        )

    def extend(self, offset: int, by: str | timedelta) -> None:
        length = duration_us(by, what="by")
        with self.lane.lock:
            self._open(offset)
        self.lane.host.extend(length)

    def transaction(self, offset: int) -> AbstractContextManager[MessageTransaction]:
        return self.lane.host.transaction(self, offset)

    def check_next(self, offset: int) -> None:
        """Raises where this message cannot be done now, because it is no more, or not yet."""
        with self.lane.lock:
            if self._open(offset) != self.done or self.lane.portions[0] is not self:
                raise InvalidInput(
                    f"{self._where(offset)}: messages before it are not done, and offsets are committed in order: "
                    "ack() those first"
                )

    def _open(self, offset: int) -> int:
        """The row of a message that is neither done nor gone."""
        row = bisect.bisect_left(self.block.offsets, offset)
        if row < self.done or row in self._early:
            raise StaleLease(f"{self._where(offset)} was acknowledged before")
        if row >= self.count:
            raise StaleLease(f"{self._where(offset)} is not this consumer's any more: {self._gone}")
        return row

    def _reach(self, done: int) -> None:
        done = max(done, self.done)
        while done in self._early:
            self._early.discard(done)
            done += 1
        self.done = done
        if self._early:
            self._early = {row for row in self._early if row > done}

    def _where(self, offset: int) -> str:
        return f"message {offset} of topic {self.block.topic!r}, partition {self.block.partition}"


class Lane:
    """A partition that is read from ``start`` on; it belongs to one thread, but messages are acknowledged from any.

    Attributes:
        slot: Topic number and partition.
        topic: The topic.
        partition: The partition.
        generation: The one of its group's ownership in which it is read; 0 without a group.
        portions: What was read and is not all done, in order.
        paused: Whether it is not to be read for now.
        resume: Not before then, by the monotonic clock.
        committed: The offset that was committed last, as far as we know; ``None``: none.
        filtered: Rows that did not become messages.
        trimmed: Rows that were gone before they could be read.
    """

    def __init__(
        self,
        host: Host,
        topic: Topic,
        partition: int,
        start: int,
        committed: int | None,
        generation: int = 0,
    ) -> None:
        self.host = host
        self.slot: Slot = (topic.number, partition)
        self.topic = topic
        self.partition = partition
        self.generation = generation
        self.portions: deque[Portion] = deque()
        self.paused = False
        self.resume = 0.0
        self.committed = committed
        self.lock = threading.RLock()
        self.filtered = 0
        self.trimmed = 0
        self._start = start
        self._fetched = start
        self._reader = topic.reader(partitions=[partition])
        self._reader.seek({partition: start})
        self._ready: deque[LogBatch] = deque()
        # Up to there messages were delivered before: as their so-manieth attempt.
        self._again = 0
        self._attempt = 1

    @property
    def place(self) -> tuple[str, int]:
        """Topic name and partition."""
        return self.topic.name, self.partition

    @property
    def position(self) -> int:
        """The offset before which all is done."""
        with self.lock:
            for portion in self.portions:
                if portion.done < portion.count:
                    return portion.position
            return self._fetched

    def next(self, rule: Rule | None, rows: int) -> Portion | None:
        """The portion with the messages to be handed out next; none at the end.

        Args:
            rule: Which rows become messages.
            rows: How many rows to read at once.
        """
        with self.lock:
            self._retire()
            last = self.portions[-1] if self.portions else None
            if last is not None and last.handed < last.count:
                return last
            while True:
                try:
                    batch = self._batch(rows)
                    portion = None if batch is None else self._portion(batch, rule)
                except BaseException:
                    # A rule that cannot judge these rows, or Ctrl-C: they are still to be read.
                    self._go(self._fetched)
                    raise
                if batch is None:
                    return None
                # In this order: whoever is interrupted in between delivers again, and passes over nothing.
                if portion is not None:
                    self.portions.append(portion)
                self._fetched = batch.next_offset
                if portion is not None:
                    return portion

    def at_end(self) -> bool:
        """Whether everything that there is was handed out."""
        with self.lock:
            if self._ready or any(portion.handed < portion.count for portion in self.portions):
                return False
            try:
                return self._reader.at_end
            except TopicNotFound:
                return True

    def rewind(self, offset: int, why: str) -> None:
        """Delivers again from this offset on, which was handed out."""
        handed = [p.block.offsets[p.handed - 1] for p in self.portions if p.handed]
        self._attempt = 1 + max(p.attempt for p in self.portions if p.handed)
        self._again = max(handed) + 1
        self._cut(offset, why)

    def rewind_open(self) -> None:
        """Delivers again what was handed out and is not done."""
        with self.lock:
            if any(portion.done < min(portion.handed, portion.count) for portion in self.portions):
                self.rewind(self.position, SOUGHT)

    def seek(self, offset: int) -> None:
        """Goes on from there, whatever is done."""
        with self.lock:
            # First the place: whoever is interrupted in between has passed over nothing that it read and did not do.
            self._go(offset)
            self.drop(SOUGHT)
            # Nor does it wait for what a message of before was to wait for.
            self.resume = 0.0
            self._again = 0

    def refilter(self) -> None:
        """Reads again what was not handed out yet, for another rule."""
        with self.lock:
            last = self.portions[-1] if self.portions else None
            if last is not None and last.handed < last.count:
                self._cut(last.block.offsets[last.handed], SOUGHT)

    def drop(self, why: str) -> None:
        """Nothing that was handed out can be acknowledged any more."""
        with self.lock:
            for portion in self.portions:
                portion.cut(portion.done, why)
                self.host.count(portion)
            self.portions.clear()

    def _retire(self) -> None:
        while self.portions and self.portions[0].done == self.portions[0].count:
            self.host.count(self.portions.popleft())

    def _cut(self, offset: int, why: str) -> None:
        # First the place, then the portions: with all of them cut, it is how far we are done.
        self._go(offset)
        for portion in self.portions:
            row = bisect.bisect_left(portion.block.offsets, offset)
            if row < portion.count:
                portion.cut(row, why)
        while self.portions and not self.portions[-1].count:
            self.host.count(self.portions.pop())

    def _go(self, offset: int) -> None:
        self._ready.clear()
        self._fetched = offset
        self._reader.seek({self.partition: offset})

    def _batch(self, rows: int) -> LogBatch | None:
        if not self._ready:
            try:
                self._fetch(rows)
            except OffsetTrimmed:
                # Retention, or a bound on the topic, was faster than its readers: counted, and passed over.
                begin = self.topic.offsets()[self.partition][0]
                self.trimmed += begin - self._fetched
                self._go(begin)
                self._fetch(rows)
            if not self._ready:
                return None
        batch = self._ready.popleft()
        most = _ROWS
        if batch.offset < self._again < batch.next_offset:
            most = min(most, int(np.searchsorted(batch.offsets, self._again)))
        if 0 < most < batch.data.num_rows:
            cut = int(batch.offsets[most])
            self._ready.appendleft(batch.between(cut, batch.next_offset))
            batch = batch.between(batch.offset, cut)
        return batch

    def _fetch(self, rows: int) -> None:
        for batch in self._reader.poll(max_rows=rows):
            self._ready.extend(batch.appended())

    def _portion(self, batch: LogBatch, rule: Rule | None) -> Portion | None:
        data = batch.data
        offsets: Sequence[int] = (
            range(batch.offset, batch.offset + data.num_rows) if batch.kept is None else batch.kept.tolist()
        )
        mask = None if rule is None else rule.mask(data)
        if mask is not None and not mask.all():
            data = data.filter(pa.array(mask))
            offsets = batch.offsets[np.flatnonzero(mask)].tolist()
            self.filtered += batch.data.num_rows - len(offsets)
        if not offsets:
            return None
        block = Block(self.topic.name, self.partition, data, offsets, batch.append_time)
        attempt = self._attempt if batch.offset < self._again else 1
        return Portion(self, block, batch.next_offset, attempt)
