"""Having the index written by another process: what is asked of it over a socket, and what it answers.

A server's listener decodes bytes of strangers, and a worker runs its user's code: neither shares memory with what
writes the index. They write batches to commit files of their own and sync them, and hand the change sets that name
the bytes to the process that owns the log (:mod:`mamba_stream.log.registry`). A commit file is created and locked
there and handed over as a descriptor: its lock is let go when the process that has it dies.

Frames are a length (4 bytes, little-endian) and msgpack; a call has one answer, and calls take turns.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mamba_stream import errors
from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.errors import CommitUnknown, LogFailed, MambaStreamError
from mamba_stream.log.files import CommitFile, path_of
from mamba_stream.log.upkeep import Maintained

_LENGTH: Final = struct.Struct("<I")
_LONGEST: Final = 1 << 30
_LEAST_PAUSE: Final = 0.01
_MOST_PAUSE: Final = 0.5
"""Seconds between two questions whether a chore is done."""


class Failure(msgspec.Struct, tag="failure", array_like=True):
    """An error, by the name of its class."""

    code: str
    message: str


class Answer(msgspec.Struct, tag="answer", array_like=True):
    """What became of each change set of an ``apply``, or a number, by what was asked."""

    applied: list[Applied | None] = []
    refused: dict[int, Failure] = {}
    number: int = 0
    end: int = 0
    going_on: bool = False
    maintained: Maintained | None = None


class Apply(msgspec.Struct, tag="apply", array_like=True):
    """Change sets whose bytes are durable, and the time by which they are applied."""

    changes: list[ChangeSet]
    now: int


class Open(msgspec.Struct, tag="open", array_like=True):
    """A commit file is wanted, for users' topics or for the engine's; its descriptor comes with the answer."""

    internal: bool


class Close(msgspec.Struct, tag="close", array_like=True):
    """A commit file gets nothing more."""

    number: int


class Tidy(msgspec.Struct, tag="tidy", array_like=True):
    """Files that no row can lie in any more may go."""


class Settle(msgspec.Struct, tag="settle", array_like=True):
    """A commit in flight is to be over."""


class Flush(msgspec.Struct, tag="flush", array_like=True):
    """Everything that was committed is to be on the disk."""


class Seal(msgspec.Struct, tag="seal", array_like=True):
    """Commit files are to be repacked; asked again under the same number, whether they are.

    That may take long, and commits are not to wait for it: the answer comes at once.
    """

    number: int


class Maintain(msgspec.Struct, tag="maintain", array_like=True):
    """The log is to be given what it needs; asked again under the same number, as :class:`Seal` is."""

    number: int
    budget: int | None = None


Chore = Seal | Maintain
Request = Apply | Open | Close | Tidy | Settle | Flush | Chore
requests = msgspec.msgpack.Decoder(Request)
answers = msgspec.msgpack.Decoder(Answer | Failure)


class SocketRegistrar:
    """Asks the process at the other end of a socket to write the index."""

    def __init__(self, connection: socket.socket, files: Path) -> None:
        self._socket = connection
        self._files = files
        self._lock = threading.Lock()
        self._chores = itertools.count()
        self._unusable: Exception | None = None

    def apply(self, changes: Sequence[ChangeSet], now: int) -> list[Applied | MambaStreamError]:
        answer, _ = self._ask(Apply(list(changes), now))
        return [_error(answer.refused[at]) if one is None else one for at, one in enumerate(answer.applied)]

    def open_file(self, internal: bool) -> CommitFile:
        answer, fds = self._ask(Open(internal), fds=1)
        return CommitFile(
            answer.number, path_of(self._files, answer.number, "commit"), fds[0], answer.end, internal
        )

    def close_file(self, number: int) -> None:
        self._ask(Close(number))

    def tidy(self) -> int:
        return self._ask(Tidy())[0].number

    def settle(self) -> None:
        self._ask(Settle())

    def flush(self) -> None:
        self._ask(Flush())

    def seal(self, store: object) -> int:
        return self._done(Seal(next(self._chores))).number

    def maintain(self, store: object, budget: int | None) -> Maintained:
        found = self._done(Maintain(next(self._chores), budget)).maintained
        assert found is not None
        return found

    def check(self) -> None:
        if self._unusable is not None:
            raise self._unusable

    def fail(self, reason: Exception) -> None:
        self._unusable = reason

    def close(self) -> None:
        """Lets the other process know that nothing more is asked."""
        self._socket.close()

    def _done(self, chore: Chore) -> Answer:
        """The answer once it is done, which may take long."""
        pause = _LEAST_PAUSE
        while (answer := self._ask(chore)[0]).going_on:
            threading.Event().wait(pause)
            pause = min(2 * pause, _MOST_PAUSE)
        return answer

    def _ask(self, request: Request, fds: int = 0) -> tuple[Answer, list[int]]:
        with self._lock:
            self.check()
            try:
                send(self._socket, msgspec.msgpack.encode(request))
                data, received = receive(self._socket, fds)
            except OSError as error:
                data, received = b"", []
                self.fail(LogFailed(f"the process that commits is gone ({error}): open the log again"))
            if not data:
                self.fail(LogFailed("the process that commits is gone: open the log again"))
                raise CommitUnknown(
                    "the process that commits went away: the commit may or may not have happened; open the log and look"
                )
        answer = answers.decode(data)
        if isinstance(answer, Failure):
            raise _error(answer)
        return answer, received


def told(error: MambaStreamError) -> Failure:
    return Failure(type(error).__name__, str(error))


def _error(failure: Failure) -> MambaStreamError:
    kind: Any = getattr(errors, failure.code, MambaStreamError)
    found: MambaStreamError = kind(failure.message)
    return found


def send(connection: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    frame = _LENGTH.pack(len(data)) + data
    if fds:
        sent = socket.send_fds(connection, [frame], list(fds))
        frame = frame[sent:]
    connection.sendall(frame)


def receive(connection: socket.socket, fds: int) -> tuple[bytes, list[int]]:
    """One frame and the descriptors that came with it; nothing where the other end is closed."""
    received: list[int] = []
    head = b""
    while len(head) < _LENGTH.size:
        if fds:
            part, got, _, _ = socket.recv_fds(connection, _LENGTH.size - len(head), fds)
            received += got
        else:
            part = connection.recv(_LENGTH.size - len(head))
        if not part:
            return b"", received
        head += part
    (length,) = _LENGTH.unpack(head)
    if length > _LONGEST:
        raise OSError(f"a frame of {length:,} bytes")
    data = bytearray(length)
    view, at = memoryview(data), 0
    while at < length:
        count = connection.recv_into(view[at:])
        if not count:
            return b"", received
        at += count
    return bytes(data), received
