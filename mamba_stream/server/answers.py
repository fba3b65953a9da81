"""The answers to commits that clients may ask for again: a commit that is sent twice happens once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from mamba_stream.core.changes import Applied
from mamba_stream.errors import CommitUnknown, MambaStreamError
from mamba_stream.server.failures import RETRIABLE

_REMEMBERED: Final = 256
"""Answers of one client: more than it has commits in flight."""
_OF_ALL: Final = 65_536
"""Those of all clients together: of one that was killed nobody says that it asks for none of them again."""
_CLIENTS: Final = 4_096
_ALL: Final = 1 << 64

_Came = Applied | BaseException | Future[Applied]
"""What a commit came to, or will: to be waited for takes ten times the memory."""


@dataclass(slots=True)
class _Client:
    forgotten: int = 0
    """The highest number whose answer may have been forgotten."""
    answers: OrderedDict[int, _Came] = field(default_factory=OrderedDict)


class Answers:
    """Remembers, for each client, what its last commits came to, for this life of the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._held = 0
        self._forgotten = 0
        """The highest number of a client that nobody knows whose answer may have been forgotten."""

    def once(
        self, client: str, number: int, commit: Callable[[], Applied], *, again: bool = False
    ) -> Applied:
        """Commits, unless this was done before or is being done: then it is the answer to that.

        Raises:
            CommitUnknown: It is sent ``again``, and what it came to is so long ago that nobody remembers.
        """
        mine: Future[Applied] = Future()
        with self._lock:
            known = self._clients.setdefault(client, _Client(self._forgotten))
            self._clients.move_to_end(client)
            came = known.answers.get(number)
            if came is None:
                if again and number <= known.forgotten:
                    raise CommitUnknown(
                        "too many commits came since this was first sent: it may or may not have happened then; look"
                    )
                known.answers[number] = mine
                self._held += 1
                self._bound(known)
        if came is not None:
            return _answer(came)
        try:
            answer = commit()
        except BaseException as error:
            # A refusal stays one: a copy of the commit that comes late must not be applied after all.
            refusal = _refusal(error)
            self._keep(known, number, mine, refusal)
            mine.set_exception(refusal)
            raise
        self._keep(known, number, mine, answer)
        mine.set_result(answer)
        return answer

    @property
    def held(self) -> int:
        """How many are remembered."""
        return self._held

    def forget(self, client: str) -> None:
        """Nobody will ask for this client's answers again."""
        with self._lock:
            if client in self._clients:
                self._drop(client)

    def _bound(self, known: _Client) -> None:
        """Forgets the first answers of a client that has many, and clients that came last the longest ago."""
        if len(known.answers) > _REMEMBERED:
            known.forgotten = max(known.forgotten, known.answers.popitem(last=False)[0])
            self._held -= 1
        while len(self._clients) > _CLIENTS or self._held > _OF_ALL:
            self._drop(next(iter(self._clients)))
            self._forgotten = _ALL

    def _drop(self, client: str) -> None:
        gone = self._clients.pop(client)
        self._held -= len(gone.answers)
        # What is under way has no place there any more.
        gone.answers.clear()

    def _keep(
        self, known: _Client, number: int, mine: Future[Applied], came: Applied | BaseException
    ) -> None:
        with self._lock:
            if known.answers.get(number) is not mine:
                return
            if isinstance(came, RETRIABLE):
                # After these the client asks again, under the same number.
                del known.answers[number]
                self._held -= 1
            else:
                known.answers[number] = came


def _answer(came: _Came) -> Applied:
    if isinstance(came, Applied):
        return came
    # One that is still under way is waited for.
    error = came.exception() if isinstance(came, Future) else came
    if error is not None:
        raise _bare(error)
    assert isinstance(came, Future)
    return came.result()


def _refusal(error: BaseException) -> BaseException:
    if isinstance(error, MambaStreamError):
        return _bare(error)
    return CommitUnknown(f"the server failed in this commit: {error!s:.200}")


def _bare(error: BaseException) -> BaseException:
    """The same error without the frames that it came through, which hold the rows."""
    bare = type(error).__new__(type(error), *error.args)
    bare.__dict__.update(error.__dict__)
    return bare
