"""How often something is written down that others can cause as often as they like."""

from __future__ import annotations

import threading
from typing import Final

from mamba_stream.core.clock import Clock

MOST: Final = 10
WINDOW: Final = 10.0


class Rate:
    """Lets ten of a kind through in ten seconds, and counts the others. For any number of threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._begun = -WINDOW
        self._count = 0

    def take(self) -> int | None:
        """How many did not go through since the last window, where this one does; ``None`` where it does not."""
        with self._lock:
            now = self._clock.monotonic()
            left_out = 0
            if now - self._begun >= WINDOW:
                left_out = max(self._count - MOST, 0)
                self._begun, self._count = now, 0
            self._count += 1
            return left_out if self._count <= MOST else None
