"""What a group takes of a topic next: runs that are due, then new rows, as the change that makes them somebody's.

Reads the group's records and the topic's rows, and commits nothing; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import pyarrow.compute as pc

from mamba_stream.core.deadletters import Death
from mamba_stream.errors import DataCorrupted
from mamba_stream.messaging.accounts import Accounts
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.deadletters import Graveyard
from mamba_stream.messaging.parts import Order, Part, held_up, joined, keys_of, split
from mamba_stream.messaging.pending import Offsets, Pending, bits_of, unpack
from mamba_stream.messaging.sight import Sight
from mamba_stream.messaging.source import Source
from mamba_stream.messaging.terms import MOST_RUNS, Terms

_DUE_AT_ONCE: Final = 32
_LOOKED_AT: Final = 65_536
"""Rows looked at in one step for what a filter leaves."""
_WINDOW: Final = 1_024
_FEW: Final = 32
_NOTHING_OPEN: Final = Order({})
_MOST_KEYED: Final = 64
"""Messages with keys taken at once: while they are open, they hold up others of their key groups."""


@dataclass(slots=True)
class Step:
    """What one attempt to take comes to.

    Attributes:
        sight: What there was to take.
        now: When that is, in microseconds since the epoch.
        room: So many messages may still be taken.
        space: About so many bytes of them.
        change: What is to be committed.
        leases: What is ours then: the key of its record, the run, and its rows.
        counts: What became of others, by the names of :class:`Counts`.
        more: Whether there may be more to take.
        damage: What kept it from reading on.
        full: Whether the group has too much open to take anything new.
        through: Whether all partitions were looked at.
        orders: What holds up what, by partition, once that was asked.
    """

    sight: Sight
    now: int
    room: int
    space: int
    change: Change = field(default_factory=Change)
    leases: list[tuple[str, Pending, list[Part]]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    more: bool = False
    damage: DataCorrupted | None = None
    full: bool = False
    through: bool = False
    orders: dict[int, Order] | None = None

    @property
    def over(self) -> bool:
        """Whether there is room for no more."""
        return self.room <= 0 or self.space <= 0

    def count(self, name: str, value: int) -> None:
        if value:
            self.counts[name] = self.counts.get(name, 0) + value


class Taking:
    """One session's eye on a topic that its group shares.

    Args:
        accounts: The group's records.
        source: The topic.
        terms: How it is shared.
        graveyard: Where the dead letters go.
    """

    def __init__(self, accounts: Accounts, source: Source, terms: Terms, graveyard: Graveyard) -> None:
        self.terms = terms
        self._topic = source.topic
        self._accounts = accounts
        self._source = source
        self._ordered = source.ordered
        self._graveyard = graveyard
        self._turn = 0
        self._reached: dict[int, int] = {}
        """From where on new rows are read next, by partition, where that is one place."""

    def look(self, limit: int = 0, space: int = 0, beyond: int | None = None, timeout: float = 0.0) -> Sight:
        """A look at what there is to take.

        Args:
            limit: So many messages at most.
            space: About so many bytes of them at most.
            beyond: Look once the log is past this commit, or ``timeout`` seconds are over; without, at once.
            timeout: Seconds.
        """
        self._turn = (self._turn + 1) % self._topic.partitions
        start = {p: self._reached[p] for p in self._turns() if p in self._reached} if limit else {}
        return Sight(
            self._accounts,
            self._topic,
            messages=self._source.messages,
            start=start,
            room=limit,
            space=space,
            beyond=beyond,
            timeout=timeout,
        )

    def step(self, sight: Sight, now: int, limit: int, space: int) -> Step:
        """What is due again, then what is new, higher priorities first.

        Args:
            sight: What there is to take.
            now: Microseconds since the epoch.
            limit: So many messages at most.
            space: About so many bytes of them at most, but one message.

        Raises:
            OffsetTrimmed: Rows went between the look at where the topic begins and the look at them: look again.
            TopicNotFound: The topic was deleted.
        """
        step = Step(sight, now, limit, space)
        self._again(step)
        self._bound(step)
        self._fresh(step)
        return step

    def at_end(self) -> bool:
        """Whether nothing is new."""
        sight = self.look()
        return all(
            sight.cursor(partition, priority, begin)[0] >= end
            for partition, (begin, end) in sight.offsets.items()
            for priority in sight.priorities
        )

    # What is due: leases that ended, retries, messages whose time has come or whose key is free.

    def _again(self, step: Step) -> None:
        due = step.sight.due(step.now)
        orders = self._orders(step) if due and self._ordered else {}
        read = 0
        for key, value in due.items():
            if step.over:
                step.more = True
                return
            run = unpack(value)
            floors = None
            if self._ordered and orders[run.partition].holds_up(key):
                continue
            if read >= _DUE_AT_ONCE and (step.leases or not self._ordered):
                # Enough was read for what it gave; the rest is for the next step.
                step.more = True
                return
            read += 1
            if self._ordered:
                floors = orders[run.partition].floors(key)
            try:
                self._again_run(step, key, value, run, floors)
            except DataCorrupted as error:
                step.damage = error

    def _again_run(self, step: Step, key: str, value: bytes, run: Pending, floors: Offsets | None) -> None:
        parts, lost = self._source.of(run)
        ended, attempt, room = run.session != 0, run.attempt + 1, step.room
        last = attempt > self.terms.attempts
        give_up = last and (run.count == 1 or not ended)
        if ended:
            # Which of its messages was to blame is not known: fewer at a time, and the last attempts alone.
            room = 1 if attempt >= self.terms.attempts or run.attempt > 1 else min(room, _FEW)
        if (size := sum([part.size for part in parts])) > step.space:
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
            self._graveyard.bury(step.change, run.partition, taken, self._gave_up(run, taken), step.now)
        else:
            step.count("expired", count if ended else 0)
            step.room -= count
            step.space -= sum([part.size for part in taken])
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

    def _fresh(self, step: Step) -> None:
        sight, ends = step.sight, step.sight.offsets
        priorities = sight.priorities
        orders = self._orders(step) if self._ordered else {}
        if len(priorities) > 1:
            self._reached.clear()
        for priority in sorted(priorities, reverse=True):
            only = priority if len(priorities) > 1 else None
            for partition in self._turns():
                if step.over:
                    return
                begin, end = ends[partition]
                position, start, stored = sight.cursor(partition, priority, begin)
                if only is None:
                    self._reached[partition] = position
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
                if only is None:
                    self._reached[partition] = cursor
                self._accounts.move(step.change, partition, priority, stored, cursor, start)
                step.more |= cursor < end
        step.through = True

    def _scan(
        self, step: Step, partition: int, position: int, end: int, only: int | None, floors: Offsets | None
    ) -> int:
        """Takes rows from a cursor on until there is no more room, or enough was looked at; says how far it came."""
        sorts = _Sorted([], [], [])
        looked, cursor = 0, position
        for part in self._intact(step, partition, position, end):
            at = 0
            while at < len(part) and not step.over and looked < _LOOKED_AT:
                window = part.window(at, max(step.room, _WINDOW if self.terms.rule or only else 0))
                while len(window) > 1 and window.size > step.space:
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
                cursor = max(cursor, end)
        self._lease(step, partition, sorts.free, 1)
        for offsets, parts in split(sorts.waits):
            self._accounts.wait(step.change, self._earliest(parts), partition, offsets, b"")
        for offsets, parts in split(sorts.stuck):
            self._accounts.wait(step.change, step.now, partition, offsets, keys_of(parts))
        return cursor

    def _intact(self, step: Step, partition: int, position: int, end: int) -> Iterator[Part]:
        """Rows as far as they are not damaged."""
        try:
            yield from self._source.read(partition, position, end, step.sight.rows(partition, position))
        except DataCorrupted as error:
            step.damage = error

    def _sort(
        self, step: Step, window: Part, only: int | None, floors: Offsets | None, sorts: _Sorted
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
        step.space -= window.size * len(free) // len(window)
        for index, into in (
            (free, sorts.free),
            (np.flatnonzero(waits[:used]), sorts.waits),
            (np.flatnonzero(stuck[:used]), sorts.stuck),
        ):
            if len(index):
                into.append(window.of(index))
        return used

    # What both need.

    def _lease(self, step: Step, partition: int, parts: list[Part], attempt: int) -> None:
        until = step.now + self.terms.visibility
        for offsets, within in split(parts):
            key, run = self._accounts.lease(step.change, until, partition, offsets, attempt, keys_of(within))
            step.leases.append((key, run, within))

    def _bound(self, step: Step) -> None:
        """Leaves room for no more new messages than there may be runs: each may yet become one, by a retry."""
        room = MOST_RUNS - len(step.sight.records)
        step.full = room <= 0
        step.room = min(step.room, room)

    def _orders(self, step: Step) -> dict[int, Order]:
        """What holds up what, by partition."""
        if step.orders is None:
            runs: dict[int, dict[str, Pending]] = {}
            for key, run in step.sight.runs.items():
                runs.setdefault(run.partition, {})[key] = run
            step.orders = {partition: Order(within) for partition, within in runs.items()}
        return step.orders

    def _turns(self) -> list[int]:
        """The partitions, in the order in which it is their turn."""
        count = self._topic.partitions
        return [*range(self._turn, count), *range(self._turn)]


@dataclass(slots=True)
class _Sorted:
    """New rows: to deliver now, at their time, and behind others of their key."""

    free: list[Part]
    waits: list[Part]
    stuck: list[Part]
