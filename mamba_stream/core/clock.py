"""The clock as an argument: the engine never asks the machine for the time itself."""

from __future__ import annotations

import threading
import time
from typing import Final, Protocol

EVER: Final = threading.TIMEOUT_MAX
"""Seconds to wait where there is no end to it, for whoever may wait in a program's main thread.

Polars takes signals in a way in which a wait without an end goes on when one comes, so that Ctrl-C does nothing before
it is over; one with an end is interrupted.
"""


class Clock(Protocol):
    """Tells the time; whatever needs time is given one.

    Tests pass a clock that they move by hand.
    """

    def now(self) -> int:
        """Microseconds since 1970-01-01T00:00:00 UTC by the wall clock, which may jump either way."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed but unknown moment; never runs backwards."""
        ...


class SystemClock:
    """The clock of this machine."""

    __slots__ = ()

    def now(self) -> int:
        """Microseconds since 1970-01-01T00:00:00 UTC by the wall clock, which may jump either way."""
        return time.time_ns() // 1_000

    monotonic = staticmethod(time.monotonic)
    """Seconds since some fixed but unknown moment; never runs backwards."""
