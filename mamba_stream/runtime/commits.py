"""Commits that were taken, and who makes them durable: each by itself, or those of many tasks together.

Together they cost one call, one sync and one thread; each is accepted or refused by itself all the same.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from mamba_stream.errors import JobFailed, PreconditionFailed
from mamba_stream.log import Log, Transaction, commit_together
from mamba_stream.runtime.beside import OneAtATime, Piece


class Commit:
    """A commit that was taken, to be made durable in any thread, by itself or with those of others."""

    def __init__(
        self, write: Callable[[], Transaction], settled: Callable[[Transaction], None], words: str
    ) -> None:
        """Nothing is written yet.

        Args:
            write: Gives what is to be committed.
            settled: Called when it is.
            words: Whose commit it is, for messages.
        """
        self._write = write
        self._settled = settled
        self._words = words
        self._transaction: Transaction | None = None

    def __call__(self) -> None:
        """Commits it by itself.

        Raises:
            JobFailed: Another runner has taken over.
        """
        transaction = self.write()
        try:
            transaction.commit()
        except PreconditionFailed as error:
            self.settle(error)
        else:
            self.settle(None)

    def write(self) -> Transaction:
        """What is to be committed: whoever does that calls :meth:`settle` then."""
        self._transaction = self._write()
        return self._transaction

    def settle(self, error: BaseException | None) -> None:
        """Notes what became of it, and raises what was wrong.

        Raises:
            JobFailed: Another runner has taken over.
        """
        assert self._transaction is not None
        if isinstance(error, PreconditionFailed):
            raise JobFailed(
                f"another runner has taken over {self._words}: this one stops; what it had committed stays"
            ) from error
        if error is not None:
            raise error
        self._settled(self._transaction)


class Committing(Protocol):
    """Makes commits durable, one at a time, while whoever gave them goes on."""

    @property
    def busy(self) -> bool:
        """Whether there is a commit that was not yet finished."""
        ...

    @property
    def done(self) -> bool:
        """Whether :meth:`finish` would not have to wait."""
        ...

    def begin(self, commit: Commit, /) -> None:
        """Begins with a commit; the one before has to be finished."""
        ...

    def finish(self) -> None:
        """Waits for the commit, if there is one; raises what it raised."""
        ...


_Begun = tuple[Commit, Piece]


class Together:
    """Takes commits one by one, and makes those that were taken durable at once, each by itself.

    Whoever gives it commits calls :meth:`go` when there are no more to come.
    """

    def __init__(self, log: Log, name: str | None = None, ring: Callable[[], None] = lambda: None) -> None:
        """Nothing was taken.

        Args:
            log: The log that all commits are of.
            name: What the thread is called that makes them durable; left out, whoever calls :meth:`go` does
                it, for where all has to happen in one thread.
            ring: Called from any thread when commits have come through.
        """
        self._log = log
        self._name = name
        self._ring = ring
        self._taken: list[_Begun] = []
        self._asked: SimpleQueue[list[_Begun] | None] = SimpleQueue()
        self._begun = False

    def place(self) -> Placed:
        """A place for the commits of one task."""
        return Placed(self)

    def take(self, commit: Commit, piece: Piece) -> None:
        """Takes a commit; with the next :meth:`go` it is made durable."""
        self._taken.append((commit, piece))

    def go(self) -> None:
        """Makes durable what was taken; returns at once where there is a thread for it."""
        if not self._taken:
            return
        taken, self._taken = self._taken, []
        if self._name is None:
            commit_each(self._log, taken)
            return
        if not self._begun:
            arguments = (self._log, self._asked, self._ring)
            threading.Thread(target=_work, args=arguments, name=self._name, daemon=True).start()
            weakref.finalize(self, self._asked.put, None)
            self._begun = True
        self._asked.put(taken)


class Placed(OneAtATime):
    """The commits of one task, one at a time, among those of others."""

    def __init__(self, together: Together) -> None:
        super().__init__()
        self._together = together

    def begin(self, commit: Commit) -> None:
        """Takes a commit; the one before has to be finished."""
        self._together.take(commit, self._next())

    def finish(self) -> None:
        if self.busy:
            self._together.go()
        super().finish()


def commit_each(log: Log, begun: Sequence[_Begun]) -> None:
    """Makes commits durable in one call: what one of them raises is its own."""
    written = []
    for commit, piece in begun:
        try:
            written.append((commit, piece, commit.write()))
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for this one
            piece.end(error)
    try:
        outcomes = commit_together(log, [transaction for _, _, transaction in written])
    except BaseException as error:  # noqa: BLE001 - raised by all who wait
        outcomes = [error] * len(written)
    for (commit, piece, _), outcome in zip(written, outcomes, strict=True):
        piece.do(partial(commit.settle, outcome))


def _work(log: Log, asked: SimpleQueue[list[_Begun] | None], ring: Callable[[], None]) -> None:
    # It knows what it was asked and nothing else: whoever began it can be let go of.
    while (begun := asked.get()) is not None:
        commit_each(log, begun)
        del begun
        ring()
