"""Having flushed, within a second, what was committed without waiting for the disk."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable

from mamba_stream.core.ending import at_end_of_child
from mamba_stream.errors import MambaStreamError

PAUSE = 0.5
"""Seconds between a commit of durability ``interval`` and its flush, which has to be over within the second."""


_working: weakref.WeakSet[Flushing] = weakref.WeakSet()


class Flushing:
    """A thread that flushes; it begins when it is first asked for, and rests while nothing was committed."""

    def __init__(self, flush: Callable[[], object]) -> None:
        """Nothing is asked for yet.

        Args:
            flush: Has everything on the disk that was committed.
        """
        self._flush = flush
        self._asked = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._forget_end: Callable[[], object] = lambda: None

    def ask(self) -> None:
        """Something was committed that is to be on the disk within a second."""
        if self._over.is_set():
            self._flush_now()
            return
        if self._asked.is_set():
            return
        self._asked.set()
        with self._starting:
            if self._thread is None and not self._over.is_set():
                arguments = (weakref.WeakMethod(self._flush), self._asked, self._over)
                self._thread = threading.Thread(
                    target=_work, args=arguments, name="mamba-stream flush", daemon=True
                )
                self._thread.start()
                _working.add(self)
                self._forget_end = at_end_of_child(self, self.finish, priority=5)

    def finish(self) -> None:
        """As the process ends: does what was asked for, and from now on at once."""
        self.close()
        self._flush_now()

    def close(self) -> None:
        """Ends the thread; what was asked for may not have been done."""
        _working.discard(self)
        self._forget_end()
        with self._starting:
            self._over.set()
            self._asked.set()
        if self._thread is not None:
            self._thread.join()

    def _flush_now(self) -> None:
        # The commit itself has happened, whatever becomes of this.
        with contextlib.suppress(MambaStreamError):
            self._flush()


@atexit.register
def _finish() -> None:
    for flushing in list(_working):
        flushing.finish()


def _work(
    flush: weakref.WeakMethod[Callable[[], object]], asked: threading.Event, over: threading.Event
) -> None:
    while True:
        asked.wait()
        if over.wait(PAUSE):
            return
        # Before the flush: what is committed while it goes on is for the next.
        asked.clear()
        if over.is_set():
            # It was closed since, and what that had set to wake this thread is cleared.
            return
        now = flush()
        if now is None:
            return
        try:
            now()
        except MambaStreamError:
            # Whoever commits next is told; it may succeed again, where the disk was full.
            asked.set()
        del now
