"""Writing the index for another process, which has no hand in it: the owner's end of the socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Final

import msgspec

from mamba_stream.core.changes import Applied
from mamba_stream.errors import MambaStreamError
from mamba_stream.log.registering import (
    Answer,
    Apply,
    Chore,
    Close,
    Failure,
    Flush,
    Maintain,
    Open,
    Request,
    Settle,
    Tidy,
    receive,
    requests,
    send,
    told,
)
from mamba_stream.log.store import Store

_AT_ONCE: Final = 0.002
"""Seconds for which the end of a chore is waited for, so that a short one takes no second question."""


class Registry(threading.Thread):
    """Writes the index for whoever is at the other end of a socket, until that end is closed."""

    def __init__(self, store: Store, connection: socket.socket) -> None:
        super().__init__(name="mamba-stream registry", daemon=True)
        self._store = store
        self._socket = connection
        self._chores: dict[int, _AtIt] = {}

    def run(self) -> None:
        with contextlib.suppress(OSError), self._socket:
            while data := receive(self._socket, 0)[0]:
                self._answer(requests.decode(data))
        for chore in self._chores.values():
            chore.join()

    def _answer(self, request: Request) -> None:
        fds: list[int] = []
        try:
            answer: Answer | Failure = self._done(request, fds)
        except MambaStreamError as error:
            answer = told(error)
        try:
            send(self._socket, msgspec.msgpack.encode(answer), fds)
        finally:
            # The other process has copies: with ours closed, the files' locks are let go when it dies.
            for fd in fds:
                os.close(fd)

    def _done(self, request: Request, fds: list[int]) -> Answer:
        registrar = self._store.registrar
        if isinstance(request, Apply):
            found = registrar.apply(request.changes, request.now)
            return Answer(
                applied=[one if isinstance(one, Applied) else None for one in found],
                refused={at: told(one) for at, one in enumerate(found) if not isinstance(one, Applied)},
            )
        if isinstance(request, Open):
            file = registrar.open_file(request.internal)
            fds.append(file.descriptor)
            return Answer(number=file.number, end=file.end)
        if isinstance(request, Close):
            registrar.close_file(request.number)
            return Answer()
        if isinstance(request, Tidy):
            return Answer(number=registrar.tidy())
        if isinstance(request, Settle):
            self._store.settle()
            return Answer()
        if isinstance(request, Flush):
            registrar.flush()
            return Answer()
        return self._chore(request)

    def _chore(self, asked: Chore) -> Answer:
        chore = self._chores.get(asked.number)
        if chore is None:
            chore = self._chores[asked.number] = _AtIt(self._store, asked)
            chore.start()
        chore.join(_AT_ONCE)
        if chore.is_alive():
            return Answer(going_on=True)
        del self._chores[asked.number]
        return chore.result()


class _AtIt(threading.Thread):
    """Does a chore, while the registry goes on."""

    def __init__(self, store: Store, asked: Chore) -> None:
        super().__init__(name="mamba-stream chore", daemon=True)
        self._store = store
        self._asked = asked
        self._answer = Answer()
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            if isinstance(self._asked, Maintain):
                self._answer.maintained = self._store.maintain(self._asked.budget)
            else:
                self._answer.number = self._store.seal()
        except Exception as error:  # noqa: BLE001 - raised where it is asked for
            self._error = error

    def result(self) -> Answer:
        """What came of it, or what was raised."""
        if self._error is not None:
            raise self._error
        return self._answer
