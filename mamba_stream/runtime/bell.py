"""What wakes a job: anybody may ring, from any thread; and the alarms that readers set."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable

from mamba_stream.core.clock import Clock
from mamba_stream.errors import LogClosed
from mamba_stream.log import Log


class Bell:
    """Ends a job's wait for the log when something else has come that it should look at."""

    def __init__(self, log: Log) -> None:
        """Nobody has rung."""
        self._log = log
        self._rung = False

    def ring(self) -> None:
        """There is something: it has been put where whoever is woken will look."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(LogClosed):
                self._log.rouse()

    def rung(self) -> bool:
        """Whether anybody has since :meth:`still`."""
        return self._rung

    def still(self) -> None:
        """Whoever was woken is about to look."""
        self._rung = False


class Alarm:
    """When a reader is to be asked again, by what it says itself: what it calls to wake whoever reads it.

    Example:
        >>> from mamba_stream.core.clock import SystemClock
        >>> rung = []
        >>> alarm = Alarm(SystemClock(), lambda: rung.append(1))
        >>> alarm.due
        True
        >>> alarm.begin()
        >>> alarm.end(more=False)
        >>> alarm.due
        False
        >>> alarm(3_600.0)
        >>> alarm.due
        False
        >>> alarm()
        >>> alarm.due
        True
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        """It is due: the reader was never asked.

        Args:
            clock: Tells when delays are over.
            ring: Wakes whoever reads.
        """
        self._clock = clock
        self._ring = ring
        self._door = threading.Lock()
        self._at = -math.inf
        self._reader: int | None = None

    def __call__(self, after: float = 0.0) -> None:
        """See :class:`mamba_stream.connect.Wake`."""
        at = self._clock.monotonic() + after
        with self._door:
            sooner = at < self._at
            if sooner:
                self._at = at
        # Whoever is about to read looks at this anyway before it sleeps.
        if sooner and threading.get_ident() != self._reader:
            self._ring()

    def begin(self) -> None:
        """The reader is about to be asked, by this thread: what it says from here on counts."""
        self._reader = threading.get_ident()
        with self._door:
            self._at = math.inf

    def end(self, *, more: bool) -> None:
        """The reader was asked; if it gave something, it is to be asked for more."""
        self._reader = None
        if more:
            with self._door:
                self._at = -math.inf

    @property
    def due(self) -> bool:
        """Whether the reader is to be asked."""
        return self._at <= self._clock.monotonic()

    @property
    def seconds(self) -> float:
        """How long until it is; infinite where only the reader knows."""
        return max(0.0, self._at - self._clock.monotonic())
