"""The storage of a log that a server keeps. Handles of one process share it; the last one closes it."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import pyarrow as pa

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.core.clock import Clock
from mamba_stream.core.names import LONGEST_NAME
from mamba_stream.core.predicates import Predicate, encode as encode_predicate
from mamba_stream.core.schemas import schema_from_bytes
from mamba_stream.errors import ForkedProcess, MambaStreamError
from mamba_stream.log.locks import this_process
from mamba_stream.log.looking import Question
from mamba_stream.log.remote import locking, protocol
from mamba_stream.log.remote.address import Address, Credentials
from mamba_stream.log.remote.committing import RemoteCommitter
from mamba_stream.log.remote.connection import Connection
from mamba_stream.log.remote.describing import unpacked
from mamba_stream.log.remote.failing import Lost, naming
from mamba_stream.log.remote.intake import RemoteIntake, RowsOut
from mamba_stream.log.remote.locking import RemoteLock
from mamba_stream.log.remote.protocol import HeadInfo, Nothing, encode
from mamba_stream.log.remote.reader import RemoteReader
from mamba_stream.log.remote.scanning import scan
from mamba_stream.log.remote.together import answers_of, head_of, request_of
from mamba_stream.log.remote.watching import Watcher
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.scrubbing import Scrubbed
from mamba_stream.log.storage import LogStatistics, PartitionHead
from mamba_stream.log.upkeep import Maintained

if TYPE_CHECKING:
    from mamba_stream.log.description import TopicDescription

_MOST_WAITING: Final = 2
"""Calls that wait at the server at once: each has a wire, of which there are few, and other calls want some."""
_storages: dict[tuple[Address, Credentials], RemoteStorage] = {}
_opening = threading.RLock()
_connected = False
"""Whether this process, or one that it was forked from, ever was connected: gRPC does not survive a fork."""
_inherited = False


class RemoteStorage:
    """A log at a server's address."""

    def __init__(self, address: Address, credentials: Credentials) -> None:
        # Random, since two processes must never give the same numbers.
        client = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(8)}"
        self.credentials = credentials
        self._connection = Connection(address, credentials, client)
        self._committer = RemoteCommitter(self._connection, client)
        self._watcher = Watcher(self._connection)
        self._schemas: dict[int, pa.Schema] = {}
        self._waiting = threading.Semaphore(_MOST_WAITING)
        self.handles = 0

    @property
    def place(self) -> str:
        return self._connection.place

    @property
    def replaced(self) -> bool:
        """Whether another log was found at the address: this one is not there any more."""
        return self._connection.replaced

    @property
    def directory(self) -> Path | None:
        return None

    @property
    def identity(self) -> str:
        return self._connection.welcome.log

    @property
    def clock(self) -> Clock:
        return self._connection.clock

    def topic(self, name: object) -> TopicRow | None:
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            return None
        found = self._connection.ask("topic", protocol.Named(name), protocol.TopicInfo | None)  # type: ignore[arg-type]
        if found is None:
            return None
        if found.topic.schema not in self._schemas:
            self._schemas[found.topic.schema] = schema_from_bytes(found.columns)
        topic: TopicRow = found.topic
        return topic

    def topics(self) -> list[TopicRow]:
        return self._connection.ask("topics", protocol.ListTopics(internal=True), list[TopicRow])

    def numbered(self, number: int) -> bool:
        return self._connection.ask("numbered", protocol.Numbered(number), bool)

    def schema(self, number: int) -> pa.Schema:
        known = self._schemas.get(number)
        if known is None:
            data = self._connection.ask("schema", protocol.Numbered(number), bytes)
            known = self._schemas[number] = schema_from_bytes(data)
        return known

    def intake(self, topic: TopicRow) -> RemoteIntake:
        return RemoteIntake(topic, self.schema)

    def commit(self, change: ChangeSet, batches: Sequence[RowsOut] = ()) -> Applied:
        return self._committer.commit(change, batches)

    def commit_together(
        self, changes: Sequence[tuple[ChangeSet, Sequence[RowsOut]]]
    ) -> list[Applied | BaseException]:
        return self._committer.commit_together(changes)

    def heads(self, topic: TopicRow, partitions: Sequence[int] | None = None) -> dict[int, PartitionHead]:
        wanted = protocol.AskHeads(topic.id, None if partitions is None else list(partitions))
        with naming(topic):
            found = self._connection.ask("heads", wanted, dict[int, HeadInfo])
        return {partition: head_of(head) for partition, head in found.items()}

    def all_heads(self, *, internal: bool) -> dict[tuple[str, int], PartitionHead]:
        found = self._connection.ask("all_heads", protocol.ListTopics(internal), list[protocol.NamedHead])
        return {(one.name, one.partition): head_of(one.head) for one in found}

    def offsets_at(self, topic: TopicRow, ticks: int, by: str) -> dict[int, int]:
        wanted = protocol.AskOffsetsAt(topic.id, ticks, by)
        with naming(topic):
            return self._connection.ask("offsets_at", wanted, dict[int, int])

    def reader(
        self,
        topic: TopicRow,
        positions: Mapping[int, int],
        wanted: tuple[int, ...] | None,
        ends: Mapping[int, int],
        opened: Callable[[], object],
        between: tuple[int | None, int | None] = (None, None),
        where: Predicate | None = None,
        *,
        skip_corrupt: bool = False,
    ) -> RemoteReader:
        names = self.schema(topic.schema).names
        columns = None if wanted is None else [names[number] for number in wanted]

        def heads(topic: TopicRow, partitions: list[int]) -> dict[int, PartitionHead]:
            opened()
            return self.heads(topic, partitions)

        asked = None if where is None else encode_predicate(where)
        return RemoteReader(
            self._connection,
            topic,
            positions,
            columns,
            ends,
            between,
            heads,
            opened,
            asked,
            skip_corrupt=skip_corrupt,
        )

    def scan(self, topic: TopicRow, opened: Callable[[], object]) -> pl.LazyFrame:
        def heads() -> dict[int, PartitionHead]:
            opened()
            return self.heads(topic)

        return scan(self._connection, topic, self.schema(topic.schema), heads)

    def describe(self, topic: TopicRow) -> TopicDescription:
        with naming(topic):
            told = self._connection.ask("describe", protocol.Numbered(topic.id), protocol.Description)
        return unpacked(told)

    def groups(self) -> list[str]:
        return self._connection.ask("groups", Nothing(), list[str])

    def group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        found = self._connection.ask("group_offsets", protocol.AskGroup(group), list[protocol.GroupPlace])
        return {(place.topic, place.partition): place.offset for place in found}

    def record(self, namespace: str, key: str) -> bytes | None:
        return self._connection.ask("record", protocol.AskRecord(namespace, key), bytes | None)  # type: ignore[arg-type]

    def records(self, namespace: str, before: str | None, limit: int | None) -> dict[str, bytes]:
        wanted = protocol.AskRecords(namespace, before, limit)
        return self._connection.ask("records", wanted, dict[str, bytes])

    def together(
        self, questions: Sequence[Question], beyond: int | None = None, timeout: float = 0.0
    ) -> list[Any]:
        if beyond is None:
            return self._together(request_of(questions), questions)
        if self._connection.welcome.beyond and self._waiting.acquire(blocking=False):
            try:
                return self._together(request_of(questions, beyond, timeout), questions)
            finally:
                self._waiting.release()
        self.wait(beyond, timeout)
        return self._together(request_of(questions), questions)

    def _together(self, asked: protocol.Together, questions: Sequence[Question]) -> list[Any]:
        told = self._connection.ask("together", asked, list[protocol.Told])
        return answers_of(questions, told)

    def namespaces(self, prefix: str) -> list[str]:
        return self._connection.ask("namespaces", protocol.Prefix(prefix), list[str])

    def lsn(self) -> int:
        return self._connection.ask("lsn", Nothing(), int)

    def heard(self) -> int:
        known = self._watcher.known
        return self.lsn() if known is None else known

    def flush(self) -> None:
        self._connection.ask("flush", Nothing(), None)  # type: ignore[arg-type]

    def settle(self) -> None:
        self._connection.ask("settle", Nothing(), None)  # type: ignore[arg-type]

    def wait(self, lsn: int, timeout: float, called: Callable[[], bool] | None = None) -> int:
        return self._watcher.wait(lsn, timeout, called)

    def rouse(self) -> None:
        self._watcher.rouse()

    def lock(self, space: str, name: str, holder: str | None = None) -> RemoteLock | None:
        return locking.take(self._connection, space, name, holder or this_process())

    def lock_holder(self, space: str, name: str) -> str | None:
        return self._connection.ask("lock_holder", protocol.LockName(space, name), str | None)  # type: ignore[arg-type]

    def seal(self) -> int:
        return self._connection.again(lambda: self._connection.lasting("seal", encode(Nothing()), int))

    def maintain(self, budget: int | None = None) -> Maintained:
        asked = encode(protocol.Maintain(budget))
        return self._connection.again(lambda: self._connection.lasting("maintain", asked, Maintained))

    def scrub(self, most: int | None = None) -> Scrubbed:
        asked = encode(protocol.Scrub(most))
        return self._connection.again(lambda: self._connection.lasting("scrub", asked, Scrubbed))

    def tended(self) -> contextlib.AbstractContextManager[None]:
        # The server does it.
        return contextlib.nullcontext()

    def statistics(self) -> LogStatistics:
        return self._connection.ask("statistics", Nothing(), LogStatistics)

    def release(self) -> None:
        with _opening:
            self.handles -= 1
            if self.handles > 0:
                return
            for place, known in list(_storages.items()):
                if known is self:
                    del _storages[place]
        self._close()

    def _close(self) -> None:
        # Numbers that nobody knows any more cost the log a little room, and no more than that.
        with contextlib.suppress(MambaStreamError, Lost):
            self._committer.part()
        self._watcher.close()
        self._connection.close()


def connect(address: Address, credentials: Credentials) -> RemoteStorage:
    """The storage at this address, to be given back with ``release()``.

    Raises:
        ServerUnavailable: Nothing answers there.
        NotAuthenticated: The server does not know whoever this is.
        ForkedProcess: This process was forked from one that had connected.
    """
    global _connected  # noqa: PLW0603
    place = (address, credentials)
    with _opening:
        if _inherited:
            raise ForkedProcess(
                "this process was forked from one that had been connected to a server, and cannot connect itself. "
                "Start processes with multiprocessing's 'spawn' method, or connect after the fork only"
            )
        _connected = True
        found = _storages.get(place)
        if found is None or found.replaced:
            found = _storages[place] = RemoteStorage(address, credentials)
        found.handles += 1
        return found


def _forked() -> None:
    # The lock may be held by a thread that the child does not have.
    global _opening, _inherited  # noqa: PLW0603
    _opening = threading.RLock()
    _inherited = _connected


os.register_at_fork(after_in_child=_forked)
