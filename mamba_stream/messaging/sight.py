"""What a group sees before it takes: its records, the topic's ends, and the first rows, looked at together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final

import msgspec

from mamba_stream.log import Topic
from mamba_stream.log.batch import LogBatch
from mamba_stream.messaging.accounts import Accounts
from mamba_stream.messaging.pending import Pending, due_of, key_of, unpack
from mamba_stream.messaging.priorities import PRIORITIES, WITHOUT_PRIORITIES, Priorities, decoded

_ALONG: Final = 256 << 10
"""Bytes of rows that are asked for with the rest."""
_cursor = msgspec.msgpack.Decoder(tuple[int, int])


class Sight:
    """One look. What is looked at twice is the same.

    Cursors are seen before runs: whoever takes new rows adds a run and moves a cursor in one change. So if the cursors
    are still what they were when a change commits, no run of new rows came that was not seen.

    Args:
        accounts: The group's records.
        topic: The topic.
        messages: Whether its rows are messages, which have priorities.
        start: By partition, from where on rows are likely to be wanted.
        room: How many rows at most.
        space: How many bytes of them.
        beyond: Look once the log is past this commit, or ``timeout`` seconds are over.
        timeout: Seconds.
    """

    def __init__(
        self,
        accounts: Accounts,
        topic: Topic,
        *,
        messages: bool,
        start: Mapping[int, int],
        room: int,
        space: int,
        beyond: int | None = None,
        timeout: float = 0.0,
    ) -> None:
        self._accounts = accounts
        look = topic.log.look(beyond, timeout)
        # First of all: of what comes behind it all may be seen, and of what comes before it all is.
        self._lsn = None if beyond is None else look.lsn()
        self._offsets = look.offsets(topic)
        # Behind the ends: so all that lies before these comes along, where it is not much.
        self._rows = look.rows(topic, start, room, min(space, _ALONG)) if start else None
        self._priorities = look.record(PRIORITIES, str(topic.number)) if messages else None
        self._cursors, self._runs = accounts.look(look)

    @property
    def lsn(self) -> int | None:
        """The number of the last commit before the look, of one that waited for another."""
        return None if self._lsn is None else self._lsn.get()

    @property
    def offsets(self) -> dict[int, tuple[int, int]]:
        """Begin and end of each partition."""
        return self._offsets.get()

    @cached_property
    def priorities(self) -> Priorities:
        """The priorities of the topic, 0 always among them."""
        return WITHOUT_PRIORITIES if self._priorities is None else decoded(self._priorities.get())

    def rows(self, partition: int, position: int) -> list[LogBatch]:
        """Rows of a partition from there on, as far as they came along: also behind its end as it was seen."""
        found = [] if self._rows is None else self._rows.get().get(partition, [])
        return found if found and found[0].offset == position else []

    # Runs.

    @cached_property
    def records(self) -> dict[str, bytes]:
        """The records of all runs: those that fall due first come first."""
        self._cursors.get()
        return self._runs.get()

    @cached_property
    def runs(self) -> dict[str, Pending]:
        """All runs."""
        return {key: unpack(value) for key, value in self.records.items()}

    def due(self, now: int) -> dict[str, bytes]:
        """The records of runs that are due."""
        behind = key_of(now + 1, 0)
        return {key: value for key, value in self.records.items() if key < behind}

    def next_due(self) -> int | None:
        """When the next run falls due, or fell; ``None`` where there is none."""
        first = self._runs.first()
        return None if first is None else due_of(first)

    def next_change(self, now: int) -> int | None:
        """When a run falls due that is not due by now; one that fell due and was not taken waits for something else."""
        return next((due for key in self.records if (due := due_of(key)) > now), None)

    # Cursors.

    def cursor(self, partition: int, priority: int, begin: int) -> tuple[int, int, bytes | None]:
        """A cursor, where the group began, and the cursor's record.

        Args:
            partition: The partition.
            priority: The priority.
            begin: Where the partition begins.
        """
        stored = self._stored(partition, priority)
        if stored is not None:
            return (*_cursor.decode(stored), stored)
        if priority == 0:
            return begin, begin, None
        first = self._stored(partition, 0)
        start = begin if first is None else _cursor.decode(first)[1]
        return max(start, self.priorities[priority].get(partition, 0)), start, None

    def _stored(self, partition: int, priority: int) -> bytes | None:
        _, key = self._accounts.cursor_place(partition, priority)
        return self._cursors.get().get(key)
