"""Whether there is memory left for what clients send ahead of the log.

While a stream waits for the log, gRPC reads on, as far as a window goes that it widens by itself, to hundreds of
megabytes for one client; nothing here can narrow it, and gRPC has no answer to memory that is refused. So streams that
are ahead are ended before it comes to that, one after the other, and all others go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from mamba_stream.core.clock import Clock

EVERY: Final = 0.5
"""Seconds from one look to the next: what an ended stream held is free only after a moment."""
_SHARE: Final = 0.7


class Room:
    """The memory of a process that must not hold more than so many bytes.

    Args:
        most: What it may hold.
        used: What it holds; ``None`` where nobody can tell.
        clock: By which looks are apart.
    """

    def __init__(self, most: int, used: Callable[[], int | None], clock: Clock) -> None:
        self._most = most
        self._used = used
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock.monotonic() - EVERY

    def is_short(self) -> bool:
        """Whether the stream that asks is to end, for others to go on. Only those ask that wait for the log."""
        with self._lock:
            now = self._clock.monotonic()
            if now - self._looked < EVERY:
                return False
            self._looked = now
        used = self._used()
        return used is not None and used > self._most * _SHARE
