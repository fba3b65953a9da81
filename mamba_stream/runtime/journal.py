"""What happened to a job, in the order in which it did, kept over its runs.

A ring of small records: what is written over is the oldest, so a job has at most :data:`KEPT` of them, of at most 2 KB
each, whatever happens to it. Only whoever has the job's lock writes.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.log import Log, Transaction

JOURNAL: Final = "jobs.journal"
"""How the namespace begins of what happened to a job: ``jobs.journal/JOB``; in it, by the event's place in the ring."""
KEPT: Final = 256
"""How many events are kept of a job."""
_LONGEST: Final = 1_600
"""Bytes of an event's text; of a longer one, beginning and end are kept."""
_WAITING: Final = 64
"""How many events wait to be written; beyond that the oldest of them goes."""
_WRONG: Final = frozenset({"died", "failed"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Event(msgspec.Struct, frozen=True, array_like=True):
    number: int
    at: int
    run: int
    what: str
    text: str


_event = msgspec.msgpack.Decoder(_Event)


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a job.

    Attributes:
        number: Which of the job's events it is.
        at: When.
        run: In which run of the job.
        what: The kind of event, in a word.
        text: What there is to say.
    """

    number: int
    at: datetime
    run: int
    what: str
    text: str

    @property
    def wrong(self) -> bool:
        """Whether something went wrong."""
        return self.what in _WRONG


class Journal:
    """Where a run writes what happens to it."""

    def __init__(self, log: Log, job: str, run: int, clock: Clock) -> None:
        """Goes on behind what earlier runs have written.

        Args:
            log: The log.
            job: The job's name.
            run: The number of the run.
            clock: The clock.
        """
        self._job = job
        self._run = run
        self._clock = clock
        self._next = 1 + max((event.number for event in _read(log, job)), default=-1)
        self._events: deque[tuple[int, str, str]] = deque(maxlen=_WAITING)

    def note(self, what: str, text: str) -> None:
        """Something happened; it is written with the next transaction. Called from any thread."""
        self._events.append((self._clock.now(), what, _short(text)))

    @property
    def waiting(self) -> bool:
        """Whether something was noted that is not written."""
        return bool(self._events)

    def write(self, tx: Transaction) -> None:
        """Writes what was noted within a transaction."""
        while self._events:
            at, what, text = self._events.popleft()
            event = _Event(self._next, at, self._run, what, text)
            tx.put_record(_space(self._job), f"{self._next % KEPT:03}", msgspec.msgpack.encode(event))
            self._next += 1


def read_journal(log: Log, job: str) -> list[Event]:
    """What happened to a job, as far as it is kept, the oldest first."""
    return [
        Event(event.number, _EPOCH + timedelta(microseconds=event.at), event.run, event.what, event.text)
        for event in _read(log, job)
    ]


def _read(log: Log, job: str) -> list[_Event]:
    return sorted((_event.decode(data) for data in log.records(_space(job)).values()), key=lambda e: e.number)


def _space(job: str) -> str:
    return f"{JOURNAL}/{job}"


def _short(text: str) -> str:
    """The text, if it is not too long; else its beginning and its end, where errors say most."""
    data = text.encode()
    if len(data) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{data[:half].decode(errors='ignore')} […] {data[-half:].decode(errors='ignore')}"
