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
    Close,
    Failure,
    Flush,
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
"""Seconds for which the end of a seal is waited for, so that a short one takes no second question."""


class Registry(threading.Thread):
    """Writes the index for whoever is at the other end of a socket, until that end is closed."""

    def __init__(self, store: Store, connection: socket.socket) -> None:
        super().__init__(name="mamba-stream registry", daemon=True)
        self._store = store
        self._socket = connection
        self._seals: dict[int, _Sealing] = {}

    def run(self) -> None:
        with contextlib.suppress(OSError), self._socket:
            while data := receive(self._socket, 0)[0]:
                self._answer(requests.decode(data))
        for sealing in self._seals.values():
            sealing.join()

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
        return self._seal(request.number)

    def _seal(self, number: int) -> Answer:
        sealing = self._seals.get(number)
        if sealing is None:
            sealing = self._seals[number] = _Sealing(self._store)
            sealing.start()
        sealing.join(_AT_ONCE)
        if sealing.is_alive():
            return Answer(going_on=True)
        del self._seals[number]
        return Answer(number=sealing.result())


class _Sealing(threading.Thread):
    """Repacks files, while the registry goes on."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="mamba-stream seal", daemon=True)
        self._store = store
        self._sealed = 0
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._sealed = self._store.seal()
        except Exception as error:  # noqa: BLE001 - raised where it is asked for
            self._error = error

    def result(self) -> int:
        """How many files, or what was raised."""
        if self._error is not None:
            raise self._error
        return self._sealed
