"""What a damaged log is from now on: partitions, topics and files, from what its index and its segments still hold.

Nothing is guessed into a partition. A batch is taken where the index has its entry, or where the table of contents of a
segment lists it and the index has lost what lay there, and only if its bytes are what was written. What is missing then
is an entry that is marked as lost: offsets stay what they were, and readers are told, or skip. Bytes that lie in commit
files alone are not taken: which of them were committed only the index knew.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from mamba_stream.core.schemas import fingerprint, schema_from_bytes
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import dropping, format, rows
from mamba_stream.log.findings import Finding, problem_of
from mamba_stream.log.rows import NO_TIME, Entry, Head, TopicRow
from mamba_stream.log.salvage import Salvaged
from mamba_stream.log.shelf import Placed
from mamba_stream.log.tables import Tables

_MASK: Final = (1 << 64) - 1
_UNKNOWN: Final = "the index has lost what lies there"

Put = Callable[[bytes, bytes], None]


@dataclass
class Lying:
    """What lies in a file: of which kind it is, how many entries lie in it, and where the last one ends.

    ``topic`` and ``partition`` are those of the first of them, and so a segment's.
    """

    kind: str
    internal: bool
    topic: int
    partition: int
    entries: int = 0
    end: int = 0


class Mending:
    """Mends the topics of a log into a new index.

    Attributes:
        findings: What was lost, or had to be guessed.
        topics: The topics that there are from now on, by number.
        live: For each file that entries lie in, by its number, how many, and where the last one ends.
        inside: The entries that lie in those files of which that was asked for.
        hurt: The numbers of files with bytes that are given up.
    """

    def __init__(
        self, files: Path, found: Salvaged, tables: Tables, put: Put, asked: Collection[int] = ()
    ) -> None:
        self.findings: list[Finding] = []
        self.topics: dict[int, TopicRow] = {}
        self.live: dict[int, Lying] = {}
        self.inside: dict[int, list[tuple[TopicRow, int, Placed]]] = {number: [] for number in asked}
        self.hurt: set[int] = set()
        self._files = files
        self._found = found
        self._tables = tables
        self._put = put
        self._layouts: dict[int, format.Layout | None] = {}

    def run(self) -> None:
        """Writes topics, schemas, heads and entries."""
        self._mend_topics()
        grouped = itertools.groupby(self._found.entries(), key=lambda row: row[0][:-8])
        entries = {}
        for prefix, group in grouped:
            place = rows.partition_place(prefix)
            if place[0] in self.topics:
                self._mend_partition(self.topics[place[0]], place[1], _placed(group))
                entries[place] = True
        for number, topic in self.topics.items():
            for partition in range(topic.partitions):
                if (number, partition) not in entries:
                    self._mend_partition(topic, partition, [])

    def _mend_topics(self) -> None:
        known: dict[int, TopicRow] = {}
        for key, value in self._found.few.items():
            if key[:1] == rows.TOPIC:
                with contextlib.suppress(msgspec.MsgspecError):
                    topic = rows.unpack(TopicRow, value)
                    known[topic.id] = topic
        places = self._found.places | set(self._tables.places()) | set(self._heads())
        for number in sorted({*(topic for topic, _ in places), *self._names()} - known.keys()):
            deleted = dropping.record_key(number) in self._found.few
            if not deleted and self._found.missing(rows.number_key(rows.TOPIC, number)):
                known[number] = self._made_up(number, [p for topic, p in places if topic == number])
        taken: set[str] = set()
        for number, told in sorted(known.items()):
            topic = told
            if self._schema(topic.schema) is None:
                self.findings.append(
                    Finding("loss", "all of it: its columns are not known any more", topic.name)
                )
                continue
            if topic.name.casefold() in taken:
                topic = msgspec.structs.replace(topic, name=f"{topic.name}.{number}")
            taken.add(topic.name.casefold())
            if topic.schemas:
                there = tuple(version for version in topic.schemas if self._schema(version[0]) is not None)
                topic = msgspec.structs.replace(topic, schemas=there)
            self.topics[number] = topic
            for version, _ in topic.versions:
                self._put(rows.number_key(rows.SCHEMA, version), self.schema(version))
            self._put(rows.number_key(rows.TOPIC, number), rows.pack(topic))
            self._put(rows.name_key(topic.name), number.to_bytes(4, "big"))

    def _made_up(self, number: int, partitions: list[int]) -> TopicRow:
        """The topic of this number, whose row is lost."""
        names = self._names()
        name = self._tables.names.get(number) or names.get(number) or f"recovered-{number}"
        told = self._tables.topics.get(number)
        if told is not None:
            return msgspec.structs.replace(told, name=name)
        self.findings.append(
            Finding(
                "loss",
                f"the topic's settings: it has now {max(partitions, default=0) + 1} partitions, no key and no time",
                name,
            )
        )
        return TopicRow(
            id=number,
            name=name,
            partitions=max(partitions, default=0) + 1,
            key=(),
            time=None,
            compression="none",
            schema=number,
            internal=name.startswith("_"),
            created=0,
        )

    def _heads(self) -> Iterator[tuple[int, int]]:
        return (rows.partition_place(key) for key in self._found.few if key[:1] == rows.HEAD)

    def _names(self) -> dict[int, str]:
        """Names by the topic's number, as far as they are known: without their case."""
        return {
            int.from_bytes(value, "big"): key[1:].decode(errors="replace")
            for key, value in self._found.few.items()
            if key[:1] == rows.NAME
        }

    def schema(self, number: int) -> bytes:
        """The columns of a schema that entries have."""
        found = self._schema(number)
        assert found is not None  # otherwise no entry of it was taken
        return found

    def _schema(self, number: int) -> bytes | None:
        return self._found.few.get(rows.number_key(rows.SCHEMA, number)) or self._tables.schemas.get(number)

    def _layout(self, number: int) -> format.Layout | None:
        if number not in self._layouts:
            self._layouts[number] = None
            message = self._schema(number)
            with contextlib.suppress(MambaStreamError):
                if message is not None:
                    schema = schema_from_bytes(message)
                    self._layouts[number] = format.Layout.of(schema, fingerprint(schema))
        return self._layouts[number]

    def _mend_partition(self, topic: TopicRow, partition: int, entries: list[Placed]) -> None:
        if partition >= topic.partitions:
            return
        listed = self._tables.batches(topic.id, partition)
        head = self._head(topic, partition, entries, listed)
        whole, broken = [], {}
        for placed in entries:
            if placed.next_offset <= head.begin or placed.offset >= head.end:
                # Of a state that is not this one.
                continue
            problem = None if placed.entry.lost else self._problem(placed)
            if problem is None:
                whole.append(placed)
            else:
                broken[placed.offset] = placed, problem
                self.hurt.add(placed.entry.file)
        filled: list[Placed] = []
        position = head.begin
        for following in (*whole, None):
            stop = head.end if following is None else following.offset
            for placed in self._filled(position, stop, head.begin, listed, broken):
                filled.append(self._kept(topic, partition, placed, filled, broken))
            if following is not None:
                filled.append(following)
                position = following.next_offset
        self._write(topic, partition, head, filled)

    def _head(self, topic: TopicRow, partition: int, entries: list[Placed], listed: list[Placed]) -> Head:
        value = self._found.few.get(rows.head_key(topic.id, partition))
        if value is not None:
            return rows.unpack_head(value)
        known = [*entries, *listed]
        end = max([0, *(placed.next_offset for placed in known), *self._told(topic.id, partition)])
        begin = min((placed.offset for placed in known), default=end)
        self.findings.append(
            Finding(
                "loss",
                f"the partition's state: it begins at {begin} now and ends at {end}; rows that were trimmed away may "
                "be back, and rows that lay behind are lost",
                topic.name,
                partition,
            )
        )
        return Head(begin=begin, end=end)

    def _told(self, topic: int, partition: int) -> Iterator[int]:
        """Offsets up to which there were rows once, as others remember."""
        for key, value in self._found.few.items():
            if key[:1] == rows.OFFSET and rows.offset_place(key)[1:] == (topic, partition):
                yield int.from_bytes(value, "big")
            elif key[:1] == rows.SEQUENCE:
                with contextlib.suppress(msgspec.MsgspecError):
                    for number, part, _, following in msgspec.msgpack.decode(value):
                        if (number, part) == (topic, partition):
                            yield following

    def _problem(self, placed: Placed) -> str | None:
        found = problem_of(self._files, self._layout(placed.entry.schema), placed.entry)
        return None if found is None else found[1]

    def _filled(
        self,
        position: int,
        stop: int,
        begin: int,
        listed: list[Placed],
        broken: dict[int, tuple[Placed, str]],
    ) -> Iterator[Placed]:
        """What covers these offsets: batches of segments as far as there are some, else what is lost."""
        while position < stop:
            found = next(
                (
                    one
                    for one in listed
                    if (one.offset == position or one.offset < position == begin < one.next_offset)
                    and one.next_offset <= stop
                    and self._problem(one) is None
                ),
                None,
            )
            if found is None:
                ends = (one.offset for one in listed if position < one.offset < stop)
                found = self._gap(position, min(ends, default=stop), begin, broken)
            yield found
            position = found.next_offset

    def _gap(self, position: int, stop: int, begin: int, broken: dict[int, tuple[Placed, str]]) -> Placed:
        """The first part of what is lost: that of one batch, where the index has its entry."""
        for offset, (placed, _) in sorted(broken.items()):
            first = offset == position or offset < position == begin < placed.next_offset
            if first and placed.next_offset <= stop:
                return Placed(offset, _lost(placed.entry.span))
            if position < offset < stop:
                return Placed(position, _lost(offset - position))
        return Placed(position, _lost(stop - position))

    def _kept(
        self,
        topic: TopicRow,
        partition: int,
        placed: Placed,
        before: list[Placed],
        broken: dict[int, tuple[Placed, str]],
    ) -> Placed:
        if not placed.entry.lost:
            self.findings.append(
                Finding(
                    "note",
                    "found again in a segment, by its table of contents",
                    topic.name,
                    partition,
                    placed.offset,
                    placed.next_offset,
                )
            )
            return placed
        _, why = broken.get(placed.offset, (None, _UNKNOWN))
        self.findings.append(Finding("loss", why, topic.name, partition, placed.offset, placed.next_offset))
        last = before[-1].entry if before else None
        entry = msgspec.structs.replace(
            placed.entry,
            running_time=NO_TIME if last is None else last.running_time,
            append_time=0 if last is None else last.append_time,
            schema=topic.schema,
        )
        return Placed(placed.offset, entry)

    def _write(self, topic: TopicRow, partition: int, head: Head, entries: list[Placed]) -> None:
        chain = count = size = 0
        for placed in entries:
            key, value = rows.entry_key(topic.id, partition, placed.offset), placed.entry.pack()
            self._put(key, value)
            chain = (chain + rows.entry_hash(key, value)) & _MASK
            count, size = count + placed.entry.rows, size + placed.entry.length
            entry = placed.entry
            if not entry.lost:
                lying = self.live.setdefault(
                    entry.file, Lying(entry.kind, topic.internal, topic.id, partition)
                )
                lying.entries += 1
                lying.end = max(lying.end, entry.position + entry.length)
                if entry.file in self.inside:
                    self.inside[entry.file].append((topic, partition, placed))
        last = entries[-1].entry if entries else None
        self._put(
            rows.head_key(topic.id, partition),
            msgspec.structs.replace(
                head,
                entries=len(entries),
                chain=chain,
                rows=count,
                size=size,
                running_time=max(head.running_time, last.running_time if last else NO_TIME),
                append_time=max(head.append_time, last.append_time if last else 0),
            ).pack(),
        )


def _placed(group: Iterator[tuple[bytes, bytes]]) -> list[Placed]:
    """The entries of a partition, as far as they do not overlap."""
    found: list[Placed] = []
    for key, value in group:
        placed = Placed(rows.entry_place(key)[2], rows.unpack_entry(value))
        if not found or found[-1].next_offset <= placed.offset:
            found.append(placed)
    return found


def _lost(span: int) -> Entry:
    return Entry(
        file=0,
        position=0,
        length=0,
        rows=0,
        span=span,
        min_time=0,
        max_time=-1,
        running_time=NO_TIME,
        append_time=0,
        schema=0,
        header=0,
        flags=rows.LOST | rows.SEALED,
    )
