"""A lock that a server holds for as long as a stream to it lasts."""

from __future__ import annotations

import contextlib
import threading
from typing import Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.protocol import Exchange, TakeLock, decode, encode

_LET_GO: Final = 10.0
"""Seconds that a server has to let go; then it is not there any more."""


class RemoteLock:
    """A lock that the server lets go when this is released, or this process dies."""

    def __init__(self, writer: flight.FlightStreamWriter, stream: flight.FlightStreamReader) -> None:
        self._writer: flight.FlightStreamWriter | None = writer
        self._stream = stream
        self._gone = threading.Event()
        threading.Thread(target=self._listen, name="mamba-stream lock", daemon=True).start()

    def release(self) -> None:
        """Lets go, and waits until the server has."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with contextlib.suppress(pa.ArrowException):
                writer.done_writing()
                if not self._gone.wait(_LET_GO):
                    self._stream.cancel()
            with contextlib.suppress(pa.ArrowException):
                writer.close()

    def _listen(self) -> None:
        """Takes the server's signs of life in, which would fill the line, until there are none."""
        try:
            with contextlib.suppress(pa.ArrowException, StopIteration):
                while True:
                    self._stream.read_chunk()
        finally:
            self._gone.set()


def take(connection: Connection, space: str, name: str, holder: str) -> RemoteLock | None:
    """Takes the lock for this holder; ``None`` where somebody has it."""

    def once() -> RemoteLock | None:
        writer, stream = connection.exchange(encode(Exchange(lock=TakeLock(space, name, holder))))
        try:
            taken = decode(stream.read_chunk().app_metadata, bool)
        except StopIteration:
            raise Lost("the server gave no answer") from None
        except pa.ArrowException as error:
            raise connection.failed(error) from error
        if taken:
            return RemoteLock(writer, stream)
        with contextlib.suppress(pa.ArrowException):
            writer.close()
        return None

    return connection.again(once)
