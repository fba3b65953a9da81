"""What the supervisor and a listener say to each other: msgpack maps, each behind its length, over two pipes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Mapping
from typing import IO, Any, Final

import msgspec

from mamba_stream.core.histogram import together
from mamba_stream.errors import InvalidInput

MOST_BYTES: Final = 16 << 20
"""No message is as long as that: what says so is not one."""
_LENGTH: Final = 4


class Orders(msgspec.Struct, frozen=True, tag=True):
    """The first message to a listener: what it is to serve, and how.

    Attributes:
        log: The log's directory.
        host: Where to listen.
        port: The port; 0 for any that is free.
        memory: How many bytes it may take.
        probe: What a call shows that only asks whether anybody answers.
        tls_cert: The server's certificate, in PEM; ``None`` for no TLS.
        tls_key: Its key.
        tls_expires: When the certificate ends, in seconds since the epoch.
        client_ca: Who signs the certificates that clients must have.
        users: The file that says who may do what; ``None``: everybody everything.
        disk: The marks of the log's disk, by their names; ``None``: as the environment says.
        registry: The descriptor of the socket over which it has the index written.
    """

    log: str
    host: str
    port: int
    memory: int
    probe: str
    tls_cert: bytes | None = None
    tls_key: bytes | None = None
    tls_expires: float | None = None
    client_ca: bytes | None = None
    users: str | None = None
    disk: dict[str, str | None] | None = None
    registry: int = -1

    def __repr__(self) -> str:
        return f"Orders({self.log!r}, {self.host}:{self.port})"


class Listen(msgspec.Struct, frozen=True, tag=True):
    """Take the address now."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Read again who may do what."""


class Count(msgspec.Struct, frozen=True, tag=True):
    """Say what you did; the answer carries the same number."""

    number: int


class Leave(msgspec.Struct, frozen=True, tag=True):
    """Finish what is in flight, at most so many seconds, and end.

    With ``hand_over`` another listener waits for the address, which is let go at once; without, new calls are told to
    come again elsewhere or later.
    """

    timeout: float
    hand_over: bool = False


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """The log is open, and the address can be taken."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The address is taken, and calls are answered."""

    port: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It will not become ready, and trying again changes nothing."""

    reason: str


class LetGo(msgspec.Struct, frozen=True, tag=True):
    """The address is free again."""


class Said(msgspec.Struct, frozen=True, tag=True):
    """Something happened that belongs into the server's own record of events."""

    level: str
    event: str
    facts: dict[str, Any] = {}


class Figures(msgspec.Struct, tag=True):
    """What a listener did since it began, and does now.

    Attributes:
        calls: Calls that ended, by action and outcome.
        active: Calls in flight.
        received: Bytes of rows that came.
        sent: Bytes of rows that went.
        commits: Synced transactions.
        changes: Change sets in them.
        refused: Change sets that were refused.
        disk_refused: Those of them that were refused for a mark of the disk.
        quota_refused: Those of them that were refused for the quota of a topic.
        commit_seconds: Time that commits took.
        commit_times: How many took how long, by the buckets of ``core.histogram``.
        guard: What the guard of a server with users counted, by its names.
        audit: What became of audited events, by its names.
    """

    calls: dict[str, dict[str, int]] = {}
    active: int = 0
    received: int = 0
    sent: int = 0
    commits: int = 0
    changes: int = 0
    refused: int = 0
    commit_seconds: float = 0.0
    commit_times: list[int] = []
    guard: dict[str, int] = {}
    audit: dict[str, int] = {}
    disk_refused: int = 0
    quota_refused: int = 0

    def after(self, earlier: Figures) -> Figures:
        """The figures of two lives together; what is in flight is that of the later."""
        calls = {
            action: dict(Counter(earlier.calls.get(action, {})) + Counter(self.calls.get(action, {})))
            for action in sorted({*earlier.calls, *self.calls})
        }
        return Figures(
            calls=calls,
            active=self.active,
            received=earlier.received + self.received,
            sent=earlier.sent + self.sent,
            commits=earlier.commits + self.commits,
            changes=earlier.changes + self.changes,
            refused=earlier.refused + self.refused,
            commit_seconds=earlier.commit_seconds + self.commit_seconds,
            commit_times=together(earlier.commit_times, self.commit_times),
            guard=_sums(earlier.guard, self.guard),
            audit=_sums(earlier.audit, self.audit),
            disk_refused=earlier.disk_refused + self.disk_refused,
            quota_refused=earlier.quota_refused + self.quota_refused,
        )


def _sums(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {
        name: one.get(name, 0) + other.get(name, 0) for name in (*one, *(n for n in other if n not in one))
    }


class Left(msgspec.Struct, frozen=True, tag=True):
    """All is done; so many calls were cut off, and that is all it did."""

    cut: int
    figures: Figures


class Counted(msgspec.Struct, frozen=True, tag=True):
    """The answer to :class:`Count`."""

    number: int
    figures: Figures


ToListener = Orders | Listen | Reload | Count | Leave
ToSupervisor = Prepared | Ready | Failed | LetGo | Left | Said | Counted


class Sender:
    """Sends messages over a pipe, for any number of threads."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def send(self, message: ToListener | ToSupervisor) -> bool:
        """Sends; whether somebody was there to read it."""
        body = msgspec.msgpack.encode(message)
        try:
            with self._lock:
                self._pipe.write(len(body).to_bytes(_LENGTH) + body)
                self._pipe.flush()
        except (OSError, ValueError):
            # Its reader died, which is found out where that is waited for.
            return False
        return True

    def close(self) -> None:
        """Closes the pipe; whatever could not be sent is gone."""
        with self._lock, contextlib.suppress(OSError):
            self._pipe.close()


def receive(pipe: IO[bytes], kind: Any) -> Any:
    """The next message; ``None`` at the end of the pipe.

    Raises:
        InvalidInput: It is none of this kind.
    """
    head = _read(pipe, _LENGTH)
    if head is None:
        return None
    length = int.from_bytes(head)
    if length > MOST_BYTES:
        raise InvalidInput(f"a message of {length} bytes between server and listener: at most {MOST_BYTES}")
    body = _read(pipe, length)
    if body is None:
        return None
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"not a message between server and listener: {error}") from error


def _read(pipe: IO[bytes], size: int) -> bytes | None:
    found = pipe.read(size)
    return found if len(found) == size else None


def own_output() -> IO[bytes]:
    """The pipe that standard output is, for messages alone: what is printed goes to standard error from now on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "wb")
