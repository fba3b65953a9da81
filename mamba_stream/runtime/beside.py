"""Work that is done beside the loop, one piece at a time, so that the loop goes on meanwhile."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol


class _Piece:
    """A piece of work, and what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.over = threading.Event()

    def do(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            self._error = error
        self.over.set()

    def finish(self) -> None:
        self.over.wait()
        if self._error is not None:
            raise self._error


class Committing(Protocol):
    """Does one piece of work at a time, while whoever gave it goes on."""

    @property
    def busy(self) -> bool:
        """Whether there is work that was not yet finished."""
        ...

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        ...

    def begin(self, work: Callable[[], object]) -> None:
        """Begins with a piece of work; the one before has to be finished."""
        ...

    def finish(self) -> None:
        """Waits for the work, if there is any; raises what it raised."""
        ...


class AtOnce:
    """Does the work while whoever gave it waits, for where all has to happen in one thread."""

    def __init__(self) -> None:
        self._piece: _Piece | None = None

    @property
    def busy(self) -> bool:
        return self._piece is not None

    @property
    def done(self) -> bool:
        return True

    def begin(self, work: Callable[[], object]) -> None:
        self._piece = _Piece(work)
        self._piece.do()

    def finish(self) -> None:
        if self._piece is not None:
            piece, self._piece = self._piece, None
            piece.finish()


class Beside:
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
        self._name = name
        # To begin a thread is to wait for it, and on a busy machine that takes longer than the work.
        self._asked: SimpleQueue[_Piece | None] = SimpleQueue()
        self._begun = False
        self._piece: _Piece | None = None

    @property
    def busy(self) -> bool:
        """Whether there is work that was not yet finished."""
        return self._piece is not None

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        return self._piece is None or self._piece.over.is_set()

    def begin(self, work: Callable[[], object]) -> None:
        """Begins with a piece of work; the one before has to be finished."""
        assert self._piece is None, "one piece at a time"
        if not self._begun:
            threading.Thread(target=_work, args=(self._asked,), name=self._name, daemon=True).start()
            weakref.finalize(self, self._asked.put, None)
            self._begun = True
        self._piece = _Piece(work)
        self._asked.put(self._piece)

    def wait(self, seconds: float) -> bool:
        """Waits for the work, so long at most; returns whether :meth:`finish` would not have to wait."""
        return self._piece is None or self._piece.over.wait(seconds)

    def finish(self) -> None:
        """Waits for the work, if there is any.

        Raises:
            BaseException: What the work raised.
        """
        if self._piece is not None:
            piece, self._piece = self._piece, None
            piece.finish()


def _work(asked: SimpleQueue[_Piece | None]) -> None:
    # It knows its work and nothing else: whoever began it can be let go of.
    while (piece := asked.get()) is not None:
        piece.do()
        del piece
