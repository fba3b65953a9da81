"""A group's records for one topic that it shares: its runs and its cursors, read, and written into a change."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec

from mamba_stream.log import Topic
from mamba_stream.log.looking import Look, RecordsAnswer
from mamba_stream.messaging.books import Book, Change, Place
from mamba_stream.messaging.bounds import groups_namespace
from mamba_stream.messaging.pending import Offsets, Pending, bits_of, due_of, key_of, pack

_numbers = itertools.count()
"""A session may share a topic again, when it runs again: all that a process does is numbered through."""


class Accounts:
    """The records, as one session reads and changes them.

    Args:
        book: Where they are.
        topic: The topic.
        group: The group.
        session: Who we are.
    """

    def __init__(self, book: Book, topic: Topic, group: str, session: int) -> None:
        self.book = book
        self._topic = topic
        self._group = group
        self._session = session
        self._runs = pending_namespace(group, topic)
        self._cursors = cursor_namespace(group, topic)

    def beginning(self, start: Mapping[int, int]) -> Change:
        """The change with which the group begins, at these offsets, in the partitions where it has not begun."""
        change = Change()
        for partition, offset in start.items():
            place = self.cursor_place(partition, 0)
            if self.book.get(place) is None:
                change.requires[place] = None
                change.records[place] = msgspec.msgpack.encode((offset, offset))
        if change:
            # Whoever asks what is consumed finds the group by this record.
            change.records[groups_namespace(self._topic), self._group] = b""
        return change

    def look(self, look: Look) -> tuple[RecordsAnswer, RecordsAnswer]:
        """The records of all cursors, and those of all runs, to be looked at together with what else it is about."""
        return self.book.look(look, self._cursors), self.book.look(look, self._runs)

    # Runs.

    def run_place(self, key: str) -> Place:
        """Where the record of a run is."""
        return self._runs, key

    def run_at(self, key: str) -> bytes | None:
        """The record of a run."""
        return self.book.get((self._runs, key))

    def next_due(self) -> int | None:
        """When the next run falls due, or fell; ``None`` where there is none."""
        return next((due_of(key) for key in self.book.records(self._runs, limit=1)), None)

    def next_after(self, now: int) -> int | None:
        """When the first run falls due that is not due by now; ``None`` where there is none."""
        return next((due for key in self.book.records(self._runs) if (due := due_of(key)) > now), None)

    def put(self, change: Change, when: int, run: Pending) -> str:
        """Adds a run that falls due then; the key of its record."""
        key = key_of(when, self._session << 32 | next(_numbers) & 0xFFFF_FFFF)
        change.records[self._runs, key] = pack(run)
        return key

    def dues(self, change: Change, now: int) -> list[int]:
        """When the runs fall due that a change adds, but for those that are due by now."""
        added = [
            key for (namespace, key), value in change.records.items() if namespace == self._runs and value
        ]
        return [due for key in added if (due := due_of(key)) > now]

    def lease(
        self, change: Change, until: int, partition: int, offsets: Offsets, attempt: int, keys: bytes
    ) -> tuple[str, Pending]:
        """Adds a run that is ours until then; the key of its record, and the run."""
        base = int(offsets[0])
        run = Pending(partition, base, bits_of(offsets, base), attempt, self._session, keys)
        return self.put(change, until, run), run

    def wait(self, change: Change, when: int, partition: int, offsets: Offsets, keys: bytes) -> None:
        """Adds a run of messages that were not delivered yet, and may be from then on."""
        base = int(offsets[0])
        self.put(change, when, Pending(partition, base, bits_of(offsets, base), 0, 0, keys))

    # Cursors.

    def cursor_place(self, partition: int, priority: int) -> Place:
        """Where the record of a cursor is."""
        return self._cursors, f"{partition}.{priority}"

    def move(
        self, change: Change, partition: int, priority: int, stored: bytes | None, cursor: int, start: int
    ) -> None:
        """Moves a cursor on from what it was."""
        place = self.cursor_place(partition, priority)
        change.requires[place] = stored
        change.records[place] = msgspec.msgpack.encode((cursor, start))


def pending_namespace(group: str, topic: Topic) -> str:
    """Where the runs of a group on a topic are."""
    return f"pending/{group}/{topic.number}"


def cursor_namespace(group: str, topic: Topic) -> str:
    """Where the cursors of a group on a topic are: by ``partition.priority``, (cursor, where the group began)."""
    return f"cursor/{group}/{topic.number}"
