"""Applying a change set to the index: the one function that makes rows exist.

A :class:`Ledger` is one write transaction. Change sets that arrive together are applied to it one after
the other; each is checked whole before anything of it is written, so that one that is refused leaves no
trace and does not disturb its neighbours.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from mamba_stream.core.changes import MAX_RECORD_BYTES, AlterTopic, Append, Applied, ChangeSet, CreateTopic
from mamba_stream.errors import (
    AlreadyExists,
    InvalidInput,
    NotCommitted,
    PartitionNotFound,
    PreconditionFailed,
    TopicEnded,
    TopicNotFound,
)
from mamba_stream.log import dropping, quota, repeating, rows
from mamba_stream.log.rows import Entry, FileRow, Head, Ticks, TopicRow

if TYPE_CHECKING:
    from mamba_stream.log.views import Draft

_MASK = (1 << 64) - 1


class Ledger:
    """The rows of the index inside one write transaction, with the hot ones kept until the end."""

    def __init__(self, draft: Draft, now: int) -> None:
        self._draft = draft
        self.now = now
        self._heads: dict[tuple[int, int], Head] = {}
        self._files: dict[int, FileRow] = {}
        self._published: dict[int, tuple[int, int]] = {}
        self._ticks: Ticks | None = None
        # Only what was changed is written: a group of which all are refused costs no sync.
        self._changed_heads: set[tuple[int, int]] = set()
        self._changed_files: set[int] = set()
        self._ticked = False
        self.get = draft.get
        self.put = draft.put
        self.delete = draft.delete
        self.delete_prefix = draft.delete_prefix

    def ticks(self) -> Ticks:
        if self._ticks is None:
            value = self.get(rows.TICKS)
            self._ticks = Ticks() if value is None else rows.unpack_ticks(value)
        return self._ticks

    def tick(self, *, lsn: int = 0, file: int = 0, topic: int = 0) -> Ticks:
        """Counts up, and returns the new numbers."""
        old = self.ticks()
        self._ticked = True
        self._ticks = Ticks(old.lsn + lsn, old.file + file, old.topic + topic)
        return self._ticks

    def head(self, topic: int, partition: int) -> Head | None:
        place = (topic, partition)
        head = self._heads.get(place)
        if head is None:
            value = self.get(rows.head_key(topic, partition))
            if value is None:
                return None
            head = self._heads[place] = rows.unpack_head(value)
        return head

    def set_head(self, topic: int, partition: int, head: Head) -> None:
        place = (topic, partition)
        self._heads[place] = head
        self._changed_heads.add(place)

    def file(self, number: int) -> FileRow | None:
        file = self._files.get(number)
        if file is None:
            value = self.get(rows.number_key(rows.FILE, number))
            if value is None:
                return None
            file = self._files[number] = rows.unpack(FileRow, value)
        return file

    def set_file(self, number: int, row: FileRow) -> None:
        if row.live == 0 and row.state == "closed":
            row = msgspec.structs.replace(row, state="trash", since=self.now)
        self._files[number] = row
        self._changed_files.add(number)

    def publish(self, number: int, end: int) -> None:
        """One more entry lies in an open file, and ends there. Its row is written anew once, for all of them."""
        furthest, entries = self._published.get(number, (0, 0))
        self._published[number] = max(furthest, end), entries + 1

    def topic(self, number: int) -> TopicRow | None:
        value = self.get(rows.number_key(rows.TOPIC, number))
        return None if value is None else rows.unpack(TopicRow, value)

    def entries(self, topic: int, partition: int, until: int) -> list[tuple[bytes, bytes]]:
        """Keys and values of a partition's entries that begin before ``until``."""
        stop = rows.entry_key(topic, partition, until)
        found = []
        for key, value in self._draft.items(rows.entry_prefix(topic, partition)):
            if key >= stop:
                break
            found.append((key, value))
        return found

    def keys(self, prefix: bytes) -> list[bytes]:
        """All keys that begin so."""
        return [key for key, _ in self._draft.items(prefix)]

    def first(self, prefix: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The first rows whose keys begin so."""
        return list(itertools.islice(self._draft.items(prefix), count))

    def flush(self) -> None:
        """Writes what was kept and changed. Call it once, before the transaction commits."""
        for number, (end, entries) in self._published.items():
            file = self._files[number]  # _check saw it in this transaction
            self.set_file(
                number, msgspec.structs.replace(file, end=max(file.end, end), live=file.live + entries)
            )
        for place in self._changed_heads:
            self.put(rows.head_key(*place), self._heads[place].pack())
        for number in self._changed_files:
            self.put(rows.number_key(rows.FILE, number), rows.pack(self._files[number]))
        if self._ticked:
            self.put(rows.TICKS, self.ticks().pack())

    def forget(self, topic: int, partition: int) -> None:
        """Deletes what is kept of a partition, whose head ``flush`` would otherwise bring back."""
        self._heads.pop((topic, partition), None)
        self._changed_heads.discard((topic, partition))
        self.delete(rows.head_key(topic, partition))
        self.delete(rows.marks_key(topic, partition))


def apply(ledger: Ledger, change: ChangeSet) -> Applied:
    """Applies the change set, or raises ``NotCommitted`` (or what was wrong with it) and changes nothing."""
    before = repeating.repeated(ledger, change)
    if before is not None:
        return before
    _check(ledger, change)
    lsn = ledger.tick(lsn=1).lsn
    topics = tuple([_create(ledger, create) for create in change.creates])
    for alter in change.alters:
        _alter(ledger, alter)
    if change.drops or change.trims:
        # Those who make room pay for what earlier deletions have left.
        dropping.clear(ledger)
    for topic in change.drops:
        _drop(ledger, topic)
    ranges = tuple([_append(ledger, append) for append in change.appends])
    answer = Applied(lsn, ranges, topics=topics)
    repeating.remember(ledger, change, answer)
    for forget in change.forgets:
        repeating.forget(ledger, forget)
    for topic in change.ends:
        row = ledger.topic(topic)
        for partition in range(row.partitions if row else 0):
            head = ledger.head(topic, partition)
            if head is not None:
                ledger.set_head(topic, partition, msgspec.structs.replace(head, ended=True))
    for trim in change.trims:
        _trim(ledger, trim.topic, trim.partition, trim.begin)
    for offset in change.offsets:
        key = rows.offset_key(offset.group, offset.topic, offset.partition)
        if offset.offset is None:
            ledger.delete(key)
        else:
            ledger.put(key, offset.offset.to_bytes(8, "big"))
    for record in change.records:
        key = rows.record_key(record.namespace, record.key)
        if record.value is None:
            ledger.delete(key)
        else:
            ledger.put(key, record.value)
    return answer


def _check(ledger: Ledger, change: ChangeSet) -> None:
    for require in change.requires:
        found = ledger.get(rows.record_key(require.namespace, require.key))
        if found != require.value:
            state = "does not exist" if found is None else "has another value"
            raise PreconditionFailed(
                f"the record {require.namespace}/{require.key} {state}: somebody else changed it"
            )
    for create in change.creates:
        if ledger.get(rows.name_key(create.name)) is not None:
            raise AlreadyExists(f"a topic {create.name!r}, or one that differs only in case, exists")
    for topic in (*change.drops, *change.ends):
        if ledger.topic(topic) is None:
            raise TopicNotFound(f"topic #{topic} was deleted")
    for alter in change.alters:
        _check_alter(ledger, alter)
    ends = _check_appends(ledger, change)
    for trim in change.trims:
        head = _existing(ledger, trim.topic, trim.partition)
        if trim.begin > ends.get((trim.topic, trim.partition), head.end):
            raise InvalidInput(
                f"topic {_name(ledger, trim.topic)!r}, partition {trim.partition}: cannot trim to "
                f"{trim.begin}, it ends at {head.end}"
            )
    for offset in change.offsets:
        if offset.offset is None:
            continue
        head = _existing(ledger, offset.topic, offset.partition)
        end = ends.get((offset.topic, offset.partition), head.end)
        if not 0 <= offset.offset <= end:
            raise InvalidInput(
                f"group {offset.group!r}: offset {offset.offset} of topic {_name(ledger, offset.topic)!r}, "
                f"partition {offset.partition}, is not within 0..{end}"
            )
    for record in change.records:
        if record.value is not None and len(record.value) > MAX_RECORD_BYTES:
            raise InvalidInput(
                f"the record {record.namespace}/{record.key} has {len(record.value)} bytes, more than "
                f"{MAX_RECORD_BYTES}: put the data into a topic and a pointer to it into the record"
            )


def _check_alter(ledger: Ledger, alter: AlterTopic) -> None:
    row = ledger.topic(alter.topic)
    if row is None:
        raise TopicNotFound(f"topic #{alter.topic} was deleted")
    if row.settings != alter.seen:
        raise PreconditionFailed(f"topic {row.name!r} was altered by somebody else: look at it again")
    if alter.schema is not None and row.schema != alter.schema_seen:
        raise PreconditionFailed(f"topic {row.name!r} has other columns by now: look at it again")


def _check_appends(ledger: Ledger, change: ChangeSet) -> dict[tuple[int, int], int]:
    """Where each partition will end."""
    ends: dict[tuple[int, int], int] = {}
    if not change.appends:
        return ends
    for append in change.appends:
        place = (append.topic, append.partition)
        end = ends.get(place)
        if end is None:
            head = _existing(ledger, append.topic, append.partition)
            if head.ended:
                raise TopicEnded(f"topic {_name(ledger, append.topic)!r} was ended and takes no more rows")
            end = head.end
        if append.expect is not None and append.expect != end:
            raise PreconditionFailed(
                f"topic {_name(ledger, append.topic)!r}, partition {append.partition}: expected to end at "
                f"{append.expect}, but it ends at {end}: read what came in between and append again"
            )
        ends[place] = end + append.rows
    for number in {append.file for append in change.appends}:
        file = ledger.file(number)
        if file is None or file.state != "open":
            raise NotCommitted("the file of this append is gone: append again")
    quota.check_quotas(ledger, change.appends)
    return ends


def _existing(ledger: Ledger, topic: int, partition: int) -> Head:
    head = ledger.head(topic, partition)
    if head is None:
        row = ledger.topic(topic)
        if row is None:
            raise TopicNotFound(f"topic #{topic} was deleted")
        raise PartitionNotFound(
            f"topic {row.name!r} has no partition {partition}: it has {row.partitions}, counted from 0"
        )
    return head


def _name(ledger: Ledger, topic: int) -> str:
    row = ledger.topic(topic)
    return row.name if row else f"#{topic}"


def _create(ledger: Ledger, create: CreateTopic) -> int:
    number = ledger.tick(topic=1).topic
    ledger.put(rows.number_key(rows.SCHEMA, number), create.schema)
    ledger.put(rows.name_key(create.name), number.to_bytes(4, "big"))
    row = TopicRow(
        id=number,
        name=create.name,
        partitions=create.partitions,
        key=create.key,
        time=create.time,
        compression=create.compression,
        schema=number,
        internal=create.internal,
        created=create.created,
        strict_key=create.strict_key,
        settings=create.settings,
    )
    ledger.put(rows.number_key(rows.TOPIC, number), rows.pack(row))
    for partition in range(create.partitions):
        begin = create.begins[partition] if create.begins else 0
        ledger.set_head(number, partition, Head(begin=begin, end=begin))
    return number


def _alter(ledger: Ledger, alter: AlterTopic) -> None:
    row = ledger.topic(alter.topic)
    assert row is not None  # _check saw it in this transaction
    altered = msgspec.structs.replace(row, settings=alter.settings)
    if alter.schema is not None:
        number = ledger.tick(topic=1).topic
        ledger.put(rows.number_key(rows.SCHEMA, number), alter.schema)
        altered = msgspec.structs.replace(
            altered, schema=number, schemas=(*row.versions, (number, ledger.now))
        )
    ledger.put(rows.number_key(rows.TOPIC, alter.topic), rows.pack(altered))


def _drop(ledger: Ledger, topic: int) -> None:
    row = ledger.topic(topic)
    assert row is not None  # _check saw it in this transaction
    for partition in range(row.partitions):
        ledger.forget(topic, partition)
    dropping.drop(ledger, topic)
    for key in ledger.keys(rows.OFFSET):
        if rows.offset_place(key)[1] == topic:
            ledger.delete(key)
    for schema, _ in row.versions:
        ledger.delete(rows.number_key(rows.SCHEMA, schema))
    ledger.delete(rows.number_key(rows.TOPIC, topic))
    ledger.delete(rows.name_key(row.name))


def _append(ledger: Ledger, append: Append) -> tuple[int, int, int, int]:
    topic, partition, count, length = append.topic, append.partition, append.rows, append.length
    head = ledger.head(topic, partition)
    assert head is not None  # _check saw it in this transaction
    running_time, append_time, flags = head.running_time, max(head.append_time, append.append_time), 0
    if append.min_time <= append.max_time:
        running_time, flags = max(running_time, append.max_time), rows.HAS_TIME
    if append.compressed:
        flags |= rows.COMPRESSED
    entry = Entry(
        file=append.file,
        position=append.position,
        length=length,
        rows=count,
        span=count,
        min_time=append.min_time,
        max_time=append.max_time,
        running_time=running_time,
        append_time=append_time,
        schema=append.schema,
        header=append.header,
        flags=flags,
    )
    begin, end = head.end, head.end + count
    key, value = rows.entry_key(topic, partition, begin), entry.pack()
    ledger.put(key, value)
    following = Head(
        begin=head.begin,
        end=end,
        entries=head.entries + 1,
        chain=(head.chain + rows.entry_hash(key, value)) & _MASK,
        rows=head.rows + count,
        size=head.size + length,
        running_time=running_time,
        append_time=append_time,
    )
    ledger.set_head(topic, partition, following)
    ledger.publish(append.file, append.position + length)
    return topic, partition, begin, end


def _trim(ledger: Ledger, topic: int, partition: int, begin: int) -> None:
    head = _existing(ledger, topic, partition)
    if begin <= head.begin:
        return
    count, chain, kept_rows, size = head.entries, head.chain, head.rows, head.size
    for key, value in ledger.entries(topic, partition, begin):
        entry = rows.unpack_entry(value)
        if rows.entry_place(key)[2] + entry.span > begin:
            break
        ledger.delete(key)
        count, chain = count - 1, (chain - rows.entry_hash(key, value)) & _MASK
        kept_rows, size = kept_rows - entry.rows, size - entry.length
        file = ledger.file(entry.file)
        if file is not None:
            ledger.set_file(entry.file, msgspec.structs.replace(file, live=file.live - 1))
    ledger.set_head(
        topic,
        partition,
        msgspec.structs.replace(head, begin=begin, entries=count, chain=chain, rows=kept_rows, size=size),
    )
