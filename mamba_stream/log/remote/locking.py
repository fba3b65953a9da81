"""A lock that a server holds for as long as a stream to it lasts."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.protocol import Exchange, TakeLock, decode, encode

_LET_GO: Final = 10.0
"""Seconds that a server has to let go; then it is not there any more."""
_HERE: Final = pa.py_buffer(encode(True))
_GHOST: Final = 20
"""So often a lock is tried again that a try of our own may hold whose answer was lost: the server finds that out."""
_GHOST_PAUSE: Final = 0.1


class RemoteLock:
    """A lock that the server lets go when this is released, or this process dies."""

    def __init__(self, writer: flight.FlightStreamWriter, stream: flight.FlightStreamReader) -> None:
        self._line = _Line(writer, stream)
        # Nobody holds a lock that nobody knows of.
        weakref.finalize(self, stream.cancel).atexit = False

    @property
    def gone(self) -> threading.Event:
        """Is set once the server has let go, or cannot be heard."""
        return self._line.gone

    def release(self) -> None:
        """Lets go, and waits until the server has."""
        self._line.end()


class _Line:
    """The stream that holds a lock, and the thread that answers the server's signs of life."""

    def __init__(self, writer: flight.FlightStreamWriter, stream: flight.FlightStreamReader) -> None:
        self.gone = threading.Event()
        self._writer = writer
        self._stream = stream
        self._turn = threading.Lock()
        self._ending = False
        threading.Thread(target=self._listen, name="mamba-stream lock", daemon=True).start()

    def end(self) -> None:
        with self._turn:
            self._end()
        if not self.gone.wait(_LET_GO):
            self._stream.cancel()

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            with contextlib.suppress(pa.ArrowException):
                self._writer.done_writing()

    def _listen(self) -> None:
        """Answers until there are no more signs: who is silent is taken for dead there."""
        try:
            with contextlib.suppress(pa.ArrowException, StopIteration):
                while True:
                    held = decode(self._stream.read_chunk().app_metadata, bool)
                    with self._turn:
                        if not held:
                            self._end()
                        elif not self._ending:
                            self._writer.write_metadata(_HERE)
        finally:
            with contextlib.suppress(pa.ArrowException):
                self._writer.close()
            self.gone.set()


def take(connection: Connection, space: str, name: str, holder: str) -> RemoteLock | None:
    """Takes the lock for this holder; ``None`` where somebody has it."""
    perhaps = False

    def once() -> RemoteLock | None:
        nonlocal perhaps
        try:
            return _tried(connection, space, name, holder)
        except Lost as lost:
            perhaps = perhaps or lost.sent
            raise

    lock = connection.again(once)
    for _ in range(_GHOST):
        if lock is not None or not perhaps:
            break
        connection.pause(_GHOST_PAUSE)
        lock = connection.again(once)
    return lock


def _tried(connection: Connection, space: str, name: str, holder: str) -> RemoteLock | None:
    writer, stream = connection.exchange(encode(Exchange(lock=TakeLock(space, name, holder))))
    try:
        taken = decode(stream.read_chunk().app_metadata, bool)
    except StopIteration:
        _close(writer)
        raise Lost("the server gave no answer") from None
    except pa.ArrowException as error:
        _close(writer)
        raise connection.failed(error) from error
    if taken:
        return RemoteLock(writer, stream)
    _close(writer)
    return None


def _close(writer: flight.FlightStreamWriter) -> None:
    """Closes a stream that has ended: of one that nobody closes Arrow writes to standard error why it did."""
    with contextlib.suppress(pa.ArrowException):
        writer.close()
