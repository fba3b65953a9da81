"""Workers that are threads of this process: nothing to start, and nothing that survives it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log
from mamba_stream.runtime.bell import Bell
from mamba_stream.runtime.workers.executor import Hear
from mamba_stream.runtime.workers.messages import Gone, Order, Quit, Ready
from mamba_stream.runtime.workers.shift import Shift
from mamba_stream.runtime.workers.worker import Worker

_BEAT: Final = 0.5
"""Seconds between two beats."""


class ThreadExecutor:
    """Runs workers as threads of this process, over a log that they share."""

    def __init__(self, make: Callable[[], Worker], log: Log) -> None:
        """No worker yet.

        Args:
            make: Makes a worker.
            log: The log.
        """
        self._make = make
        self._log = log
        self._workers: list[_Thread] = []

    def start(self, worker: int, hear: Hear) -> _Thread:
        thread = _Thread(worker, self._make(), self._log, hear)
        self._workers.append(thread)
        thread.start()
        return thread

    def close(self) -> None:
        for thread in self._workers:
            thread.send(Quit())
        for thread in self._workers:
            thread.join()
        self._workers.clear()


class _Thread(threading.Thread):
    """A worker."""

    def __init__(self, number: int, worker: Worker, log: Log, hear: Hear) -> None:
        super().__init__(name=f"mamba-stream worker {number}", daemon=True)
        self._shift = Shift(worker, hear)
        self._log = log
        self._hear = hear
        self._bell = Bell(log)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    def send(self, order: Order) -> None:
        self._orders.put(order)
        self._bell.ring()

    def kill(self) -> None:
        self.send(Quit())

    def run(self) -> None:
        beating = threading.Event()
        threading.Thread(target=self._beat, args=(beating,), name=f"{self.name}: beat", daemon=True).start()
        self._hear(Ready(0))
        try:
            while not self._shift.over:
                lsn = self._log.heard()
                self._bell.still()
                if not self._orders.empty():
                    self._shift.follow(self._orders.get())
                elif self._shift.turn() == 0:
                    self._log.wait(lsn, self._shift.seconds_to_next(), self._bell.rung)
        except MambaStreamError as error:
            # The log was closed under it.
            self._shift.fail(error)
        finally:
            beating.set()
            self._shift.close()
            self._hear(Gone("ended"))

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(_BEAT):
            self._hear(self._shift.beat())
