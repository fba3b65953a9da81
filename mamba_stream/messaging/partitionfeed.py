"""The feed that reads partitions: those of a group's balance, those that were assigned, or all."""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import (
    InvalidInput,
    LogUnavailable,
    PartitionNotFound,
    StaleLease,
    TopicNotFound,
)
from mamba_stream.log import Log
from mamba_stream.messaging import bounds
from mamba_stream.messaging.assignment import Slot
from mamba_stream.messaging.feed import FeedStatistics, Partition, Pulse, Settings, Start
from mamba_stream.messaging.fitting import check_fits, fits
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.lanes import CLOSED, GIVEN_UP, Lane, Portion
from mamba_stream.messaging.latency import Latencies, merged
from mamba_stream.messaging.members import Member
from mamba_stream.messaging.membership import LogTopics, Membership, Reached
from mamba_stream.messaging.message import Rule
from mamba_stream.messaging.outputs import MessageTransaction

_LOOK: Final = 1.0
"""Seconds between two looks at who else is there, and at which topics there are."""
_HURRY: Final = 0.05
"""The same, while we wait for a partition that another member is about to give up."""
_EXPECTANT: Final = 0.2
"""The same, while a topic that was named does not exist."""


@dataclass(slots=True)
class _Counts:
    received: int = 0
    acknowledged: int = 0
    filtered: int = 0
    trimmed: int = 0
    commits: int = 0
    rebalances: int = 0
    taken: int = 0
    latencies: dict[str, Latencies] = field(default_factory=lambda: defaultdict(Latencies))


