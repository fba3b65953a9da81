"""Whether there is memory left for what clients send ahead of the log, and for what they do not take.

While a stream waits for the log, gRPC reads on, as far as a window goes that it widens by itself, to hundreds of
megabytes for one client; nothing here can narrow it, and gRPC has no answer to memory that is refused. So streams that
are ahead are ended before it comes to that, one after the other, and all others go on.

Whoever reads and takes nothing holds what was read for it, and cannot be ended. So reads get little at a time once much
is held, and none begins or goes on before they leave nothing for those who append.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from mamba_stream.core.clock import Clock

EVERY: Final = 0.5
"""Seconds from one look to the next: what an ended stream held is free only after a moment."""
_SHARE: Final = 0.7
_SHARE_OF_READS: Final = 0.6
_AMPLE: Final = 0.2
_READS_LOOK: Final = 0.05
"""Seconds from one look to the next of those who read: so long what all of them add is not known."""


class Room:
    """The memory of a process that must not hold more than so many bytes.

    Args:
        most: What it may hold.
        used: What it holds; ``None`` where nobody can tell.
        clock: By which looks are apart.
        rows: What of that is rows.
        trim: Gives back what was freed, which else stays with the process.
    """

    def __init__(
        self,
        most: int,
        used: Callable[[], int | None],
        clock: Clock,
        rows: Callable[[], int] = pa.total_allocated_bytes,
        trim: Callable[[], object] | None = None,
    ) -> None:
        self._most = most
        self._used = used
        self._rows = rows
        self._trim = trim or pa.default_memory_pool().release_unused
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = self._trimmed = self._looked = clock.monotonic() - EVERY
        self._seen = 0

    def is_ample(self) -> bool:
        """Whether who reads may have much at a time."""
        return self._rows() <= self._most * _AMPLE

    def is_short_for_reads(self) -> bool:
        """Whether nothing more is to be read before something of it was taken."""
        most = self._most * _SHARE_OF_READS
        if self._rows() > most:
            return True
        with self._lock:
            now = self._clock.monotonic()
            if now - self._looked >= _READS_LOOK:
                self._looked = now
                self._seen = self._held(most, now)
            return self._seen > most

    def is_short(self) -> bool:
        """Whether the stream that asks is to end, for others to go on. Only those ask that wait for the log."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._ended < EVERY:
                return False
            self._ended = now
            most = self._most * _SHARE
            return self._held(most, now) > most

    def _held(self, most: float, now: float) -> int:
        """What the process holds; where that is much, what was freed is given back before."""
        used = self._used() or 0
        if used > most and now - self._trimmed >= EVERY:
            self._trimmed = now
            self._trim()
            used = self._used() or 0
        return used
