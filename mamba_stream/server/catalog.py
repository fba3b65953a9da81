"""The topics of a log as the server last saw them; a number always means the same topic."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pyarrow as pa

from mamba_stream.errors import TopicNotFound
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.storage import Intake, OwnStorage


@dataclass(frozen=True, slots=True)
class Known:
    """A topic, its columns, and what takes rows for it; and the mark that it had when this was so."""

    row: TopicRow
    schema: pa.Schema
    intake: Intake
    mark: bytes | None


class Catalog:
    """Looks topics up by name and by number."""

    def __init__(self, storage: OwnStorage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._known: dict[int, Known] = {}

    def named(self, name: str) -> TopicRow:
        """The topic of this name, as the log has it now.

        Raises:
            TopicNotFound: There is none.
        """
        row = self._storage.topic(name)
        if row is None:
            raise TopicNotFound(f"no topic {name!r:.80} at this server")
        return row

    def numbered(self, number: int) -> TopicRow:
        """The topic of this number, which may have been deleted meanwhile.

        Raises:
            TopicNotFound: There never was one, or it is gone.
        """
        return self.known(number).row

    def known(self, number: int) -> Known:
        """The topic of this number, as the log has it now, with what takes its rows."""
        found = self._known.get(number)
        # Others alter topics, too: in this log, and beside the server.
        if found is None or found.mark is None or found.mark != self._storage.topic_mark(number):
            found = self._look_up(number)
        return found

    def forget(self, number: int) -> None:
        """It was deleted, or altered."""
        with self._lock:
            self._known.pop(number, None)

    def _look_up(self, number: int) -> Known:
        # Before the row: what changes in between is looked up again.
        mark = self._storage.topic_mark(number) if 0 <= number < 1 << 32 else None
        rows = {row.id: row for row in self._storage.topics()}
        if number not in rows:
            raise TopicNotFound(f"no topic has the number {number}: it was deleted")
        row = rows[number]
        made = Known(row, self._storage.schema(row.schema), self._storage.intake(row), mark)
        with self._lock:
            # Those that were deleted since are forgotten by the way.
            self._known = {n: known for n, known in self._known.items() if n in rows}
            self._known[number] = made
            return made