class PartitionFeed:
    """Reads partitions in order: those that its group's balance gives it, those that were assigned, or all.

    Args:
        log: The log.
        clock: Tells the time.
        settings: How to read.
        interest: The topics that are wanted.
        member: Who we are.
        membership: Our part in a group; ``None``: we are alone, and keep no offsets in the log.
        group: The group's name.
        pinned: The partitions that were assigned; ``None``: those that the balance gives.
        pulse: To be kept changing, for the member to see that we are not stuck.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        settings: Settings,
        interest: Interest,
        member: Member,
        membership: Membership | None,
        group: str,
        pinned: Collection[Partition] | None,
        pulse: Pulse,
    ) -> None:
        self._log = log
        self._clock = clock
        self._settings = settings
        self._interest = interest
        self._member = member
        self._membership = membership
        self._group = group
        self._pinned = pinned
        self._topics = LogTopics(log)
        self._lanes: dict[Slot, Lane] = {}
        self._turn: deque[Slot] = deque()
        self._all_paused = False
        self._otherwise: set[Partition] = set()
        self._rule: Rule | None = None
        self._left_out: set[int] = set()
        """Numbers of topics whose rows the rule cannot judge."""
        self._bounded: set[Slot] = set()
        self._counts = _Counts()
        self._settled = False
        self._pulse = pulse
        self._names: dict[int, str] = {}
        # What comes later than we do is read from its beginning, whatever ``start`` says.
        self._before = {number for number, _ in self._topics.wanted([interest]).values()}
        self._next_commit = clock.monotonic() + (settings.commit or 0.0)
        self._next_look = clock.monotonic()
        self.due = self._next_look

    @property
    def lanes(self) -> dict[Partition, Lane]:
        """What is read now, by topic and partition."""
        return {lane.place: lane for _, lane in sorted(self._lanes.items())}

    def begin(self) -> None:
        for lane in self._lanes.values():
            lane.rewind_open()

    def take(self) -> Portion | None:
        self._pulse.beat += 1
        now = 0.0
        for _ in range(len(self._turn)):
            slot = self._turn[0]
            self._turn.rotate(-1)
            lane = self._lanes[slot]
            if lane.paused:
                continue
            if lane.resume:
                now = now or self._clock.monotonic()
                if lane.resume > now:
                    continue
                lane.resume = 0.0
            try:
                portion = lane.next(self._rule, self._settings.max_rows)
            except TopicNotFound:
                # It was deleted while we read it; the next look knows.
                self.look_soon()
                continue
            if portion is not None:
                self._pulse.run = portion
                return portion
        return None

    def tick(self) -> None:
        self._pulse.beat += 1
        self._member.revive()
        now = self._clock.monotonic()
        if now >= self._next_look:
            self._look()
            # With thousands of topics a look is no small thing: it takes a twentieth of our time at most.
            took = self._clock.monotonic() - now
            self._next_look = now + max(self._pause(), took * 20)
            self._report()
        every = self._settings.commit
        if every is not None and now >= self._next_commit:
            self._commit(self._changed())
            self._next_commit = now + every
        self._schedule()

    def rest(self) -> None:
        """Commits what is done in bounded topics: who sends to them may wait for that."""
        if self._settings.commit is not None and self._bounded:
            changed = self._changed()
            self._commit({slot: changed[slot] for slot in self._bounded & changed.keys()})

    def at_end(self) -> bool:
        return self._settled and all(lane.paused or lane.at_end() for lane in self._lanes.values())

    def look_soon(self) -> None:
        """Looks around at the next tick."""
        self._next_look = self.due = 0.0

    def commit(self) -> None:
        """Makes what is done durable now.

        Raises:
            StaleLease: Some of our partitions are somebody else's; what is done in the others is durable.
        """
        lost = self._commit(self._changed())
        if lost:
            raise StaleLease(
                f"group {self._group!r}: {', '.join(lost)} (topic/partition) belongs to another consumer now, since "
                "this one was silent for too long, or is gone; what was done there and not committed is delivered again"
            )

    def close(self) -> None:
        try:
            if self._membership is not None:
                # Of a log that was closed before its consumer nothing more can be asked: leases end by themselves.
                with contextlib.suppress(LogUnavailable):
                    self._membership.leave(self._leaving)
        finally:
            self._drop(set(self._lanes), CLOSED)
            self._member.close()

    def find(self, place: Partition) -> Lane:
        """A lane of ours.

        Raises:
            PartitionNotFound: It is not read here.
        """
        for lane in self._lanes.values():
            if lane.place == place:
                return lane
        shown = ", ".join(f"{name}/{partition}" for name, partition in self.lanes) or "none yet"
        raise PartitionNotFound(
            f"this consumer does not read {place!r}: it reads {shown} (topic/partition). Partitions of a group are "
            "known after the first poll() or consume(), or use assign()"
        )

    def pause(self, places: Collection[Partition] | None, paused: bool) -> None:
        """Reads no more from these, or goes on; from all where none is named, those that come later too."""
        lanes = list(self._lanes.values()) if places is None else [self.find(each) for each in places]
        if places is None:
            # Also what is not ours just now: it may come back.
            self._all_paused = paused
            self._otherwise.clear()
        for lane in lanes:
            lane.paused = paused
            (self._otherwise.discard if paused == self._all_paused else self._otherwise.add)(lane.place)
            if paused:
                lane.refilter()

    def set_rule(self, rule: Rule | None) -> None:
        """From now on only rows that it accepts become messages.

        Raises:
            ColumnNotFound: It looks at a column that a topic does not have which is read now; nothing was changed.
            InvalidInput: A condition is of the wrong type for its column; nothing was changed.
        """
        for topic in {lane.topic.number: lane.topic for lane in self._lanes.values()}.values():
            check_fits(rule, topic)
        self._rule = rule
        if self._left_out:
            self._left_out.clear()
            self.look_soon()
        for lane in self._lanes.values():
            lane.refilter()

    def resolve(self, lane: Lane, start: int | Start) -> int:
        """The offset that is meant by an offset, ``earliest``, ``latest`` or a time."""
        begin, end = lane.topic.offsets()[lane.partition]
        if isinstance(start, str):
            if start not in ("earliest", "latest"):
                raise InvalidInput(f"{start!r}: choose 'earliest', 'latest', an offset or a datetime")
            return begin if start == "earliest" else end
        if isinstance(start, datetime | date):
            return _at(lane, start)
        if not begin <= start <= end:
            raise InvalidInput(
                f"topic {lane.topic.name!r}, partition {lane.partition}: {start} is not within its offsets, "
                f"{begin}..{end}"
            )
        return start

    def statistics(self) -> FeedStatistics:
        """What was done so far."""
        for lane in self._lanes.values():
            self._count_lane(lane)
        counts = self._counts
        return FeedStatistics(
            received=counts.received,
            acknowledged=counts.acknowledged,
            filtered=counts.filtered,
            trimmed=counts.trimmed,
            commits=counts.commits,
            rebalances=counts.rebalances,
            taken=counts.taken,
            latency=merged(counts.latencies.values()).counters(),
        )

    # --- what lanes ask for

    def count(self, portion: Portion) -> None:
        """Counts what happened to a portion since the last time."""
        handed, done = portion.news()
        self._counts.received += handed
        if done > 0:
            self._counts.acknowledged += done
            duration = self._clock.now() - portion.block.append_time
            self._counts.latencies[portion.block.topic].add(duration, done)

    def delay(self, lane: Lane, microseconds: int) -> None:
        """Reads nothing from a lane for so long."""
        if microseconds:
            lane.resume = self._clock.monotonic() + microseconds / 1e6
            self.due = min(self.due, lane.resume)

    def extend(self, microseconds: int) -> None:
        """We are not stuck for so long, although we do not ask for messages."""
        self._member.excuse(microseconds / 1e6)

    @contextmanager
    def transaction(self, portion: Portion, offset: int) -> Iterator[MessageTransaction]:
        """A transaction that also commits that this message is done."""
        portion.check_next(offset)
        lane = portion.lane
        transaction = MessageTransaction(self._log, self._clock)
        try:
            yield transaction
            portion.check_next(offset)
        except BaseException:
            transaction.abort()
            raise
        if self._membership is None:
            transaction.commit()
            portion.ack(offset)
            return
        following = portion.after(offset)
        try:
            self._membership.commit_with(transaction, {lane.slot: Reached(following, lane.generation)})
        except StaleLease:
            self._drop({lane.slot})
            raise
        lane.committed = following
        self._counts.commits += 1
        portion.ack(offset)

    # --- what time asks for

    def _pause(self) -> float:
        if not self._settled:
            return _HURRY
        there = all(self._topics.number(name) is not None for name in self._interest.named)
        return _LOOK if there else _EXPECTANT

    def _schedule(self) -> None:
        self.due = self._next_look
        if self._settings.commit is not None:
            self.due = min(self.due, self._next_commit)
        for lane in self._lanes.values():
            if lane.resume:
                self.due = min(self.due, lane.resume)

    def _look(self) -> None:
        """Finds out which partitions are ours now."""
        if self._membership is None:
            wanted = self._everything()
            gained, lost = wanted - self._lanes.keys(), self._lanes.keys() - wanted
            self._settled = True
        else:
            moves = self._membership.step(self._clock.now(), self._interest, self._leaving, self._pinned)
            # By what is read, not by what this look changed: an earlier one may have been cut short.
            lost = {slot for slot, lane in self._lanes.items() if self._generation(slot) != lane.generation}
            gained = set(self._membership.owned - (self._lanes.keys() - lost))
            self._settled = moves.settled
            self._counts.taken += len(moves.taken)
        self._drop(lost)
        gained = {slot for slot in gained if slot[0] not in self._left_out}
        if gained:
            self._open(gained)
        if gained or lost:
            self._counts.rebalances += 1
        bounded = bounds.bounded(self._log)
        self._bounded = {slot for slot in self._lanes if slot[0] in bounded}

    def _everything(self) -> set[Slot]:
        topics = self._topics.wanted([self._interest])
        self._names = {number: name for name, (number, _) in topics.items()}
        if self._pinned is None:
            return {(number, p) for number, count in topics.values() for p in range(count)}
        return {(topics[name][0], p) for name, p in self._pinned if name in topics and p < topics[name][1]}

    def _open(self, gained: Collection[Slot]) -> None:
        offsets = self._log.group_offsets(self._group) if self._membership is not None else {}
        begun: dict[Slot, Reached] = {}
        for slot in sorted(gained):
            name = self._names[slot[0]] if self._membership is None else self._membership.name_of(slot[0])
            try:
                topic = self._log[name]
            except TopicNotFound:
                continue
            if topic.number != slot[0]:
                continue
            if topic.number in self._left_out:
                continue
            if not fits(self._rule, topic, self._interest):
                self._left_out.add(topic.number)
                continue
            committed = offsets.get((name, slot[1]))
            lane = Lane(self, topic, slot[1], committed or 0, committed, self._generation(slot))
            if committed is None:
                start = self._settings.start if slot[0] in self._before else "earliest"
                lane.seek(self.resolve(lane, start))
                # A topic that came after us is read from its beginning, also by whoever comes after it.
                if self._settings.start != "earliest":
                    begun[slot] = Reached(lane.position, lane.generation)
            lane.paused = self._all_paused != (lane.place in self._otherwise)
            self._lanes[slot] = lane
            self._turn.append(slot)
        if begun and self._membership is not None:
            # Where a group began must not move, should we die before our first commit.
            self._commit(begun)

    def _generation(self, slot: Slot) -> int:
        return 0 if self._membership is None else self._membership.generation(slot) or 0

    def _drop(self, slots: Collection[Slot], why: str = GIVEN_UP) -> None:
        for slot in slots:
            lane = self._lanes.pop(slot, None)
            if lane is not None:
                self._turn.remove(slot)
                lane.drop(why)
                self._count_lane(lane)

    def _done(self, slot: Slot) -> Reached | None:
        lane = self._lanes.get(slot)
        if lane is None or (position := lane.position) == lane.committed:
            return None
        return Reached(position, lane.generation)

    def _leaving(self, slot: Slot) -> Reached | None:
        return None if self._settings.commit is None else self._done(slot)

    def _changed(self) -> dict[Slot, Reached]:
        if self._membership is None:
            return {}
        found = {slot: self._done(slot) for slot in self._lanes}
        return {slot: reached for slot, reached in found.items() if reached is not None}

    def _commit(self, reached: dict[Slot, Reached]) -> list[str]:
        """Commits these; returns the names of the partitions that turned out to be lost."""
        if not reached or self._membership is None:
            return []
        lost = self._membership.commit(reached)
        for slot in reached.keys() - lost:
            self._lanes[slot].committed = reached[slot].offset
        self._counts.commits += len(lost) < len(reached)
        if not lost:
            return []
        self._counts.taken += len(lost)
        self._counts.rebalances += 1
        names = [f"{self._membership.name_of(slot[0])}/{slot[1]}" for slot in sorted(lost)]
        self._drop(lost)
        self.look_soon()
        return names

    def _count_lane(self, lane: Lane) -> None:
        with lane.lock:
            for portion in lane.portions:
                self.count(portion)
        self._counts.filtered += lane.filtered
        self._counts.trimmed += lane.trimmed
        lane.filtered = lane.trimmed = 0

    def _report(self) -> None:
        facts = self.statistics()
        counters = {"received": facts.received, "acknowledged": facts.acknowledged, **facts.latency}
        self._member.report(counters, self._counts.latencies)


def _at(lane: Lane, when: datetime | date) -> int:
    topic = lane.topic
    return topic.offset_at(when, by="time" if topic.time else "append")[lane.partition]
