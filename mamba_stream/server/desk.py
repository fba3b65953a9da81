"""What every call of the server works with: the log, who may do what, and what is under way."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from mamba_stream.core.changes import Applied, ChangeSet
from mamba_stream.errors import CommitUnknown, InvalidInput, ServerUnavailable
from mamba_stream.log.asked import text_of
from mamba_stream.log.remote.protocol import Commit, Goodbye, Rows
from mamba_stream.log.storage import OwnStorage, Stage
from mamba_stream.server.answers import Answers
from mamba_stream.server.belongings import Belongings
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.creators import with_creators
from mamba_stream.server.forgetting import Forgetting
from mamba_stream.server.gate import Caller, Gate, Need
from mamba_stream.server.limits import Limits
from mamba_stream.server.lookup import StorageLookup
from mamba_stream.server.pulse import Pulse
from mamba_stream.server.room import Room
from mamba_stream.server.streams import read_plain
from mamba_stream.server.turns import Turns
from mamba_stream.server.vetting import of_caller, vetted


class Desk:
    """The log behind the server, and the rules in front of it."""

    def __init__(
        self, storage: OwnStorage, gate: Gate, limits: Limits, identity: str, room: Room | None = None
    ) -> None:
        self.storage = storage
        self.gate = gate
        self.limits = limits
        self.identity = identity
        self.room = room
        self.boot = secrets.token_hex(8)
        self.uploads = Turns(limits.uploads, storage.clock)
        self.catalog = Catalog(storage)
        self._lookup = StorageLookup(storage, self.catalog)
        self.belongings = Belongings(self._lookup, storage.clock)
        self.pulse = Pulse(storage)
        self._answers = Answers()
        self._forgetting = Forgetting()
        self._draining = threading.Event()

    @property
    def draining(self) -> bool:
        """Whether the server is being stopped."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Lets nobody begin anything, and ends what only waits."""
        self._draining.set()
        self.pulse.stop()

    def check_open(self) -> None:
        """Refuses what begins while the server is being stopped."""
        if self._draining.is_set():
            raise ServerUnavailable("the server is being stopped: try again in a moment")

    def needs_of(self, request: Commit) -> Iterator[Need]:
        """What a commit needs, part by part."""
        yield from self.belongings.changed(request.change)
        for number in sorted({rows.topic for rows in request.rows}):
            yield self.belongings.numbered(number, "write")

    def answered(self, caller: Caller, request: Commit) -> Applied | None:
        """What came of a commit that happened before, as the log remembers it."""
        once = of_caller(request.change, caller.name).once
        return None if once is None else self.storage.answered(once)

    def commit(self, caller: Caller, request: Commit) -> Applied:
        """Commits, once however often it is sent; what is sent again is counted again."""
        self.gate.spend(caller, received=sum(len(rows.data) for rows in request.rows))

        if not request.rows and request.change == ChangeSet(once=request.change.once) != ChangeSet():
            # A name would be remembered for somebody who may do nothing else.
            raise InvalidInput(
                "there is nothing to be done once: the change set changes nothing, and has no rows"
            )

        def commit(change: ChangeSet) -> Applied:
            return self.write(change, [batch for rows in request.rows for batch in self.batches(rows)])

        return self._once(caller, request, commit)

    def commit_staged(self, caller: Caller, request: Commit, stage: Stage) -> Applied:
        """The same, where the rows came before."""
        return self._once(caller, request, stage.commit)

    def write(self, change: ChangeSet, batches: Sequence[Any]) -> Applied:
        """Commits what was checked; who waits for a commit hears of it at once."""
        answer = self.storage.commit(change, batches)
        self.pulse.tell(answer.lsn)
        return answer

    def _once(self, caller: Caller, request: Commit, commit: Callable[[ChangeSet], Applied]) -> Applied:
        if not request.client:
            return self._commit(caller, request.change, commit)
        client = text_of(request.client, "a client's name")
        # Sent again, and what came of it the first time cannot be told by looking at the log.
        again = request.boot != "" and not _lands_once(request.change)
        if again and request.boot != self.boot:
            raise CommitUnknown(
                "the server was started anew since this was first sent: it may or may not have happened then; look"
            )
        return self._answers.once(
            f"{caller.name}/{client}",
            request.number,
            lambda: self._commit(caller, request.change, commit),
            again=again,
        )

    def part(self, caller: Caller, request: Goodbye) -> None:
        """A client is gone: nobody asks for its answers any more, and its producers append nothing."""
        self._answers.forget(f"{caller.name}/{request.client}")
        change = vetted(ChangeSet(forgets=request.forgets), self.catalog, self.limits, 0)
        self._forgetting.add(of_caller(change, caller.name).forgets)

    def settle_up(self) -> None:
        """Commits what waited for a commit to go with."""
        for change in self._forgetting.rest():
            self.storage.commit(change)

    def _commit(self, caller: Caller, change: ChangeSet, commit: Callable[[ChangeSet], Applied]) -> Applied:
        change = vetted(change, self.catalog, self.limits, self.storage.clock.now())
        change = of_caller(change, caller.name)
        if caller.credential:
            change = with_creators(change, caller.name, self._lookup.topic_name)
        with self._forgetting.along(change) as change:
            answer = commit(change)
            if answer.repeated:
                # Nothing was changed now, what was to be forgotten included.
                self._forgetting.add(change.forgets)
        for number in (*change.drops, *(alter.topic for alter in change.alters)):
            self.catalog.forget(number)
        return answer

    def batches(self, rows: Rows) -> list[Any]:
        """The rows, decoded, checked, and encoded anew: what lies in files is only ever what we wrote."""
        known = self.catalog.known(rows.topic)
        schema, batches = read_plain(rows.data, self.limits, f"topic {known.row.name!r}")
        data = batches[0] if len(batches) == 1 else pa.Table.from_batches(batches, schema)
        return known.intake.batches(data, rows.partition, rows.expect or None, own=True)


def _lands_once(change: ChangeSet) -> bool:
    """Whether nothing comes of applying it again after it was applied, whatever others did in between."""
    return bool(change.once or change.sequences) or not (
        change.requires or change.creates or change.drops or change.alters or change.offsets or change.records
    )
