"""The line between a pool and a worker's process: messages as msgpack, each behind its length, over a socket pair."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Final

import msgspec

from mamba_stream.errors import InvalidInput
from mamba_stream.log.registering import receive, send

_PIECE: Final = 64 << 20


class _Parcel(msgspec.Struct, frozen=True, tag="parcel"):
    """So many bytes follow, in pieces."""

    size: int


class Wire:
    """One end of a line. Any number of threads may say something, and one listens."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a connected socket."""
        self._socket = connection
        self._speaking = threading.Lock()

    def say(self, message: msgspec.Struct) -> bool:
        """Sends a message; whether the other end is there."""
        return self._send(msgspec.msgpack.encode(message))

    def ship(self, data: bytes) -> bool:
        """Sends bytes of any length; whether the other end is there."""
        view = memoryview(data)
        pieces = (view[at : at + _PIECE] for at in range(0, len(data), _PIECE))
        return self.say(_Parcel(len(data))) and all(self._send(bytes(piece)) for piece in pieces)

    def hear(self, kind: Any) -> Any:
        """The next message; ``None`` once the other end is closed.

        Raises:
            InvalidInput: It is none of this kind.
        """
        data = self._receive()
        if not data:
            return None
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"not a message between pool and worker: {error}") from error

    def unload(self) -> bytes | None:
        """What was shipped; ``None`` where the other end is closed."""
        parcel = self.hear(_Parcel)
        data = bytearray()
        while parcel is not None and len(data) < parcel.size:
            piece = self._receive()
            if not piece:
                return None
            data += piece
        return None if parcel is None else bytes(data)

    def end(self) -> None:
        """Nothing more is heard than what has come by now, and nothing more is said."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def _send(self, data: bytes) -> bool:
        try:
            with self._speaking:
                send(self._socket, data)
        except OSError:
            return False
        return True

    def _receive(self) -> bytes:
        try:
            return receive(self._socket, 0)[0]
        except OSError:
            return b""
