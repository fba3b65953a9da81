"""Writing the index for another process, which has no hand in it: the owner's end of the socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import msgspec

from mamba_stream.core.changes import Applied
from mamba_stream.errors import MambaStreamError
from mamba_stream.log.registering import (
    Answer,
    Apply,
    Close,
    Failure,
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


class Registry(threading.Thread):
    """Writes the index for whoever is at the other end of a socket, until that end is closed."""

    def __init__(self, store: Store, connection: socket.socket) -> None:
        super().__init__(name="mamba-stream registry", daemon=True)
        self._store = store
        self._socket = connection

    def run(self) -> None:
        with contextlib.suppress(OSError), self._socket:
            while data := receive(self._socket, 0)[0]:
                self._answer(requests.decode(data))

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
        return Answer(number=self._store.seal())
