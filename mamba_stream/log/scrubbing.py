"""Scrubbing: a slow look at every batch of a log, a piece at a time, before somebody needs what has rotted.

Where it has come to is a record of the log, so that whoever scrubs next goes on from there, and begins anew at the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.core.changes import ChangeSet, Record
from mamba_stream.errors import DataCorrupted, TopicNotFound
from mamba_stream.log import directory, files
from mamba_stream.log.findings import Finding, problem_of
from mamba_stream.log.pacing import Step, at_once
from mamba_stream.log.shelf import Placed

if TYPE_CHECKING:
    from mamba_stream.log.rows import TopicRow
    from mamba_stream.log.store import Store

NAMESPACE: Final = "_scrub"
_KEY: Final = "position"
_LOCK: Final = "scrub"
_LOOKED_UP: Final = 256

Place = tuple[int, int, int]
"""A topic's number, a partition, and an offset."""
_START: Final = (0, 0, 0)
_places = msgspec.msgpack.Decoder(tuple[int, int, int])


@dataclass(frozen=True)
class Scrubbed:
    """What was looked at.

    Attributes:
        batches: Batches.
        bytes: Their bytes.
        findings: What is damaged or missing.
        done: Whether the end of the log was reached; the next look begins anew.
        busy: Who was at it already, in words; nothing was done then.
    """

    batches: int = 0
    bytes: int = 0
    findings: tuple[Finding, ...] = ()
    done: bool = False
    busy: str | None = None


def scrub(store: Store, most: int | None = None, step: Step = at_once) -> Scrubbed:
    """Looks at batches from where the last look ended, until there are about ``most`` bytes; to the end without.

    Calls ``step`` between two of them.
    """
    lock = store.lock(directory.UPKEEP, _LOCK)
    if lock is None:
        return Scrubbed(busy=store.lock_holder(directory.UPKEEP, _LOCK) or "another process")
    try:
        found = _scrubbed(store, most, step)
    finally:
        lock.release()
    store.scrubs.add(found)
    return found


def _scrubbed(store: Store, most: int | None, step: Step) -> Scrubbed:
    value = store.record(NAMESPACE, _KEY)
    before = place = _START if value is None else _places.decode(value)
    batches = size = 0
    findings: list[Finding] = []
    done = True
    for topic, partition, placed in _from(store, place, findings):
        if most is not None and size >= most:
            place, done = (topic.id, partition, placed.offset), False
            break
        batches, size = batches + 1, size + placed.entry.length
        step()
        problem = _problem(store, topic, partition, placed)
        if problem is not None:
            findings.append(Finding(*problem, topic.name, partition, placed.offset, placed.next_offset))
    place = _START if done else place
    if place != before:
        store.commit(ChangeSet(records=(Record(NAMESPACE, _KEY, msgspec.msgpack.encode(place)),)))
    return Scrubbed(batches, size, tuple(findings), done)


def _from(store: Store, place: Place, findings: list[Finding]) -> Iterator[tuple[TopicRow, int, Placed]]:
    """The entries from there on, but those that are known to be lost."""
    for topic in sorted(store.topics(), key=lambda topic: topic.id):
        if topic.id < place[0]:
            continue
        try:
            heads = store.shelf.heads(topic)
        except TopicNotFound:
            continue
        for partition, head in heads.items():
            if (topic.id, partition) < place[:2]:
                continue
            position = max(head.begin, place[2] if (topic.id, partition) == place[:2] else 0)
            while position < head.end:
                try:
                    entries = store.shelf.entries(topic, partition, position, _LOOKED_UP)
                except DataCorrupted as error:
                    findings.append(Finding("damage", str(error), topic.name, partition, error.offset))
                    break
                if not entries:
                    break
                for placed in entries:
                    position = placed.next_offset
                    if not placed.entry.lost:
                        yield topic, partition, placed


def _problem(store: Store, topic: TopicRow, partition: int, placed: Placed) -> tuple[str, str] | None:
    entry = placed.entry
    _let_go(store, placed)
    try:
        found = problem_of(store.files, store.shelf.layout(entry.schema), entry)
        if found is None:
            return None
        # It may have been sealed, merged or trimmed away meanwhile.
        again = store.shelf.entry(topic, partition, placed.offset)
    except (DataCorrupted, TopicNotFound):
        return None
    return found if again is not None and again.entry == entry else None


def _let_go(store: Store, placed: Placed) -> None:
    """Has the system read it from the disk: what it keeps in memory does not rot."""
    if not hasattr(os, "posix_fadvise"):
        return
    entry = placed.entry
    with contextlib.suppress(OSError):
        fd = os.open(files.path_of(store.files, entry.file, entry.kind), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, entry.position, entry.length, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


class ScrubCounts:
    """What was looked at in this process since it opened the log."""

    def __init__(self) -> None:
        self.batches = self.bytes = self.findings = 0

    def add(self, found: Scrubbed) -> None:
        """Counts it in. One process scrubs at a time, and in it one thread."""
        self.batches += found.batches
        self.bytes += found.bytes
        self.findings += len(found.findings)
