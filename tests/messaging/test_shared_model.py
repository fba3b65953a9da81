"""Members of a group that come, take, settle, stall, die and come back, beside a model in plain Python.

At least once always, once under transactions, in order per key, no two at once, nothing stuck, nothing lost.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule

from mamba_stream.errors import StaleLease
from mamba_stream.log import Log, Transaction, open_log
from mamba_stream.log.looking import Look, RecordsAnswer
from mamba_stream.messaging.books import Change, LogBook
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.message import Message
from mamba_stream.messaging.priorities import PRIORITIES
from mamba_stream.messaging.shared import SharedGroup
from tests.messaging.desk import SECOND, HandClock, Sent, member, message_topic, rows
from tests.sizes import examples

Place = tuple[int, int]
"""Partition and offset."""
_ATTEMPTS = 4
_VISIBILITY = 30


@dataclass
class Known:
    """What the model knows of a message."""

    sent: Sent
    attempts: int = 0
    settled: bool = False
    """Its acknowledgement, or its death, was written."""


@dataclass
class Held:
    """A message that a member has, as far as that member knows."""

    member: int
    lease: Lease
    message: Message


class Interrupted(LogBook):
    """Lets somebody else act between what a member read and what it commits."""

    def __init__(self, log: Log) -> None:
        super().__init__(log)
        self.meanwhile: Callable[[], None] | None = None
        self.between = ""
        """Of which records' look, if it is not before the commit."""

    def look(self, look: Look, namespace: str) -> RecordsAnswer:
        answer = super().look(look, namespace)
        if not self.between or not namespace.startswith(self.between):
            return answer

        def late() -> dict[str, bytes]:
            self._interrupt()
            return answer.get()

        return RecordsAnswer(late, lambda: dict.fromkeys(filter(None, [answer.first()]), b""))

    def commit(self, change: Change, transaction: Transaction | None = None) -> int | None:
        self._interrupt()
        return super().commit(change, transaction)

    def _interrupt(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()


class Sharing(RuleBasedStateMachine):
    """The group under test, and what must be true of it."""

    held = Bundle("held")

    @initialize(partitions=st.integers(1, 2), ordered=st.booleans())
    def begin(self, partitions: int, ordered: bool) -> None:
        self.place = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.log = open_log(self.place / "log")
        self.topic = message_topic(self.log, partitions=partitions)
        message_topic(self.log, "out")
        self.ordered = ordered
        self.clock = HandClock()
        self.known: dict[Place, Known] = {}
        self.members: dict[int, SharedGroup] = {}
        self.leases: dict[int, list[Lease]] = {}
        self.outputs: list[str] = []
        self.sessions = 0
        self.priorities: dict[int, dict[int, int]] = {}
        for _ in range(2):
            self.join()

    def teardown(self) -> None:
        if hasattr(self, "log"):
            try:
                self.drain()
            finally:
                self.log.close()
                shutil.rmtree(self.place)

    # What happens to the group.

    @precondition(lambda self: len(self.members) < 4)
    @rule()
    def join(self) -> None:
        self.sessions += 1
        self.members[self.sessions] = member(
            self.log,
            self.sessions,
            self.clock,
            book=Interrupted(self.log),
            attempts=_ATTEMPTS,
            visibility=_VISIBILITY * SECOND,
            ordered=self.ordered,
            backoff=(SECOND, 8 * SECOND),
        )
        self.leases[self.sessions] = []

    @rule(
        keys=st.lists(st.sampled_from([None, None, "a", "b", "c"]), min_size=1, max_size=8),
        delay=st.sampled_from([0, 0, 0, 5, 60]),
        priority=st.sampled_from([0, 0, 0, 3, 7]),
        partition=st.integers(0, 1),
    )
    def send(self, keys: list[str | None], delay: int, priority: int, partition: int) -> None:
        partition %= self.topic.partitions
        end = self.topic.offsets()[partition][1]
        deliver_at = self.clock.now() + delay * SECOND if delay else None
        sent = [
            Sent(f"{partition}/{end + n}", key=key, deliver_at=deliver_at, priority=priority)
            for n, key in enumerate(keys)
        ]
        if priority and priority not in self.priorities:
            self.priorities[priority] = {p: e for p, (_, e) in self.topic.offsets().items()}
            place = (PRIORITIES, str(self.topic.number))
            LogBook(self.log).commit(Change(records={place: msgspec.msgpack.encode(self.priorities)}))
        self.topic.append(rows(sent), partition=partition)
        for n, each in enumerate(sent):
            self.known[partition, end + n] = Known(each)

    @rule(target=held, who=st.integers(0, 3), limit=st.sampled_from([1, 2, 3, 10, 200]))
    def take(self, who: int, limit: int) -> Any:
        session = self._member(who)
        return [] if session is None else self._take(session, limit)

    def _take(self, session: int, limit: int) -> list[Held]:
        taken = self.members[session].take(limit)
        self.leases[session] += taken
        found = [Held(session, lease, message) for lease in taken for message in lease.messages()]
        assert len(found) <= limit
        for each in found:
            self._delivered(each)
        self._in_order(found)
        return found

    @rule(
        target=held,
        who=st.integers(0, 3),
        other=st.integers(0, 3),
        does=st.sampled_from(["take", "write"]),
        limit=st.sampled_from([1, 3, 20]),
        between=st.sampled_from(["", "cursor", "pending"]),
    )
    def take_while_another_acts(self, who: int, other: int, does: str, limit: int, between: str) -> Any:
        one, two = self._member(who), self._member(other)
        if one is None or two is None or one == two:
            return []
        book = self.members[one]._book
        assert isinstance(book, Interrupted)
        book.meanwhile = lambda: self._take(two, limit) if does == "take" else self._write(two)
        book.between = between
        taken = self._take(one, limit)
        book.meanwhile, book.between = None, ""
        return taken

    @rule(some=held, which=st.integers(0, 5), how=st.sampled_from(["ack", "ack", "ack", "nack", "reject"]))
    def settle_one(self, some: list[Held], which: int, how: str) -> None:
        held = self._of(some, which)
        if held is not None:
            try:
                if how == "nack":
                    held.message.nack("3s")
                else:
                    getattr(held.message, how)()
            except StaleLease:
                assert self._may_be_stale(held)

    @rule(some=held, which=st.integers(0, 5))
    def settle_in_a_transaction(self, some: list[Held], which: int) -> None:
        held = self._of(some, which)
        if held is None:
            return
        message = held.message
        try:
            with message.transaction() as tx:
                tx.append("out", rows([Sent(message.value)]))
        except StaleLease:
            assert self._may_be_stale(held)
        else:
            known = self.known[message.partition, message.offset]
            assert not known.settled, "done twice"
            self.outputs.append(message.value)
            self._look()

    @rule(some=held, which=st.integers(0, 5))
    def extend(self, some: list[Held], which: int) -> None:
        held = self._of(some, which)
        if held is not None:
            try:
                held.message.extend("45s")
            except StaleLease:
                assert self._may_be_stale(held)
            self._look()

    @rule(who=st.integers(0, 3))
    def write(self, who: int) -> None:
        session = self._member(who)
        if session is not None:
            self._write(session)

    def _write(self, session: int) -> None:
        self.members[session].settle(self.leases[session])
        self._look()

    @rule(target=held, some=held, which=st.integers(0, 5), other=st.integers(0, 3))
    def stall_and_come_back(self, some: list[Held], which: int, other: int) -> Any:
        """It acknowledged in time, and could not write that before another had the messages."""
        held, two = self._of(some, which), self._member(other)
        if held is None or two is None or held.member == two:
            return []
        with suppress(StaleLease):
            held.message.ack()
        self.clock.advance(_VISIBILITY + 61)
        taken = self._take(two, 200)
        self._write(held.member)
        return taken

    @rule(who=st.integers(0, 3))
    def die(self, who: int) -> None:
        session = self._member(who)
        if session is not None and len(self.members) > 1:
            del self.members[session], self.leases[session]

    @rule(seconds=st.sampled_from([1, 5, 20, 31, 90]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    # What must be true.

    def _delivered(self, held: Held) -> None:
        message = held.message
        known = self.known[message.partition, message.offset]
        assert message.value == known.sent.value
        assert message.key == known.sent.key
        assert not known.settled, f"{message} was settled, and comes again"
        assert message.attempt <= _ATTEMPTS
        assert message.attempt <= known.attempts + 1, f"{message}: {message.attempt} after {known.attempts}"
        known.attempts = max(known.attempts, message.attempt)
        due = known.sent.deliver_at
        assert due is None or due <= self.clock.now(), f"{message} came before its time"
        for session, leases in self.leases.items():
            for lease in leases:
                if lease is not held.lease and lease.run.partition == message.partition:
                    ended = lease.stale or lease.deadline < self.clock.now()
                    written = lease.value == self.members[session]._accounts.run_at(lease.key)
                    there = message.offset in lease.left
                    assert ended or not (written and there), f"{message} is also member {session}'s"

    def _in_order(self, found: list[Held]) -> None:
        """No message of a key comes while an earlier one of it is open: except its own lease's, sent in order."""
        if not self.ordered:
            return
        mine = {(h.message.partition, h.message.offset) for h in found}
        open_now = self._open()
        for each in found:
            message = each.message
            sent = self.known[message.partition, message.offset].sent
            if sent.key is None or sent.deliver_at is not None:
                continue
            for (partition, offset), known in self.known.items():
                earlier = partition == message.partition and offset < message.offset
                alike = known.sent.key == sent.key and known.sent.priority == sent.priority
                if earlier and alike and known.sent.deliver_at is None and (partition, offset) not in mine:
                    assert (partition, offset) not in open_now, f"{message} overtook {offset}"

    def _open(self) -> set[Place]:
        """What is neither acknowledged nor dead, as the log has it."""
        self._look()
        return {place for place, known in self.known.items() if not known.settled}

    def _look(self) -> None:
        """Takes in what is settled now: it is in no run, and behind its cursor."""
        anyone = next(iter(self.members.values()))
        sight = anyone._taking.look()
        runs = sight.runs.values()
        pending = {(run.partition, offset) for run in runs for offset in run.offsets.tolist()}
        for (partition, offset), known in self.known.items():
            cursor = sight.cursor(partition, known.sent.priority, 0)[0]
            settled = offset < cursor and (partition, offset) not in pending
            assert settled or not known.settled, f"{partition}/{offset} was settled, and is open again"
            known.settled = settled

    def _may_be_stale(self, held: Held) -> bool:
        """Whether the member may have lost this message: it settled it before, or its time was over."""
        settled = held.message.offset not in held.lease.left
        return settled or held.lease.stale or held.lease.deadline < self.clock.now()

    def drain(self) -> None:
        """When things are quiet, one member gets everything that is left, once, and nothing stays."""
        self._look()
        self.clock.advance(3600)
        self.sessions += 1
        last = member(
            self.log,
            self.sessions,
            self.clock,
            attempts=_ATTEMPTS,
            ordered=self.ordered,
            visibility=3600 * SECOND,
        )
        self.members = {self.sessions: last}
        self.leases = {self.sessions: []}
        rounds = 0
        while not last.idle():
            rounds += 1
            assert rounds < 40 + 4 * len(self.known), "stuck"
            taken = last.take(50)
            for lease in taken:
                for message in lease.messages():
                    self._delivered(Held(self.sessions, lease, message))
                    message.ack()
            last.settle(taken)
            self.clock.advance(60)
        self._look()
        lost = [place for place, known in self.known.items() if not known.settled]
        assert not lost
        letters: list[str] = []
        if "work.dead" in self.log:
            letters = [v.decode() for v in self.log["work.dead"].scan().collect()["value"]]
        assert len(letters) == len(set(letters)), "in the dead letters twice"
        out = [v.decode() for v in self.log["out"].scan().collect()["value"]]
        assert sorted(out) == sorted(self.outputs)
        assert len(out) == len(set(out)), "done twice"
        assert not set(out) & set(letters)

    def _member(self, who: int) -> int | None:
        sessions = sorted(self.members)
        return sessions[who % len(sessions)] if sessions else None

    def _of(self, some: list[Held], which: int) -> Held | None:
        """One of the messages taken together, whose member lives."""
        found = some[which % len(some)] if some else None
        return found if found is not None and found.member in self.members else None


TestSharing = Sharing.TestCase
TestSharing.settings = settings(
    max_examples=examples(80), stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
