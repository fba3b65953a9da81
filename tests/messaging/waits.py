"""Logs at which waiting is told of, or is over at once: a test judges what was waited for, never how long it took."""

from __future__ import annotations

from typing import Any

from mamba_stream.log import Log
from mamba_stream.log.looking import Look
from tests.messaging.desk import SECOND, HandClock


class Watched(Log):
    """Shares what another handle has open.

    Attributes:
        pauses: How many seconds whoever waits for commits means to wait, each time.
        calls: What it asked of the log so far, but for waiting.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log._store)
        self.pauses: list[float] = []
        self.calls: list[str] = []
        self._shared: Any = _Counted(self._shared, self.calls)

    def wait(self, lsn: int, timeout: float) -> int:
        self.pauses.append(timeout)
        return super().wait(lsn, timeout)

    def look(self, beyond: int | None = None, timeout: float = 0.0) -> Look:
        if beyond is not None:
            self.pauses.append(timeout)
        return super().look(beyond, timeout)


class Passing(Log):
    """Shares what another handle has open; where somebody waits for commits in vain, the clock is moved instead."""

    def __init__(self, log: Log, clock: HandClock) -> None:
        super().__init__(log._store)
        self._moved = clock

    def wait(self, lsn: int, timeout: float) -> int:
        now = super().wait(lsn, 0)
        if now <= lsn:
            # At least as much as a clock can show: whoever waits for less waits for ever.
            self._moved.time += max(1, round(timeout * SECOND))
        return now

    def look(self, beyond: int | None = None, timeout: float = 0.0) -> Look:
        if beyond is not None:
            self.wait(beyond, timeout)
        return super().look(beyond, 0.0)


class _Counted:
    def __init__(self, storage: Any, calls: list[str]) -> None:
        self._storage = storage
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found) or name in ("wait", "heard"):
            return found

        def called(*arguments: Any, **named: Any) -> Any:
            self._calls.append(name)
            return found(*arguments, **named)

        return called
