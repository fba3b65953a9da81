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

    @property
    def error(self) -> BaseException | None:
        """What a handler raised to end more than itself, such as ``SystemExit``."""
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
    error = None

    def __init__(self, handle: Callable[[Message], None]) -> None:
        self.start = handle

    def close(self) -> None:
        """Nothing is left when ``start`` has returned."""


class Threads:
    """So many threads.

    Args:
        handle: What handles a message.
        number: How many at a time.
        freed: Called where one of them takes a message again.
    """

    def __init__(self, handle: Callable[[Message], None], number: int, freed: Callable[[], object]) -> None:
        self._handle = handle
        self._number = number
        self._freed = freed
        self.error: BaseException | None = None
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
        except BaseException as error:  # noqa: BLE001 - raised where it ends more than a thread
            self.error = error
        finally:
            with self._lock:
                self._taken -= 1
            self._freed()


class Coroutines:
    """So many coroutines at a time, on an event loop: one with a thread of its own, or the caller's.

    Args:
        handle: What handles a message.
        number: How many at a time.
        give_back: Told of a message whose coroutine was cancelled, perhaps before it began.
        freed: Called where one more may begin.
        loop: The caller's event loop, which runs in another thread than this object's methods.
    """

    def __init__(
        self,
        handle: Callable[[Message], Coroutine[Any, Any, None]],
        number: int,
        give_back: Callable[[Message], None],
        freed: Callable[[], object],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._handle = handle
        self._number = number
        self._give_back = give_back
        self._freed = freed
        self.error: BaseException | None = None
        self._taken = 0
        self._change = threading.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop() if loop is None else loop
        if loop is None:
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="mamba-coroutines", daemon=True
            )
            self._thread.start()

    @property
    def free(self) -> int:
        return self._number - self._taken

    def start(self, message: Message) -> None:
        with self._change:
            self._taken += 1
        self._loop.call_soon_threadsafe(self._begin, message)

    def cancel(self) -> None:
        """Cancels what is handled, and begins nothing more; called on the event loop."""
        self._over = True
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._taken)
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _begin(self, message: Message) -> None:
        if self._over:
            self._give_back(message)
            self._leave()
            return
        task = self._loop.create_task(self._run(message))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._end(task, message))

    async def _run(self, message: Message) -> None:
        try:
            await self._handle(message)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it would end the event loop, which others are on
            self.error = error

    def _end(self, task: asyncio.Task[None], message: Message) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._give_back(message)
        self._leave()

    def _leave(self) -> None:
        with self._change:
            self._taken -= 1
            self._change.notify_all()
        self._freed()
