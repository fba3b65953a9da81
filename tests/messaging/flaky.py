"""A log whose commits go wrong as a test says: before they happen, after, or not until they may."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mamba_stream.log import Log, Transaction


class FlakyTransaction(Transaction):
    def commit(self) -> None:
        log = self._log
        assert isinstance(log, FlakyLog)
        log.gate.wait(60)
        plan = log.plan.pop(0) if log.plan else None
        if plan is None:
            super().commit()
            log.committed += 1
            return
        when, error = plan
        if when == "after":
            super().commit()
            log.committed += 1
        raise error


class FlakyLog(Log):
    """Shares what another handle has open.

    Attributes:
        plan: What happens to the next commits: ("before" or "after", the error), or None for nothing.
        gate: Commits wait until it is set.
        committed: How many happened.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(log._store)
        self.plan: list[tuple[str, Exception] | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.committed = 0

    def transaction(self) -> Transaction:
        return FlakyTransaction(self)


def until(condition: Callable[[], bool], log: Log, timeout: float = 30.0) -> None:
    """Waits until the condition holds, looking again after each commit."""
    lsn = -1
    for _ in range(int(timeout * 100)):
        if condition():
            return
        lsn = log.wait(lsn, 0.01)
    raise AssertionError("it never came to that")
