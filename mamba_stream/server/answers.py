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
_CLIENTS: Final = 4_096


@dataclass(slots=True)
class _Client:
    answers: OrderedDict[int, Future[Applied]] = field(default_factory=OrderedDict)
    forgotten: int = 0
    """The highest number whose answer is not remembered any more."""


class Answers:
    """Remembers, for each client, what its last commits came to, for this life of the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, _Client] = OrderedDict()

    def once(
        self, client: str, number: int, commit: Callable[[], Applied], *, again: bool = False
    ) -> Applied:
        """Commits, unless this was done before or is being done: then it is the answer to that.

        Raises:
            CommitUnknown: It is sent ``again``, and what it came to is so long ago that nobody remembers.
        """
        with self._lock:
            known = self._clients.setdefault(client, _Client())
            self._clients.move_to_end(client)
            if len(self._clients) > _CLIENTS:
                self._clients.popitem(last=False)
            answers = known.answers
            if again and number <= known.forgotten and number not in answers:
                raise CommitUnknown(
                    "too many commits came since this was first sent: it may or may not have happened then; look"
                )
            mine: Future[Applied] = Future()
            first = answers.setdefault(number, mine)
            if len(answers) > _REMEMBERED:
                known.forgotten = max(known.forgotten, answers.popitem(last=False)[0])
        if first is not mine:
            # One that is still under way is waited for.
            error = first.exception()
            if error is not None:
                raise _bare(error)
            return first.result()
        try:
            answer = commit()
        except BaseException as error:
            self._failed(answers, number, mine, error)
            raise
        mine.set_result(answer)
        return answer

    def forget(self, client: str) -> None:
        """Nobody will ask for this client's answers again."""
        with self._lock:
            self._clients.pop(client, None)

    def _failed(
        self,
        answers: OrderedDict[int, Future[Applied]],
        number: int,
        mine: Future[Applied],
        error: BaseException,
    ) -> None:
        """A refusal stays one: a copy of the commit that comes late must not be applied after all."""
        if isinstance(error, RETRIABLE):
            # But for these the client asks again, under the same number.
            with self._lock:
                if answers.get(number) is mine:
                    del answers[number]
        if isinstance(error, MambaStreamError):
            mine.set_exception(_bare(error))
        else:
            mine.set_exception(CommitUnknown(f"the server failed in this commit: {error!s:.200}"))


def _bare(error: BaseException) -> BaseException:
    """The same error without the frames that it came through, which hold the rows."""
    bare = type(error).__new__(type(error), *error.args)
    bare.__dict__.update(error.__dict__)
    return bare
