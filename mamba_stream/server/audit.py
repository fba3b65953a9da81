"""The audit topic: who was refused what, and who administered what.

Events are gathered in memory, alike ones counted together, and written by a thread in batches: no request waits for it,
or fails by it. Where more different events come than there is room for, the surplus is counted, and a row says so. What
strangers can cause is bounded: names that they think of, addresses that they come from, and what the topic keeps.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from urllib.parse import unquote

import pyarrow as pa

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.log import Log

TOPIC: Final = "_audit"
"""A topic of the log's own: to read it takes ``admin`` on the log."""
SCHEMA: Final = pa.schema(
    [
        pa.field("time", pa.timestamp("us", "UTC")),
        pa.field("user", pa.large_string()),
        pa.field("peer", pa.large_string()),
        pa.field("operation", pa.large_string()),
        pa.field("kind", pa.large_string()),
        pa.field("name", pa.large_string()),
        pa.field("outcome", pa.large_string()),
        pa.field("code", pa.large_string()),
        pa.field("count", pa.int64()),
    ]
)

KEEP: Final = timedelta(days=90)
"""For how long rows are kept, unless said otherwise."""
MOST_ROWS: Final = 2_000_000
"""How many are kept."""

Outcome = Literal["allowed", "denied", "failed", "reloaded", "dropped"]
_DROPPED: Final = "dropped"
_Event = tuple[str, str, str, str, str, str, str]
"""User, peer, operation, kind, name, outcome and code."""
_LONGEST: Final = 256
_TRIM_EVERY: Final = 3_600.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_logger = logging.getLogger(__name__)


class Audit:
    """Gathers events, and has them written.

    Args:
        write: Writes rows of :data:`SCHEMA`; where it raises, they are kept and tried again.
        clock: Tells the time.
        room: How many different events are kept until they are written.
        share: How many of one user, and of all together whom nobody knows.
        every: Seconds between writes.
    """

    def __init__(
        self,
        write: Callable[[pa.RecordBatch], object],
        clock: Clock,
        *,
        room: int = 4_096,
        share: int = 128,
        every: float = 1.0,
    ) -> None:
        self._write = write
        self._clock = clock
        self._room = room
        self._every = every
        self._events: dict[_Event, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._share = share
        self._shares = Counter[str]()
        self._surplus = Counter[str]()
        self._failing = False
        self._stop = threading.Event()
        self.written = 0
        self.rows = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="mamba-stream audit", daemon=True)
        self._thread.start()

    def note(
        self, *, user: str, peer: str, operation: str, kind: str, name: str, outcome: Outcome, code: str = ""
    ) -> None:
        """Notes that something happened; returns at once.

        Args:
            user: Who did it, as far as is known.
            peer: The address that it came from; the port, which changes all the time, is left away.
            operation: What it was.
            kind: With what kind of thing.
            name: With which.
            outcome: What became of it.
            code: The error's.
        """
        event = (user, _host(peer), operation, kind, name[:_LONGEST], outcome, code)
        now = self._clock.now()
        with self._lock:
            known = self._events.get(event)
            if known is not None:
                self._events[event] = (known[0], known[1] + 1)
            else:
                self._add(event, now, 1)

    def flush(self) -> bool:
        """Writes what there is; whether that went well."""
        with self._lock:
            events, self._events = self._events, {}
            surplus, self._surplus = self._surplus, Counter()
            self._shares.clear()
        for user, count in surplus.items():
            events[user, "", "", "", "", _DROPPED, "AuditFull"] = (self._clock.now(), count)
        if not events:
            return True
        try:
            self._write(_rows(events))
        except Exception:
            self._take_back(events)
            if not self._failing:
                _logger.exception("the audit topic cannot be written, and is tried again")
            self._failing = True
            return False
        self._failing = False
        self.written += sum(count for _, count in events.values())
        self.rows += len(events)
        return True

    def close(self) -> None:
        """Writes what there is, and ends."""
        self._stop.set()
        self._thread.join()
        if not self.flush():
            left = sum(count for _, count in self._events.values())
            _logger.error("%d events were not written to the audit topic", left)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.flush()

    def _take_back(self, events: dict[_Event, tuple[int, int]]) -> None:
        """Keeps what could not be written, in front of what came meanwhile, as far as there is room."""
        with self._lock:
            for event, (at, count) in self._events.items():
                first, before = events.get(event, (at, 0))
                events[event] = (first, before + count)
            self._events = {}
            self._shares.clear()
            for event, (at, count) in events.items():
                if event[5] == _DROPPED:
                    self._surplus[event[0]] += count
                else:
                    self._add(event, at, count)

    def _add(self, event: _Event, at: int, count: int) -> None:
        """Keeps an event that is not there yet, if there is room."""
        user = event[0]
        if len(self._events) < self._room and self._shares[user] < self._share:
            self._shares[user] += 1
            self._events[event] = (at, count)
        else:
            # Of users there are few; what strangers do is nobody's.
            self._surplus[user] += count
            self.dropped += count


def audit_topic(
    log: Log, *, keep: timedelta = KEEP, most: int = MOST_ROWS, clock: Clock | None = None
) -> Callable[[pa.RecordBatch], object]:
    """What appends to the audit topic of a log, which is made where it is missing.

    Args:
        log: The log.
        keep: For how long rows are kept, and an hour more.
        most: How many are kept, and those of an hour more.
        clock: Tells the time.
    """
    topic = log.create_topic(TOPIC, SCHEMA, time="time", exist_ok=True, internal=True)
    clock = clock or SystemClock()
    trim_at = clock.monotonic()

    def write(rows: pa.RecordBatch) -> None:
        nonlocal trim_at
        [(_, end)] = topic.append(rows).values()
        if clock.monotonic() >= trim_at:
            trim_at = clock.monotonic() + _TRIM_EVERY
            [old] = topic.offset_at(_EPOCH + timedelta(microseconds=clock.now()) - keep).values()
            topic.trim({0: max(old, end - most)})

    return write


def _rows(events: dict[_Event, tuple[int, int]]) -> pa.RecordBatch:
    columns = [*zip(*events, strict=True)]
    times = pa.array([at for at, _ in events.values()], pa.timestamp("us", "UTC"))
    counts = pa.array([count for _, count in events.values()], pa.int64())
    return pa.record_batch(
        [times, *(pa.array(map(_clean, column), pa.large_string()) for column in columns), counts], SCHEMA
    )


def _clean(text: str) -> str:
    """Names come from whoever was refused: what would move a terminal's cursor, or is no text, is shown as escapes."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _host(peer: str) -> str:
    # gRPC writes the brackets around an address as a part of a URL.
    host, colon, port = unquote(peer).rpartition(":")
    return host if colon and port.isdecimal() else peer
