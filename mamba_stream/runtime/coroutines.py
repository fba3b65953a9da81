"""Calls of users' functions in one event loop: in turn, so many at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from mamba_stream.core.clock import EVER


class _Loop:
    """One event loop for all coroutines of users' functions, in a thread of its own.

    What a client of theirs opened in one call is good for the next.
    """

    def __init__(self) -> None:
        self._door = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def soon(self, work: Callable[[], object]) -> None:
        """Has the loop's thread do something."""
        with self._door:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="mamba-stream coroutines", daemon=True
                ).start()
            self._loop.call_soon_threadsafe(work)


_LOOP: Final = _Loop()

_Outcome = tuple[Any, BaseException | None]


class _Round:
    """Calls that belong together: they are over when all are, or once one has failed."""

    def __init__(self, arguments: Sequence[Any]) -> None:
        self.arguments = arguments
        self.results: list[Any] = [None] * len(arguments)
        self.future: Future[list[Any]] = Future()
        self.next = 0
        self.left = len(arguments)
        self.tasks: set[asyncio.Task[_Outcome]] = set()


class Lane:
    """Begins calls in the order in which they are asked for, so many at a time; any thread may ask."""

    def __init__(self, call: Callable[[Any], Awaitable[Any]], most: int) -> None:
        """No calls yet.

        Args:
            call: The call that an argument is for.
            most: How many there are at a time.
        """
        self._call = call
        self._most = most
        self._rounds: deque[_Round] = deque()
        self._at_work: dict[asyncio.Task[_Outcome], _Round] = {}
        self._room = threading.Condition()
        self._open = 0

    def begin(
        self, arguments: Sequence[Any], ended: Callable[[], object] = lambda: None
    ) -> Future[list[Any]]:
        """Calls for each of the arguments.

        Args:
            arguments: What to call with.
            ended: Called when these calls are over, if there are any, in whichever thread.

        Returns:
            Their results, in order; or the first error, which ends those that are left.
        """
        new = _Round(arguments)
        if arguments:
            new.future.add_done_callback(lambda _: ended())
            self._count(len(arguments))
            _LOOP.soon(partial(self._add, new))
        else:
            new.future.set_result([])
        return new.future

    def wait_for_room(self) -> None:
        """Returns when a call that is asked for begins at once."""
        with self._room:
            self._room.wait_for(lambda: self._open < self._most, EVER)

    def cancel(self) -> None:
        """Ends the calls there are: nobody wants their results any more."""
        _LOOP.soon(self._cancel)

    # -- in the loop's thread --------------------------------------------------------------------------------------

    def _add(self, new: _Round) -> None:
        self._rounds.append(new)
        self._go_on()

    def _go_on(self) -> None:
        while self._rounds and len(self._at_work) < self._most:
            first = self._rounds[0]
            task = asyncio.get_running_loop().create_task(self._outcome(first.arguments[first.next]))
            self._at_work[task] = first
            first.tasks.add(task)
            task.add_done_callback(partial(self._over, first, first.next))
            first.next += 1
            if first.next == len(first.arguments):
                self._rounds.popleft()

    async def _outcome(self, argument: Any) -> _Outcome:
        try:
            return await self._call(argument), None
        except BaseException as error:  # noqa: BLE001 - an exit would end the loop, and is raised where results are asked for
            return None, error

    def _over(self, of: _Round, number: int, task: asyncio.Task[_Outcome]) -> None:
        del self._at_work[task]
        of.tasks.discard(task)
        # One that was to end before it began has no outcome.
        result, error = (None, asyncio.CancelledError()) if task.cancelled() else task.result()
        self._count(-1)
        if error is not None:
            self._fail(of, error)
        elif not of.future.done():
            of.results[number] = result
            of.left -= 1
            if not of.left:
                of.future.set_result(of.results)
        self._go_on()

    def _fail(self, of: _Round, error: BaseException) -> None:
        """What it would take to finish the others is not worth waiting for."""
        if of.future.done():
            return
        if of.next < len(of.arguments):
            self._rounds.remove(of)
            self._count(of.next - len(of.arguments))
        of.future.set_exception(error)
        for task in of.tasks:
            task.cancel()

    def _cancel(self) -> None:
        for of in {*self._rounds, *self._at_work.values()}:
            self._fail(of, asyncio.CancelledError())

    def _count(self, more: int) -> None:
        with self._room:
            self._open += more
            self._room.notify_all()


def in_a_thread(function: Callable[[Any], Any], argument: Any) -> Awaitable[Any]:
    """The result of a function that is run in a thread of its own, which holds up nothing if it never ends."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def settle(done: Callable[[Any], None], value: Any) -> None:
        if not result.done():
            done(value)

    def work() -> None:
        try:
            value = function(argument)
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            loop.call_soon_threadsafe(settle, result.set_exception, error)
        else:
            loop.call_soon_threadsafe(settle, result.set_result, value)

    threading.Thread(target=work, name="mamba-stream function", daemon=True).start()
    return result
