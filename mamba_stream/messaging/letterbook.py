"""What became of dead letters, kept beside their topic.

In records of the namespace ``letters/NUMBER`` lie for every 4,096 offsets of a partition (``PARTITION/CHUNK``) which
were put back and which purged, as bitmaps; and for a partition (``PARTITION``) how far a purge has trimmed it. Whoever
marks letters requires these records to be as they were read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from mamba_stream.core.deadletters import DEAD
from mamba_stream.errors import InvalidInput, NotFound, OffsetTrimmed, TopicNotFound
from mamba_stream.log import Log, LogBatch, Topic
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.message import Rule

CHUNK: Final = 4_096
"""Offsets to a record."""

Place = tuple[int, int]
"""Partition and offset of a letter in its topic."""


class _Marks(msgspec.Struct, frozen=True, array_like=True):
    """What became of the letters of a chunk: bit ``i``, little end first, is its ``i``-th offset."""

    redriven: bytes = b""
    purged: bytes = b""


_marks = msgspec.msgpack.Decoder(_Marks)


@dataclass(frozen=True, slots=True)
class LetterCounts:
    """A topic of dead letters.

    Attributes:
        topic: Its name.
        left: Letters that were neither put back nor purged.
        redriven: Those that were put back.
        purged: Those that were purged, and not trimmed away yet.
    """

    topic: str
    left: int
    redriven: int
    purged: int


def count_letters(log: Log) -> list[LetterCounts]:
    """The topics of dead letters, by name."""
    found = []
    for name in log.topics():
        try:
            topic = log[name]
        except TopicNotFound:
            continue
        if _is_dead(topic.schema):
            found.append(LetterBook(log, topic).counts())
    return found


def letter_book(log: Log, name: str) -> LetterBook:
    """What is known of a topic's dead letters.

    Raises:
        TopicNotFound: There is no such topic.
        InvalidInput: It is not one of dead letters.
    """
    topic = log[name]
    if not _is_dead(topic.schema):
        there = [each.topic for each in count_letters(log)]
        raise InvalidInput(
            f"topic {name!r} is not one of dead letters: these have a column {DEAD!r}; "
            + (f"there are {', '.join(there[:8])}" if there else "there are none in this log")
        )
    return LetterBook(log, topic)


class LetterBook:
    """A topic of dead letters, and what became of each, as it was when it was read."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self.log = log
        self.topic = topic
        self.schema = pa.schema([each for each in topic.schema if each.name != DEAD])
        self.space = f"letters/{topic.number}"
        self.read()

    def read(self) -> LetterBook:
        """Reads the records, and then how far the topic was trimmed: what is not marked may be gone altogether."""
        self.records = self.log.records(self.space)
        self.offsets = self.topic.offsets()
        self._flags: dict[tuple[int, int], tuple[Any, Any]] = {}
        return self

    def read_of(self, partition: int, offsets: Any) -> None:
        """Reads what is known of these offsets only; in the same order."""
        for key in (
            str(partition),
            *(f"{partition}/{chunk}" for chunk in np.unique(offsets // CHUNK).tolist()),
        ):
            value = self.log.record(self.space, key)
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value
        self.offsets = self.topic.offsets()
        self._flags.clear()

    def _marks(self, key: str) -> _Marks:
        value = self.records.get(key)
        return _Marks() if value is None else _marks.decode(value)

    def gone(self, partition: int, offsets: Any) -> tuple[Any, Any]:
        """Which of these ascending offsets were put back, and which purged; what was trimmed counts as purged."""
        redriven, purged = np.zeros(len(offsets), bool), offsets < self.offsets[partition][0]
        chunks = offsets // CHUNK
        for chunk in np.unique(chunks).tolist():
            here = chunks == chunk
            within = offsets[here] - chunk * CHUNK
            one, other = self._bits(partition, chunk)
            redriven[here] |= one[within]
            purged[here] |= other[within]
        return redriven, purged

    def counts(self) -> LetterCounts:
        redriven = purged = total = 0
        for partition, (begin, end) in self.offsets.items():
            total += end - begin
            for key in self.records:
                of, slash, chunk = key.partition("/")
                if slash and int(of) == partition:
                    after = max(0, begin - int(chunk) * CHUNK)
                    one, other = self._bits(partition, int(chunk))
                    redriven += int(one[after:].sum())
                    purged += int(other[after:].sum())
        return LetterCounts(self.topic.name, total - redriven - purged, redriven, purged)

    def chosen(self, where: Rule | None, places: Collection[Place] | None) -> Iterator[tuple[LogBatch, Any]]:
        """Batches, and the positions in them of the letters that are left and meant."""
        wanted: dict[int, list[int]] = defaultdict(list)
        ends = {partition: end for partition, (_, end) in self.offsets.items()}
        for partition, offset in places or ():
            begin, end = self.offsets.get(partition, (0, 0))
            if not begin <= offset < end:
                raise NotFound(f"topic {self.topic.name!r}, partition {partition}, has no letter {offset}")
            wanted[partition].append(offset)
        for partition, end in ends.items():
            if places is not None and partition not in wanted:
                continue
            for batch in self.batches(partition, min(wanted[partition], default=0), end):
                redriven, purged = self.gone(partition, batch.offsets)
                left = ~redriven & ~purged & passes(where, batch.data)
                if places is not None:
                    left &= np.isin(batch.offsets, np.array(wanted[partition], np.int64))
                if left.any():
                    yield batch, np.flatnonzero(left)

    def batches(self, partition: int, start: int, end: int) -> Iterator[LogBatch]:
        """The rows of a partition that are there, between two offsets."""
        begin = self.topic.offsets()[partition][0]
        reader = self.topic.reader(
            start={partition: min(max(start, begin), end)}, partitions=[partition], end={partition: end}
        )
        while True:
            try:
                found = reader.poll(max_rows=1)
            except OffsetTrimmed:
                # Somebody purged what we were about to look at.
                reader.seek({partition: min(self.topic.offsets()[partition][0], end)})
                continue
            if not found:
                return
            yield from found

    def messages(self, data: pa.RecordBatch) -> pa.RecordBatch:
        """Rows as they were sent: without what is known of their death."""
        return pa.RecordBatch.from_arrays(
            [data.column(name) for name in self.schema.names], schema=self.schema
        )

    def marking(self, partition: int, offsets: Any, how: str) -> Change:
        """The change that marks these, if nothing is known of them but what was read."""
        change = Change({(self.space, str(partition)): self.records.get(str(partition))})
        chunks = offsets // CHUNK
        for chunk in np.unique(chunks).tolist():
            key = f"{partition}/{chunk}"
            marks = self._marks(key)
            bits = _unpacked(getattr(marks, how))
            bits[offsets[chunks == chunk] - chunk * CHUNK] = True
            packed = np.packbits(bits, bitorder="little").tobytes().rstrip(b"\0")
            change.requires[self.space, key] = self.records.get(key)
            change.records[self.space, key] = msgspec.msgpack.encode(
                msgspec.structs.replace(marks, **{how: packed})
            )
        return change

    def _bits(self, partition: int, chunk: int) -> tuple[Any, Any]:
        known = self._flags.get((partition, chunk))
        if known is None:
            marks = self._marks(f"{partition}/{chunk}")
            known = self._flags[partition, chunk] = (_unpacked(marks.redriven), _unpacked(marks.purged))
        return known


def passes(where: Rule | None, data: pa.RecordBatch) -> Any:
    """Which rows it lets pass."""
    mask = None if where is None else where.mask(data)
    return np.ones(data.num_rows, bool) if mask is None else np.array(mask, bool)


def _unpacked(bits: bytes) -> Any:
    padded = np.frombuffer(bits.ljust(CHUNK // 8, b"\0"), np.uint8)
    return np.unpackbits(padded, bitorder="little").astype(bool)


def _is_dead(schema: pa.Schema) -> bool:
    return DEAD in schema.names and pa.types.is_struct(schema.field(DEAD).type)
