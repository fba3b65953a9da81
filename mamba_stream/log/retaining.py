"""Retention: the first rows of a partition go once they are old enough, or once there are too many bytes of them.

Whole batches go, in commits of a bounded number of them, so that nobody waits long for the write lock; each leaves the
partition as it was from some offset on, so that it does not matter where this is interrupted. What a group has yet to
read goes all the same, and is told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from mamba_stream.core.changes import ChangeSet, Trim
from mamba_stream.errors import TopicNotFound
from mamba_stream.log import rows
from mamba_stream.log.rows import Head, TopicRow
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

_AT_ONCE: Final = 1_000
"""Batches that one commit removes at most."""

_logger = logging.getLogger(__name__)


@dataclass
class Retained:
    """What retention came to.

    Attributes:
        rows: Rows that went.
        bytes: What they took on disk.
        batches: Batches that they lay in.
        unread: Rows among them that a group had yet to read, by (group, topic).
    """

    rows: int = 0
    bytes: int = 0
    batches: int = 0
    unread: Counter[tuple[str, str]] = field(default_factory=Counter)


def retain(store: Store) -> Retained:
    """Removes what the topics' retention does not keep any more."""
    found = Retained()
    for topic in store.topics():
        settings = topic.settings
        if settings.retention is None and settings.retention_bytes is None:
            continue
        try:
            for partition, head in store.shelf.heads(topic).items():
                begin = max(_by_age(store, topic, partition, head), _by_size(store, topic, partition, head))
                if begin > head.begin:
                    _trim(store, topic, partition, head, begin, found)
        except TopicNotFound:
            # It was deleted meanwhile.
            continue
    for (group, name), count in found.unread.items():
        _logger.warning(
            "retention removed %d rows of topic %r that group %r had not read: read faster, or keep them longer with "
            "log.alter_topic(%r, retention=...)",
            count,
            name,
            group,
            name,
        )
    return found


def _by_age(store: Store, topic: TopicRow, partition: int, head: Head) -> int:
    """The first offset that is young enough, at the beginning of a batch."""
    if topic.settings.retention is None:
        return head.begin
    oldest = store.clock.now() - topic.settings.retention
    low, high = head.begin, head.end
    # Times of appending never decrease along a partition.
    while low < high:
        placed = store.shelf.entry(topic, partition, (low + high) // 2)
        if placed is None:
            break
        if placed.entry.append_time >= oldest:
            high = placed.offset
        else:
            low = placed.next_offset
    return max(low, head.begin)


def _by_size(store: Store, topic: TopicRow, partition: int, head: Head) -> int:
    """The first offset from which on there are few enough bytes. The last batch stays, however large it is."""
    most = topic.settings.retention_bytes
    left, position = head.size, head.begin
    if most is None:
        return position
    while left > most:
        entries = store.shelf.entries(topic, partition, position, _AT_ONCE)
        if not entries:
            break
        for placed in entries:
            if left <= most or placed.next_offset >= head.end:
                return position
            left -= placed.entry.length
            position = placed.next_offset
    return position


def _trim(store: Store, topic: TopicRow, partition: int, head: Head, begin: int, found: Retained) -> None:
    groups, last = _groups(store), head.begin
    for entries in _steps(store, topic, partition, head, begin):
        until = entries[-1].next_offset
        store.commit(ChangeSet(trims=(Trim(topic.id, partition, until),)))
        found.batches += len(entries)
        found.bytes += sum(placed.entry.length for placed in entries)
        found.rows += _rows_from(entries, last)
        for group, offset in groups.get((topic.id, partition), ()):
            if offset < until:
                found.unread[group, topic.name] += _rows_from(entries, max(last, offset))
        last = until


def _rows_from(entries: Sequence[Placed], offset: int) -> int:
    """How many rows they have from an offset on: where some of a batch were compacted away, at most so many."""
    return sum(
        min(placed.entry.rows, placed.next_offset - offset)
        for placed in entries
        if placed.next_offset > offset
    )


def _steps(store: Store, topic: TopicRow, partition: int, head: Head, begin: int) -> Iterator[list[Placed]]:
    """The batches that go, as many of them as go at a time."""
    position = head.begin
    while position < begin:
        entries = [
            placed
            for placed in store.shelf.entries(topic, partition, position, _AT_ONCE)
            if placed.next_offset <= begin
        ]
        if not entries:
            return
        position = entries[-1].next_offset
        yield entries


def _groups(store: Store) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """What groups read next, by (topic, partition)."""
    found: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for key, value in store.items(rows.OFFSET):
        group, topic, partition = rows.offset_place(key)
        found.setdefault((topic, partition), []).append((group, int.from_bytes(value, "big")))
    return found
