"""One group on one topic that many share: taking messages, writing what became of them, passing on what is left.

Every step is one change set that requires the records it changes to be as they were read; see
``docs/decisions/0004-runs-of-offsets.md``. There is no thread here, and time comes from the clock that is passed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mamba_stream.core.clock import Clock
from mamba_stream.errors import (
    DiskFull,
    InvalidInput,
    MambaStreamError,
    NotCommitted,
    OffsetTrimmed,
    PreconditionFailed,
    TopicNotFound,
)
from mamba_stream.log import Log, Topic, Transaction
from mamba_stream.messaging.accounts import Accounts
from mamba_stream.messaging.books import Book, Change
from mamba_stream.messaging.deadletters import Graveyard
from mamba_stream.messaging.latency import Latencies
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.pending import pack
from mamba_stream.messaging.settling import Outcome, Settling
from mamba_stream.messaging.sight import Sight
from mamba_stream.messaging.source import Source
from mamba_stream.messaging.taking import Taking
from mamba_stream.messaging.terms import Counts, Terms

_BEGIN_AT_ONCE: Final = 1_024
"""Records with which groups begin in one change set, about."""
_SWAPS: Final = 16
_QUIET: Final = 10_000_000
"""Microseconds after which a topic is looked at, whatever speaks against it."""
_MOST_BYTES: Final = 64 << 20
"""Bytes of messages that are taken at once."""


class SharedGroup:
    """One group's part of one topic, for one session. One thread takes; any number settle and write.

    Args:
        log: The log.
        topic: The topic.
        name: The group.
        session: A number, from 1 on, that nobody else in the group ever had.
        terms: How it is shared.
        book: Where its records are.
        clock: The clock.
        chance: A random number from 0 to 1 at each call, for the jitter of retries.
    """

    def __init__(
        self,
        log: Log,
        topic: Topic,
        name: str,
        *,
        session: int,
        terms: Terms,
        book: Book,
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        self.log = log
        self.topic = topic
        self.name = name
        self.terms = terms
        self.clock = clock
        self.counts = Counts()
        self.full = False
        self.gone = False
        self._quiet: _Quiet | None = None
        self._awaited: Sight | None = None
        self._writes = 0
        self._book = book
        self._accounts = Accounts(book, topic, name, session)
        graveyard = Graveyard(log, topic, name, terms.dead_letter)
        self._taking = Taking(self._accounts, Source(topic, ordered=terms.ordered), terms, graveyard)
        self._settling = Settling(self._accounts, graveyard)
        self._chance = chance
        self._counting = threading.Lock()

    def beginning(self, start: Mapping[int, int]) -> Change:
        """The change with which the group begins, at these offsets, in the partitions where it has not begun."""
        return self._accounts.beginning(start)

    def begin(self, start: Mapping[int, int]) -> None:
        """Begins, where it has not."""
        begin_together(self._book, [(self, start)])

    def take(self, limit: int, space: int = _MOST_BYTES) -> list[Lease]:
        """Takes up to ``limit`` messages: what is due again, then new ones, higher priorities first.

        Gives nothing where nothing is to be had, where others were faster again and again, or where the topic is gone.

        Args:
            limit: So many messages at most.
            space: About so many bytes of them at most, but one message.

        Raises:
            DataCorrupted: What is to be delivered next is damaged, and there is nothing else.
        """
        quiet = self._quiet_still()
        awaited, self._awaited = self._awaited, None
        lsn, writes = awaited.lsn if awaited is not None else None, self._writes
        if lsn is None:
            lsn = self.log.heard()
        if quiet is not None and lsn <= quiet.lsn:
            return []
        for _ in range(_SWAPS):
            try:
                sight, now = awaited or self._taking.look(limit, space), self.clock.now()
                awaited = None
                if quiet is not None and quiet.ends == sight.offsets:
                    due = sight.next_due()
                    if due is None or due > now:
                        self._quiet = replace(quiet, lsn=lsn, until=due)
                        return []
                quiet = None
                step = self._taking.step(sight, now, limit, space)
            except OffsetTrimmed:
                # Between the look at where it begins and the look at its rows.
                continue
            except TopicNotFound:
                self.gone = True
                return []
            self.full = step.full
            if not step.change:
                if step.damage is not None:
                    raise step.damage
                if not self.full:
                    self._quiet = _Quiet(lsn, writes, sight.offsets, sight.next_change(now), now)
                return []
            try:
                committed = self._book.commit(step.change)
            except PreconditionFailed:
                # Somebody else changed it, and so made progress.
                continue
            leases = [Lease(self, key, pack(run), run, parts) for key, run, parts in step.leases]
            with self._counting:
                self._writes += 1
                for name, value in step.counts.items():
                    setattr(self.counts, name, getattr(self.counts, name) + value)
                self.counts.delivered += sum(len(lease.left) for lease in leases)
            if step.through and not step.more and step.damage is None:
                # All that there was is taken; what comes of that is looked at when it falls due.
                dues = [sight.next_change(now), *self._accounts.dues(step.change, now)]
                until = min((due for due in dues if due is not None), default=None)
                quiet = _Quiet(lsn, writes + 1, sight.offsets, until, now)
                self._quiet = quiet.past(committed)
            if leases or not step.more:
                return leases
        return []

    def wait(self, lsn: int, timeout: float, limit: int, space: int) -> None:
        """Returns once the log is past a commit, or after ``timeout`` seconds; what there is then is seen already.

        So over a network messages come by themselves, in one trip. The next to take begins with that, and with the
        same bounds.
        """
        if (quiet := self._quiet_still()) is not None:
            # That was heard of with the last look, maybe before it was heard of otherwise.
            lsn = max(lsn, quiet.lsn)
        sight = self._taking.look(limit, space, lsn, timeout)
        assert sight.lsn is not None
        self._awaited = sight

    def counted(self) -> Counts:
        """The counts of this moment."""
        with self._counting:
            return replace(self.counts, latencies=Latencies.of(self.counts.latencies))

    def next_due(self) -> int | None:
        """When the next run falls due, or fell; ``None`` where there is none."""
        return self._accounts.next_due()

    def next_change(self) -> int | None:
        """When there may be something to take although nobody writes; ``None`` where there never may.

        What is due and was not taken waits for a message of its key, and for somebody to write what became of that.
        """
        if (quiet := self._quiet) is not None and quiet.writes == self._writes:
            return quiet.until
        now = self.clock.now()
        due = self._accounts.next_due()
        return due if due is None or due > now else self._accounts.next_after(now)

    def deleted(self) -> bool:
        """Whether the topic is there no more."""
        try:
            self.topic.offsets()
        except TopicNotFound:
            self.gone = True
        return self.gone

    def _quiet_still(self) -> _Quiet | None:
        """What was seen when there was nothing to take, where only others' commits could have changed that since.

        Thousands of topics are looked at whenever somebody writes into one of them.
        """
        quiet, now = self._quiet, self.clock.now()
        if quiet is None or quiet.writes != self._writes or not 0 <= now - quiet.looked < _QUIET:
            return None
        return None if quiet.until is not None and now >= quiet.until else quiet

    def idle(self) -> bool:
        """Whether everything is done: nothing is new, leased, or waits; or the topic is gone."""
        if self.gone:
            return True
        if self._accounts.next_due() is not None:
            return False
        try:
            return self._taking.at_end()
        except TopicNotFound:
            self.gone = True
            return True

    # Writing what was settled.

    def last(self, attempt: int) -> bool:
        """Whether there is no attempt after this one."""
        return attempt >= self.terms.attempts

    def backoff(self, attempt: int) -> int:
        """How long a message waits after delivery number ``attempt`` failed: doubling, with a jitter of a fifth."""
        first, longest = self.terms.backoff
        return int(min(first << min(attempt - 1, 40), longest) * (0.8 + 0.4 * self._chance()))

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still what it was: nobody has taken it."""
        return not lease.stale and self._accounts.run_at(lease.key) == lease.value

    def settle(self, leases: Sequence[Lease]) -> None:
        """Writes what was settled. A lease that ended meanwhile is marked stale, and nothing of it is changed.

        Raises:
            MambaStreamError: Something could not be written, such as a dead letter that its topic does not take; all
                else was.
        """
        changed = [lease for lease in leases if lease.changed and not lease.stale]
        if not changed:
            return
        failed: MambaStreamError | None = None
        try:
            self.write(changed)
        except DiskFull:
            raise
        except (NotCommitted, InvalidInput):
            for lease in changed:
                if lease.stale:
                    continue
                try:
                    self.write([lease])
                except PreconditionFailed:
                    continue
                except (NotCommitted, InvalidInput) as error:
                    failed = failed or error
        if failed is not None:
            raise failed

    def write(
        self, leases: Sequence[Lease], transaction: Transaction | None = None, done: int | None = None
    ) -> None:
        """Writes what was settled in these leases together with the transaction, all or nothing.

        Args:
            leases: The leases.
            transaction: What else is to be committed.
            done: The message of the first lease that is done by that.

        Raises:
            PreconditionFailed: A lease ended, and is marked stale; or what the transaction requires is not so.
        """
        with ExitStack() as locks:
            for lease in sorted(leases, key=id):
                locks.enter_context(lease.writing)
            if transaction is None:
                # Somebody else may have written it just now.
                leases = [lease for lease in leases if lease.changed]
                if not leases:
                    return
            change = Change()
            now = self.clock.now()
            outcomes = [self._settling.outcome(change, leases[0], now, done)]
            outcomes += [self._settling.outcome(change, lease, now) for lease in leases[1:]]
            try:
                committed = self._book.commit(change, transaction)
            except PreconditionFailed:
                for lease in leases:
                    lease.stale = not self.holds(lease)
                with self._counting:
                    self._writes += 1
                    self.counts.stale += sum(len(lease.done) for lease in leases if lease.stale)
                raise
            for outcome in outcomes:
                self._settled(outcome)
            # What was only done, and held up nothing of its key, leaves nothing behind that may be taken.
            plain = transaction is None and not change.appends and not any(lease.keyed for lease in leases)
            with self._counting:
                if plain and not any(outcome.again for outcome in outcomes):
                    self._quiet = self._quiet and self._quiet.past(committed)
                else:
                    self._writes += 1

    def _settled(self, outcome: Outcome) -> None:
        lease = outcome.lease
        del (
            lease.done[: len(outcome.done)],
            lease.again[: len(outcome.again)],
            lease.dead[: len(outcome.dead)],
        )
        lease.key, lease.value, lease.run = outcome.key, outcome.value, outcome.run
        now = self.clock.now()
        done = np.array(outcome.done, np.int64)
        with self._counting:
            for part in lease.parts if outcome.done else ():
                if count := int(np.isin(done, part.offsets).sum()):
                    self.counts.latencies.add(now - part.append_time, count)
            self.counts.acknowledged += len(outcome.done)
            self.counts.retried += len(outcome.again)
            self.counts.dead += len(outcome.dead)


def begin_together(book: Book, groups: Sequence[tuple[SharedGroup, Mapping[int, int]]]) -> None:
    """Has groups begin at these offsets, in the partitions where they have not: many in one change set.

    A new group of a thousand topics would otherwise sync a thousand times before its first message.
    """
    left = deque(groups)
    while left:
        whole, together = Change(), 0
        for group, start in left:
            change = group.beginning(start)
            whole.requires |= change.requires
            whole.records |= change.records
            together += 1
            if len(whole.records) >= _BEGIN_AT_ONCE:
                break
        try:
            if whole:
                book.commit(whole)
        except PreconditionFailed:
            # Another member began one of them at this moment.
            continue
        for _ in range(together):
            left.popleft()


@dataclass(frozen=True, slots=True)
class _Quiet:
    """There was nothing to take: when that was, and what it was seen by."""

    lsn: int
    writes: int
    ends: Mapping[int, tuple[int, int]]
    until: int | None
    looked: int

    def past(self, lsn: int | None) -> _Quiet:
        """The same after a commit of our own that changed nothing of it, if no other commit came in between."""
        return replace(self, lsn=lsn) if lsn == self.lsn + 1 else self
