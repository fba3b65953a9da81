"""Work that is done beside the loop, one piece at a time, so that the loop goes on meanwhile."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue


class Piece:
    """What came of a piece of work, for whoever waits for it."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        return self._over.is_set()

    def do(self, work: Callable[[], object]) -> None:
        """Does the work."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            self._error = error
        self._over.set()

    def end(self, error: BaseException) -> None:
        """It failed before it could be done."""
        self._error = error
        self._over.set()

    def wait(self, seconds: float) -> bool:
        """Waits for its end, so long at most; whether it came."""
        return self._over.wait(seconds)

    def finish(self) -> None:
        """Waits for its end; raises what the work raised."""
        self._over.wait()
        if self._error is not None:
            raise self._error


_Asked = tuple[Piece, Callable[[], object]]


class OneAtATime:
    """Gives one piece of work at a time, and waits for it only when it is asked to."""

    def __init__(self) -> None:
        """There is none."""
        self._piece: Piece | None = None

    @property
    def busy(self) -> bool:
        """Whether there is a piece that was not yet finished."""
        return self._piece is not None

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        return self._piece is None or self._piece.is_over

    def finish(self) -> None:
        """Waits for the piece, if there is one; raises what it raised."""
        if self._piece is not None:
            piece, self._piece = self._piece, None
            piece.finish()

    def _next(self) -> Piece:
        """A new piece; the one before has to be finished."""
        assert self._piece is None, "one piece at a time"
        self._piece = Piece()
        return self._piece


class Beside(OneAtATime):
    """A thread that does one piece of work at a time; it ends with this.

    Example:
        >>> beside = Beside("adding")
        >>> found = []
        >>> beside.begin(lambda: found.append(1 + 1))
        >>> beside.finish()
        >>> found
        [2]
    """

    def __init__(self, name: str) -> None:
        """Nothing to do yet; the thread begins when there is.

        Args:
            name: What the thread is called.
        """
        super().__init__()
        self._name = name
        # To begin a thread is to wait for it, and on a busy machine that takes longer than the work.
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._begun = False

    def begin(self, work: Callable[[], object]) -> None:
        """Begins with a piece of work; the one before has to be finished."""
        piece = self._next()
        if not self._begun:
            threading.Thread(target=_work, args=(self._asked,), name=self._name, daemon=True).start()
            weakref.finalize(self, self._asked.put, None)
            self._begun = True
        self._asked.put((piece, work))

    def wait(self, seconds: float) -> bool:
        """Waits for the work, so long at most; returns whether :meth:`finish` would not have to wait."""
        return self._piece is None or self._piece.wait(seconds)


def _work(asked: SimpleQueue[_Asked | None]) -> None:
    # It knows its work and nothing else: whoever began it can be let go of.
    while (found := asked.get()) is not None:
        piece, work = found
        piece.do(work)
        del found, piece, work
