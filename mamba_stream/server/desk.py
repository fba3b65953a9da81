"""What every call of the server works with: the log, who may do what, and what is under way."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.errors import CommitUnknown, ServerUnavailable
from mamba_stream.log.remote.protocol import LONGEST_WAIT, Commit, Rows
from mamba_stream.log.storage import Storage
from mamba_stream.server.answers import Answers
from mamba_stream.server.belongings import Belongings
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.creators import with_creators
from mamba_stream.server.gate import Caller, Gate, Need
from mamba_stream.server.limits import Limits
from mamba_stream.server.lookup import StorageLookup
from mamba_stream.server.streams import read_plain
from mamba_stream.server.vetting import vetted

_LOOK_UP: Final = 2.0
"""Seconds after which who waits looks whether it still should."""


class Desk:
    """The log behind the server, and the rules in front of it."""

    def __init__(self, storage: Storage, gate: Gate, limits: Limits, identity: str) -> None:
        self.storage = storage
        self.gate = gate
        self.limits = limits
        self.identity = identity
        self.boot = secrets.token_hex(8)
        self.catalog = Catalog(storage)
        self._lookup = StorageLookup(storage)
        self.belongings = Belongings(self._lookup, storage.clock)
        self._answers = Answers()
        self._draining = threading.Event()

    @property
    def draining(self) -> bool:
        """Whether the server is being stopped."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Lets nobody begin anything, and ends what only waits."""
        self._draining.set()

    def check_open(self) -> None:
        """Refuses what begins while the server is being stopped."""
        if self._draining.is_set():
            raise ServerUnavailable("the server is being stopped: try again in a moment")

    def wait(self, lsn: int, timeout: float) -> int:
        """The last commit's number, once it is beyond ``lsn``, after ``timeout`` seconds, or when the server stops."""
        clock = self.storage.clock
        until = clock.monotonic() + min(max(timeout, 0.0), LONGEST_WAIT)
        while True:
            left = until - clock.monotonic()
            now = self.storage.wait(lsn, max(0.0, min(left, _LOOK_UP)))
            if now > lsn or left <= 0 or self._draining.is_set():
                return now

    def needs_of(self, request: Commit) -> Iterator[Need]:
        """What a commit needs, part by part."""
        yield from self.belongings.changed(request.change)
        for number in sorted({rows.topic for rows in request.rows}):
            yield self.belongings.numbered(number, "write")

    def commit(self, caller: Caller, request: Commit) -> Applied:
        """Commits, once however often it is sent; what is sent again is counted again."""
        self.gate.spend(caller, received=sum(len(rows.data) for rows in request.rows))
        if not request.client:
            return self._commit(caller, request)
        if request.boot != self.boot and not _lands_once(request.change):
            raise CommitUnknown(
                "the server was started anew since this was first sent: it may or may not have happened then; look"
            )
        return self._answers.once(
            f"{caller.name}/{request.client}", request.number, lambda: self._commit(caller, request)
        )

    def _commit(self, caller: Caller, request: Commit) -> Applied:
        change = vetted(request.change, self.catalog, self.limits, self.storage.clock.now())
        if caller.credential:
            change = with_creators(change, caller.name, self._lookup.topic_name)
        batches: list[Any] = []
        for rows in request.rows:
            batches.extend(self._batches(rows))
        answer = self.storage.commit(change, batches)
        for number in change.drops:
            self.catalog.forget(number)
        return answer

    def _batches(self, rows: Rows) -> list[Any]:
        """The rows, decoded, checked, and encoded anew: what lies in files is only ever what we wrote."""
        known = self.catalog.known(rows.topic)
        schema, batches = read_plain(rows.data, self.limits, f"topic {known.row.name!r}")
        table = pa.Table.from_batches(batches, schema)
        return known.intake.batches(table, rows.partition, rows.expect or None)


def _lands_once(change: ChangeSet) -> bool:
    """Whether it does no harm to apply it again after it was applied."""
    return bool(change.sequences) or not (change.requires or change.creates or change.drops)
