"""Waiting in a thread for what somebody else reads."""

from __future__ import annotations

import os
import select
import threading

from mamba_stream.connect import Wake


class Watch:
    """Wakes a reader when its descriptor has something, or is at its end."""

    def __init__(self, descriptor: int, wake: Wake) -> None:
        """Begins a thread, which does nothing until it is asked to.

        Args:
            descriptor: What is read, by whoever is woken.
            wake: Wakes them.
        """
        self._descriptor = descriptor
        self._wake = wake
        self._wanted = threading.Event()
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._work, name="mamba-stream input", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Nothing is there: wakes the reader, once, when something is."""
        self._wanted.set()

    def close(self) -> None:
        """Ends the thread."""
        os.write(self._ending, b"\0")
        self._wanted.set()
        self._thread.join()
        os.close(self._ending)
        os.close(self._end)

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._end in select.select([self._descriptor, self._end], [], [])[0]:
                return
            self._wake()
