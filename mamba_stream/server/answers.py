"""The answers to commits that clients may ask for again: a commit that is sent twice happens once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from mamba_stream.core.changes import Applied
from mamba_stream.errors import CommitUnknown, MambaStreamError

_REMEMBERED: Final = 256
"""Answers of one client: more than it has commits in flight."""
_CLIENTS: Final = 4_096

_Answers = OrderedDict[int, "Future[Applied]"]


class Answers:
    """Remembers, for each client, what its last commits came to, for this life of the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, _Answers] = OrderedDict()

    def once(self, client: str, number: int, commit: Callable[[], Applied]) -> Applied:
        """Commits, unless this was done before or is being done: then it is the answer to that."""
        with self._lock:
            answers = self._clients.setdefault(client, OrderedDict())
            self._clients.move_to_end(client)
            if len(self._clients) > _CLIENTS:
                self._clients.popitem(last=False)
            mine: Future[Applied] = Future()
            known = answers.setdefault(number, mine)
            if len(answers) > _REMEMBERED:
                answers.popitem(last=False)
        if known is not mine:
            return known.result()
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

    def _failed(self, answers: _Answers, number: int, mine: Future[Applied], error: BaseException) -> None:
        """What was refused may be tried again under its number; what may have happened must not be."""
        if isinstance(error, MambaStreamError) and not isinstance(error, CommitUnknown):
            with self._lock:
                if answers.get(number) is mine:
                    del answers[number]
            mine.set_exception(error)
        else:
            # Not the error itself, whose trace holds the rows.
            mine.set_exception(CommitUnknown(f"the server failed in this commit: {error!s:.200}"))
