"""Commits at a server, which land once however often they have to be sent.

A commit whose answer was lost is sent again under its number: the server remembers the answers of its life. Besides it
carries a number that the log itself remembers, a producer's or one given by us, so that it lands once, and its answer
is known, also if the server was killed in between.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence as Several
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from mamba_stream.core.changes import Applied, ChangeSet, Forget, Once
from mamba_stream.errors import (
    AccessDenied,
    CommitUnknown,
    LogClosed,
    LogUnavailable,
    MambaStreamError,
    NotCommitted,
    NotFound,
    QuotaExceeded,
)
from mamba_stream.log.remote.connection import DEADLINE, Connection
from mamba_stream.log.remote.failing import Lost
from mamba_stream.log.remote.intake import RowsOut
from mamba_stream.log.remote.pieces import FROM_BYTES, Upload
from mamba_stream.log.remote.protocol import Commit, Goodbye, Rows, encode

_NOTHING: Final = ChangeSet()
_AT_A_TIME: Final = 8
_LARGEST_BODY: Final = (1 << 31) - (1 << 20)
_SAYS_NOTHING: Final = (LogUnavailable, AccessDenied, QuotaExceeded, NotFound)
"""What may be answered before anybody looks whether the commit had come before."""


class _Lane:
    """A name for commits one after the other, and the number that the next one has."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next = 0


class RemoteCommitter:
    """Sends change sets, for all threads of one process."""

    def __init__(self, connection: Connection, client: str) -> None:
        self._connection = connection
        self._client = client
        self._numbers = itertools.count(1)
        self._lanes = itertools.count(1)
        self._free: list[_Lane] = []
        self._lock = threading.Lock()

    def commit(self, change: ChangeSet, batches: Several[RowsOut]) -> Applied:
        """Commits; raises if it did not happen, or :class:`CommitUnknown` where that cannot be found out."""
        if change.sequences or (not batches and change == _NOTHING):
            return self._send(change, batches)
        lane = self._lane()
        try:
            answer = self._send(msgspec.structs.replace(change, once=Once(lane.name, lane.next)), batches)
        except MambaStreamError as error:
            # Where it may have happened nobody knows which number is the next: the lane is not used again.
            if not isinstance(error, CommitUnknown):
                self._give_back(lane)
            raise
        lane.next += 1
        self._give_back(lane)
        return answer

    def commit_together(
        self, changes: Several[tuple[ChangeSet, Several[RowsOut]]]
    ) -> list[Applied | BaseException]:
        """Commits several, some at a time, so that the server shares the cost among them; what became of each."""

        def one(asked: tuple[ChangeSet, Several[RowsOut]]) -> Applied | BaseException:
            try:
                return self.commit(*asked)
            except Exception as error:  # noqa: BLE001 - raised by whoever wanted this one
                return error

        if len(changes) == 1:
            return [one(changes[0])]
        with ThreadPoolExecutor(min(_AT_A_TIME, len(changes)), "mamba-stream commit") as threads:
            return list(threads.map(one, changes))

    def part(self) -> None:
        """Tells the server that nobody will ask for this process's commits again."""
        with self._lock:
            lanes, self._free = self._free, []
        forgets = tuple(Forget(0, lane.name) for lane in lanes if lane.next)
        self._connection.once("goodbye", encode(Goodbye(self._client, forgets)), None, 2.0)  # type: ignore[arg-type]

    def _lane(self) -> _Lane:
        with self._lock:
            return self._free.pop() if self._free else _Lane(f"{self._client}/{next(self._lanes)}")

    def _give_back(self, lane: _Lane) -> None:
        with self._lock:
            self._free.append(lane)

    def _send(self, change: ChangeSet, batches: Several[RowsOut]) -> Applied:
        boot = self._connection.boot()
        upload: Upload | None = None
        rows: list[Rows] = []
        if self._connection.welcome.pieces and sum(b.data.size for b in batches) > FROM_BYTES:
            upload = Upload(self._connection, batches)
        else:
            rows = [Rows(b.topic, memoryview(b.data), b.partition, b.expect) for b in batches]
        commit = Commit(change, rows, self._client, next(self._numbers))
        body = b"" if upload else _body(commit)

        def once() -> Applied:
            nonlocal body
            self._connection.check()
            try:
                return upload.send(commit) if upload else self._call(body, DEADLINE)
            except (Lost, LogClosed) as error:
                heard = isinstance(error, LogClosed) or error.sent
                if heard and (upload is None or upload.asked) and not commit.boot:
                    # From now on it may have happened: in another life of the server nobody could tell.
                    commit.boot = boot
                    body = b"" if upload else _body(commit)
                raise

        try:
            return self._connection.again(once)
        except _SAYS_NOTHING as error:
            if commit.boot:
                raise CommitUnknown(
                    f"the connection to {self._connection.place} was lost before it answered: the commit may or "
                    f"may not have happened; look once the server is back ({error})"
                ) from error
            raise

    def _call(self, body: bytes, timeout: float) -> Applied:
        return self._connection.once("commit", body, Applied, timeout)


def _body(commit: Commit) -> bytes:
    body = encode(commit)
    if len(body) > _LARGEST_BODY:
        raise NotCommitted(
            f"the rows of one commit have {len(body):,} bytes, more than travel in one: append them in several"
        )
    return body
