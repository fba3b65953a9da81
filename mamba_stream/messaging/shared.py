"""One group on one topic that many share: taking messages, writing what became of them, passing on what is left.

Every step is one change set that requires the records it changes to be as they were read; see
``docs/decisions/0004-runs-of-offsets.md``. There is no thread here, and time comes from the clock that is passed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
import pyarrow.compute as pc

from mamba_stream.core.clock import Clock
from mamba_stream.errors import (
    DataCorrupted,
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
from mamba_stream.messaging.deadletters import Death, dead_rows, dead_topic
from mamba_stream.messaging.latency import Latencies
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.message import Rule
from mamba_stream.messaging.parts import (
    Order,
    Part,
    held_up,
    joined,
    keys_of,
    split,
)
from mamba_stream.messaging.pending import (
    Offsets,
    Pending,
    bits_of,
    due_of,
    key_bitmap,
    pack,
    unpack,
    without,
)
from mamba_stream.messaging.priorities import WITHOUT_PRIORITIES, Priorities
from mamba_stream.messaging.source import Source

MOST_RUNS: Final = 2_048
"""A group with so many runs open in a topic takes nothing new until some are done."""
_BEGIN_AT_ONCE = 1_024
"""Records with which groups begin in one change set, about."""
_DUE_AT_ONCE = 32
_SWAPS = 16
_QUIET = 10_000_000
"""Microseconds after which a topic is looked at, whatever speaks against it."""
_LOOKED_AT = 65_536
"""Rows looked at in one step for what a filter leaves."""
_WINDOW = 1_024
_FEW = 32
_NOTHING_OPEN: Final = Order({})
_MOST_BYTES: Final = 64 << 20
"""Bytes of messages that are taken at once."""
_MOST_KEYED = 64
"""Messages with keys taken at once: while they are open, they hold up others of their key groups."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a group shares a topic. Times in microseconds.

    Attributes:
        dead_letter: The topic of the dead letters, created when there is one.
        visibility: How long a message is one subscriber's before it is delivered again.
        attempts: After so many deliveries it goes to the dead letters.
        backoff: The first delay of a retry, which doubles from attempt to attempt, and the longest.
        ordered: Whether messages of a key are kept in order.
        rule: Which messages there are for this group; ``None``: all.
    """

    dead_letter: str
    visibility: int = 30_000_000
    attempts: int = 5
    backoff: tuple[int, int] = (1_000_000, 300_000_000)
    ordered: bool = True
    rule: Rule | None = None


@dataclass(slots=True)
class Counts:
    """What became of messages here; latencies are from the append to when the acknowledgement was written."""

    delivered: int = 0
    acknowledged: int = 0
    retried: int = 0
    dead: int = 0
    expired: int = 0
    stale: int = 0
    trimmed: int = 0
    latencies: Latencies = field(default_factory=Latencies)


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
        self._writes = 0
        self._book = book
        self._accounts = Accounts(book, log, topic, name, session)
        self._source = Source(topic, ordered=terms.ordered)
        self._ordered = self._source.ordered
        self._chance = chance
        self._turn = 0
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
        if self._is_quiet():
            return []
        lsn, writes = self.log.lsn(), self._writes
        for _ in range(_SWAPS):
            step = _Step(self.clock.now(), limit, space)
            try:
                self._again(step)
                self._bound(step)
                self._fresh(step)
            except OffsetTrimmed:
                # Between the look at where it begins and the look at its rows.
                continue
            except TopicNotFound:
                self.gone = True
                return []
            if not step.change:
                if step.damage is not None:
                    raise step.damage
                if not self.full:
                    self._quiet = _Quiet(lsn, writes, step.ends, self._next_change(step.now), step.now)
                return []
            try:
                self._book.commit(step.change)
            except PreconditionFailed:
                # Somebody else changed it, and so made progress.
                continue
            leases = [Lease(self, key, pack(run), run, parts) for key, run, parts in step.leases]
            with self._counting:
                self._writes += 1
                for name, value in step.counts.items():
                    setattr(self.counts, name, getattr(self.counts, name) + value)
                self.counts.delivered += sum(len(lease.left) for lease in leases)
            if leases or not step.more:
                return leases
        return []

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
        return self._next_change(self.clock.now())

    def _next_change(self, now: int) -> int | None:
        due = self._accounts.next_due()
        return due if due is None or due > now else self._accounts.next_after(now)

    def deleted(self) -> bool:
        """Whether the topic is there no more."""
        try:
            self.topic.offsets()
        except TopicNotFound:
            self.gone = True
        return self.gone

    def _is_quiet(self) -> bool:
        """Whether there was nothing to take when it was looked last, and nothing since that could have changed this.

        Thousands of topics are looked at whenever somebody writes into one of them.
        """
        quiet, now = self._quiet, self.clock.now()
        if quiet is None or quiet.writes != self._writes or not 0 <= now - quiet.looked < _QUIET:
            return False
        if quiet.until is not None and now >= quiet.until:
            return False
        lsn = self.log.lsn()
        if lsn == quiet.lsn:
            return True
        try:
            ends, due = self.topic.offsets(), self._accounts.next_due()
        except TopicNotFound:
            return False
        if ends != quiet.ends or (due is not None and due <= now):
            return False
        self._quiet = replace(quiet, lsn=lsn, until=due)
        return True

    def idle(self) -> bool:
        """Whether everything is done: nothing is new, leased, or waits; or the topic is gone."""
        if self.gone:
            return True
        if self._accounts.next_due() is not None:
            return False
        try:
            return self._at_end()
        except TopicNotFound:
            self.gone = True
            return True

    def _at_end(self) -> bool:
        priorities = self._priorities()
        return all(
            self._accounts.cursor(partition, priority, begin, priorities)[0] >= end
            for partition, (begin, end) in self.topic.offsets().items()
            for priority in priorities
        )

    # What is due: leases that ended, retries, messages whose time has come or whose key is free.

    def _again(self, step: _Step) -> None:
        due = self._accounts.due(step.now, None if self._ordered else _DUE_AT_ONCE)
        orders = self._orders() if due and self._ordered else {}
        read = 0
        for key, value in due.items():
            if step.over:
                step.more = True
                return
            run = unpack(value)
            floors = None
            # One that is not in it was put there after the look at the others: it is left for the next step.
            if self._ordered and (run.partition not in orders or orders[run.partition].holds_up(key)):
                continue
            if self._ordered:
                if read >= _DUE_AT_ONCE and step.leases:
                    # Enough was read for what it gave; the rest is for the next step.
                    step.more = True
                    return
                read += 1
                floors = orders[run.partition].floors(key)
            try:
                self._again_run(step, key, value, run, floors)
            except DataCorrupted as error:
                step.damage = error

    def _again_run(self, step: _Step, key: str, value: bytes, run: Pending, floors: Offsets | None) -> None:
        parts, lost = self._source.of(run)
        ended, attempt, room = run.session != 0, run.attempt + 1, step.room
        last = attempt > self.terms.attempts
        give_up = last and (run.count == 1 or not ended)
        if ended:
            # Which of its messages was to blame is not known: fewer at a time, and the last attempts alone.
            room = 1 if attempt >= self.terms.attempts or run.attempt > 1 else min(room, _FEW)
        if (size := sum(part.data.nbytes for part in parts)) > step.space:
            room = max(1, min(room, run.count * step.space // size))
        taken, kept, later = self._choose(step.now, parts, room, floors, new=run.attempt == 0)
        if not (taken or lost or later):
            return
        place = self._accounts.run_place(key)
        step.change.requires[place] = value
        step.change.records[place] = None
        step.count("trimmed", lost)
        count = sum(map(len, taken))
        if give_up:
            step.count("dead", count)
            self._bury(step.change, run.partition, taken, self._gave_up(run, taken), step.now)
        else:
            step.count("expired", count if ended else 0)
            step.room -= count
            step.space -= sum(part.data.nbytes for part in taken)
            self._lease(step, run.partition, taken, run.attempt if last else attempt)
        if kept:
            self._put_rest(step.change, step.now, run, kept, keys_of(kept))
            step.more = True
        if later:
            # Before its time it holds up nothing of its key, and waits for nothing but its time.
            self._put_rest(step.change, self._earliest(later), run, later, b"")

    def _put_rest(self, change: Change, when: int, run: Pending, parts: list[Part], keys: bytes) -> None:
        left = joined(parts)
        base = int(left[0])
        self._accounts.put(
            change, when, msgspec.structs.replace(run, base=base, bits=bits_of(left, base), keys=keys)
        )

    def _choose(
        self, now: int, parts: list[Part], room: int, floors: Offsets | None, *, new: bool
    ) -> tuple[list[Part], list[Part], list[Part]]:
        """The rows of a run to deliver now, those that stay, and those whose time has not come."""
        taken: list[Part] = []
        kept: list[Part] = []
        later: list[Part] = []
        for part in parts:
            waits, held = np.zeros(len(part), bool), np.zeros(len(part), bool)
            if new and (times := self._source.deliver_at(part.data)) is not None:
                waits = times > now
            if floors is not None:
                held = held_up(part, floors)
            chosen = np.zeros(len(part), bool)
            chosen[np.flatnonzero(~waits & ~held)[:room]] = True
            room -= int(chosen.sum())
            for mask, into in ((chosen, taken), (~chosen & ~waits, kept), (waits, later)):
                if mask.any():
                    into.append(part.where(mask))
        return taken, kept, later

    def _earliest(self, parts: Sequence[Part]) -> int:
        return min(int(t.min()) for part in parts if (t := self._source.deliver_at(part.data)) is not None)

    def _gave_up(self, run: Pending, parts: list[Part]) -> list[Death]:
        cause = (
            f"its lease ended {run.attempt} times: the subscriber died or stalled, or a handler took longer than "
            f"the visibility of {self.terms.visibility / 1e6:g} s"
        )
        return [Death(offset, run.attempt, cause) for offset in joined(parts).tolist()]

    # What is new: rows behind the cursors.

    def _fresh(self, step: _Step) -> None:
        ends = step.ends = self.topic.offsets()
        priorities = self._priorities()
        # After the cursors' own records a new run cannot come without one of them changing.
        places = {
            (partition, priority): self._accounts.cursor(partition, priority, begin, priorities)
            for priority in priorities
            for partition, (begin, _) in ends.items()
        }
        orders = self._orders() if self._ordered else {}
        self._turn = (self._turn + 1) % len(ends)
        turns = [*range(self._turn, len(ends)), *range(self._turn)]
        for priority in sorted(priorities, reverse=True):
            only = priority if len(priorities) > 1 else None
            for partition in turns:
                if step.over:
                    return
                begin, end = ends[partition]
                position, start, stored = places[partition, priority]
                if position >= end:
                    continue
                floors = None
                if self._ordered:
                    floors = orders.get(partition, _NOTHING_OPEN).floors()
                step.count("trimmed", begin - position if only in (None, 0) and begin > position else 0)
                cursor = self._scan(step, partition, max(position, begin), end, only, floors)
                if cursor == position:
                    # Damaged.
                    continue
                self._accounts.move(step.change, partition, priority, stored, cursor, start)
                step.more |= cursor < end

    def _scan(
        self, step: _Step, partition: int, position: int, end: int, only: int | None, floors: Offsets | None
    ) -> int:
        """Takes rows from a cursor on until there is no more room, or enough was looked at; says how far it came."""
        sorts = _Sorted([], [], [])
        looked, cursor = 0, position
        for part in self._intact(step, partition, position, end):
            at = 0
            while at < len(part) and not step.over and looked < _LOOKED_AT:
                window = part.window(at, max(step.room, _WINDOW if self.terms.rule or only else 0))
                while len(window) > 1 and window.data.nbytes > step.space:
                    window = window.window(0, len(window) // 2)
                window = self._source.grouped(window)
                if window.groups is not None:
                    step.room = min(step.room, _MOST_KEYED)
                used = self._sort(step, window, only, floors, sorts)
                at += used
                looked += used
                cursor = int(window.offsets[used - 1]) + 1
            if at < len(part):
                break
        else:
            if step.damage is None:
                # Also where the last offsets have no rows any more.
                cursor = end
        self._lease(step, partition, sorts.free, 1)
        for offsets, parts in split(sorts.waits):
            self._accounts.wait(step.change, self._earliest(parts), partition, offsets, b"")
        for offsets, parts in split(sorts.stuck):
            self._accounts.wait(step.change, step.now, partition, offsets, keys_of(parts))
        return cursor

    def _intact(self, step: _Step, partition: int, position: int, end: int) -> Iterator[Part]:
        """Rows as far as they are not damaged."""
        try:
            yield from self._source.read(partition, position, end)
        except DataCorrupted as error:
            step.damage = error

    def _sort(
        self, step: _Step, window: Part, only: int | None, floors: Offsets | None, sorts: _Sorted
    ) -> int:
        """Sorts rows into those to deliver, those whose time has not come, and those held up; says how many it took."""
        wanted = np.ones(len(window), bool)
        if only is not None:
            wanted &= pc.fill_null(window.data.column("priority"), 0).to_numpy(zero_copy_only=False) == only
        if self.terms.rule is not None and (mask := self.terms.rule.mask(window.data)) is not None:
            wanted &= mask
        waits = np.zeros(len(window), bool)
        if (times := self._source.deliver_at(window.data)) is not None:
            waits = wanted & (times > step.now)
        stuck = np.zeros(len(window), bool) if floors is None else wanted & ~waits & held_up(window, floors)
        free = np.flatnonzero(wanted & ~waits & ~stuck)
        used = len(window)
        if len(free) > step.room:
            # What lies behind the last that is taken stays new.
            used = int(free[step.room - 1]) + 1
            free = free[: step.room]
        step.room -= len(free)
        step.space -= window.data.nbytes * len(free) // len(window)
        for index, into in (
            (free, sorts.free),
            (np.flatnonzero(waits[:used]), sorts.waits),
            (np.flatnonzero(stuck[:used]), sorts.stuck),
        ):
            if len(index):
                into.append(window.of(index))
        return used

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
            outcomes = [self._outcome(change, leases[0], done)]
            outcomes += [self._outcome(change, lease) for lease in leases[1:]]
            try:
                self._book.commit(change, transaction)
            except PreconditionFailed:
                for lease in leases:
                    lease.stale = not self.holds(lease)
                with self._counting:
                    self._writes += 1
                    self.counts.stale += sum(len(lease.done) for lease in leases if lease.stale)
                raise
            for outcome in outcomes:
                self._settled(outcome)

    def _outcome(self, change: Change, lease: Lease, also: int | None = None) -> _Outcome:
        run, key, value = lease.run, lease.key, b""
        written, again, dead = lease.done[:], lease.again[:], lease.dead[:]
        done = written if also is None else [*written, also]
        gone = {*done, *(offset for offset, _, _ in again), *(death.offset for death in dead)}
        place = self._accounts.run_place(key)
        change.requires[place] = lease.value
        change.records[place] = None
        if bits := without(run.bits, run.base, gone):
            run = msgspec.structs.replace(
                run, bits=bits, keys=keys_of(lease.parts, gone) if run.keys else b""
            )
            value = pack(run)
            if lease.deadline != due_of(key):
                key = self._accounts.put(change, lease.deadline, run)
            else:
                change.records[place] = value
        self._put_again(change, lease, again)
        if dead:
            deaths = {death.offset: death for death in dead}
            parts = [
                p.where(np.isin(p.offsets, np.fromiter(deaths, np.int64, len(deaths)))) for p in lease.parts
            ]
            ordered = [deaths[offset] for offset in joined(parts).tolist()]
            self._bury(change, run.partition, parts, ordered, self.clock.now())
        return _Outcome(lease, key, value, run, len(written), done, again, dead)

    def _put_again(self, change: Change, lease: Lease, again: Sequence[tuple[int, int, int]]) -> None:
        now, partition, keyed = self.clock.now(), lease.run.partition, bool(lease.run.keys)
        at_once: dict[int, list[int]] = {}
        for offset, when, attempt in again:
            if when <= now:
                at_once.setdefault(attempt, []).append(offset)
                continue
            group = lease.group_of(offset) if keyed else -1
            keys = key_bitmap(np.array([group], np.uint8)) if group >= 0 else b""
            self._accounts.put(change, when, Pending(partition, offset, b"\x01", attempt, 0, keys))
        # Whoever stops gives back thousands: these are few runs, not thousands of them.
        for attempt, given in at_once.items():
            parts = [part.where(np.isin(part.offsets, given)) for part in lease.parts]
            for offsets, within in split(parts):
                base, keys = int(offsets[0]), keys_of(within) if keyed else b""
                run = Pending(partition, base, bits_of(offsets, base), attempt, 0, keys)
                self._accounts.put(change, now, run)

    def _settled(self, outcome: _Outcome) -> None:
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
            self._writes += 1
            for part in lease.parts if outcome.done else ():
                if count := int(np.isin(done, part.offsets).sum()):
                    self.counts.latencies.add(now - part.append_time, count)
            self.counts.acknowledged += len(outcome.done)
            self.counts.retried += len(outcome.again)
            self.counts.dead += len(outcome.dead)

    def _bury(
        self, change: Change, partition: int, parts: Sequence[Part], deaths: list[Death], now: int
    ) -> None:
        topic = dead_topic(self.log, self.terms.dead_letter, self.topic)
        at = 0
        for part in parts:
            own, at = deaths[at : at + len(part)], at + len(part)
            if own:
                rows = dead_rows(
                    part.data, own, topic=self.topic.name, partition=partition, group=self.name, now=now
                )
                change.appends.append((topic.name, rows, None))

    # What both need.

    def _lease(self, step: _Step, partition: int, parts: list[Part], attempt: int) -> None:
        until = step.now + self.terms.visibility
        for offsets, within in split(parts):
            key, run = self._accounts.lease(step.change, until, partition, offsets, attempt, keys_of(within))
            step.leases.append((key, run, within))

    def _bound(self, step: _Step) -> None:
        """Leaves room for no more new messages than there may be runs: each may yet become one, by a retry."""
        room = MOST_RUNS - self._accounts.count(MOST_RUNS)
        self.full = room <= 0
        step.room = min(step.room, room)

    def _orders(self) -> dict[int, Order]:
        """What holds up what, by partition."""
        runs: dict[int, dict[str, Pending]] = {}
        for key, run in self._accounts.runs().items():
            runs.setdefault(run.partition, {})[key] = run
        return {partition: Order(within) for partition, within in runs.items()}

    def _priorities(self) -> Priorities:
        return self._accounts.priorities() if self._source.messages else WITHOUT_PRIORITIES


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


@dataclass(slots=True)
class _Step:
    """What one attempt to take comes to."""

    now: int
    room: int
    space: int
    change: Change = field(default_factory=Change)
    leases: list[tuple[str, Pending, list[Part]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    more: bool = False
    damage: DataCorrupted | None = None
    ends: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether there is room for no more."""
        return self.room <= 0 or self.space <= 0

    def count(self, name: str, value: int) -> None:
        if value:
            self.counts[name] = self.counts.get(name, 0) + value


@dataclass(frozen=True, slots=True)
class _Quiet:
    """There was nothing to take: when that was, and what it was seen by."""

    lsn: int
    writes: int
    ends: Mapping[int, tuple[int, int]]
    until: int | None
    looked: int


@dataclass(slots=True)
class _Sorted:
    """New rows: to deliver now, at their time, and behind others of their key."""

    free: list[Part]
    waits: list[Part]
    stuck: list[Part]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a lease becomes once its change is committed."""

    lease: Lease
    key: str
    value: bytes
    run: Pending
    noted: int
    """How many of ``done`` the lease had noted."""
    done: list[int]
    again: list[tuple[int, int, int]]
    dead: list[Death]
