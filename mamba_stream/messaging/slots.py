"""Where handlers of messages run: in the loop itself, in threads, or as coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from mamba_stream.messaging.message import Message


class Slots(Protocol):
    """A number of places in which a message may be handled."""

    @property
    def free(self) -> int:
        """How many take a message now."""
        ...

    def start(self, message: Message) -> None:
        """Handles the message, or begins to."""
        ...

    def close(self) -> None:
        """Returns when nothing is handled any more."""
        ...


class Inline:
    """One place: the loop's own thread."""

    free = 1

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self.start = handle

    def close(self) -> None:
        """Nothing is left when ``start`` has returned."""


class Threads:
    """So many threads."""

    def __init__(self, handle: Callable[[Message], None], number: int) -> None:
        self._handle = handle
        self._number = number
        self._taken = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(number, "mamba-handler")

    @property
    def free(self) -> int:
        return self._number - self._taken

    def start(self, message: Message) -> None:
        with self._lock:
            self._taken += 1
        self._pool.submit(self._run, message)

    def close(self) -> None:
        self._pool.shutdown()

    def _run(self, message: Message) -> None:
        try:
            self._handle(message)
        finally:
            with self._lock:
                self._taken -= 1


class Coroutines:
    """So many coroutines at a time, in an event loop with a thread of its own."""

    def __init__(self, handle: Callable[[Message], Coroutine[Any, Any, None]], number: int) -> None:
        self._handle = handle
        self._number = number
        self._taken = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mamba-coroutines", daemon=True)
        self._thread.start()

    @property
    def free(self) -> int:
        return self._number - self._taken

    def start(self, message: Message) -> None:
        with self._lock:
            self._taken += 1
        asyncio.run_coroutine_threadsafe(self._run(message), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, message: Message) -> None:
        try:
            await self._handle(message)
        finally:
            with self._lock:
                self._taken -= 1

    async def _finish(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)
