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
    mark: bytes


class _Call(threading.local):
    """What the call that this thread is in has looked up."""

    depth = 0

    def __init__(self) -> None:
        self.seen: dict[int, Known] = {}


class Catalog:
    """Looks topics up by name and by number.

    As a context it stands for a call, in which each topic is looked up once: what the caller may do with it is judged
    by the same look as what is done.
    """

    def __init__(self, storage: OwnStorage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._known: dict[int, Known] = {}
        self._call = _Call()

    def __enter__(self) -> None:
        self._call.depth += 1

    def __exit__(self, *_: object) -> None:
        self._call.depth -= 1
        if not self._call.depth:
            self._call.seen.clear()

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
        call = self._call
        if (seen := call.seen.get(number)) is not None:
            return seen
        # Looked at first: numbers that are made up must cost no more than this. No number is given twice.
        mark = self._storage.topic_mark(number) if 0 <= number < 1 << 32 else None
        found = self._known.get(number)
        # Others alter topics, too: in this log, and beside the server.
        if found is None or found.mark != mark:
            found = self._look_up(number, mark)
        if call.depth:
            call.seen[number] = found
        return found

    def forget(self, number: int) -> None:
        """It was deleted, or altered."""
        self._call.seen.pop(number, None)
        with self._lock:
            self._known.pop(number, None)

    def _look_up(self, number: int, mark: bytes | None) -> Known:
        # Behind the mark: what changes in between is looked up again.
        rows = {} if mark is None else {row.id: row for row in self._storage.topics()}
        if number not in rows:
            raise TopicNotFound(f"no topic has the number {number}: it was deleted")
        row = rows[number]
        assert mark is not None
        made = Known(row, self._storage.schema(row.schema), self._storage.intake(row), mark)
        with self._lock:
            # Those that were deleted since are forgotten by the way.
            self._known = {n: known for n, known in self._known.items() if n in rows}
            self._known[number] = made
            return made
