"""Commits as they happen, for everybody who waits for one: a single thread listens to the log for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from mamba_stream.log.storage import Storage

_LISTENED: Final = 2.0
"""Seconds after which who listens looks whether anybody still waits."""
_LOOK_UP: Final = 2.0
"""Seconds after which who waits looks whether it still should: a client that went away wakes nobody."""


class Pulse:
    """Knows the number of the last commit while somebody waits for the next."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._changed = threading.Condition()
        self._lsn = -1
        self._waiting = 0
        self._listening = False
        self._stopped = False
        self._error: Exception | None = None

    def wait(self, lsn: int, timeout: float, gone: Callable[[], bool] = lambda: False) -> int:
        """The last commit's number, once it is beyond ``lsn``, or after ``timeout`` seconds.

        It ends as well when :meth:`stop` is called, and a moment after whoever asked is ``gone``.
        """
        clock = self._storage.clock
        until = clock.monotonic() + timeout
        now = self._storage.lsn()
        with self._changed:
            self._waiting += 1
            try:
                # Also what was told between the look and this moment.
                while (now := max(now, self._lsn)) <= lsn and not self._stopped and not gone():
                    left = until - clock.monotonic()
                    if left <= 0:
                        break
                    self._listen(now)
                    self._changed.wait(min(left, _LOOK_UP))
                    if self._error is not None:
                        raise self._error
            finally:
                self._waiting -= 1
        return now

    def tell(self, lsn: int) -> None:
        """Of a commit of this process: nobody need wait until the listening thread has heard of it, too."""
        with self._changed:
            if lsn > self._lsn:
                self._lsn = lsn
                self._changed.notify_all()

    def stop(self) -> None:
        """Ends all waits, and those that begin."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _listen(self, lsn: int) -> None:
        if not self._listening:
            self._listening = True
            self._error = None
            # What was committed between the look and this moment is beyond it, and found at once.
            self._lsn = lsn
            threading.Thread(target=self._follow, name="mamba-stream pulse", daemon=True).start()

    def _follow(self) -> None:
        while True:
            error: Exception | None = None
            lsn = self._lsn
            try:
                lsn = self._storage.wait(lsn, _LISTENED)
            except Exception as raised:  # noqa: BLE001 - raised by those who wait
                error = raised
            with self._changed:
                # Of what is beyond that, who waits was told.
                if lsn > self._lsn or error is not None:
                    self._lsn, self._error = max(lsn, self._lsn), error
                    self._changed.notify_all()
                if error is not None or self._stopped or not self._waiting:
                    self._listening = False
                    return
