"""A member's part in its group: partitions change hands by compare and swap, with nobody in charge.

Every partition of a group has a record (namespace ``owners/<group>``, key ``<topic number>/<partition>``): whose it is,
and a generation that grows whenever it changes hands. Every commit of offsets requires that record to be what it was
when its owner began to read there, so that whoever lost a partition without noticing is refused. The lease of an owner
is its client's record (``members.py``): when that ended, anybody may take over. A partition of somebody who lives is
given up by itself, with its offsets, in the same change set.

No thread, and time is an argument. Nobody waits for anybody but an owner's lease: a swap that fails says that somebody
else's succeeded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidName, PreconditionFailed, StaleLease, TopicNotFound
from mamba_stream.log import Log, Transaction
from mamba_stream.messaging.assignment import Slot, assign
from mamba_stream.messaging.books import Book, Change, Place
from mamba_stream.messaging.interest import Interest
from mamba_stream.messaging.members import BALANCED, CLIENTS, Client, alive, place_of, sweep

LONGEST_GROUP: Final = 150
"""A group's name is part of the names of its records, which have at most 200 bytes."""
_TRIES: Final = 8
"""So often a step is tried in a row, where others change the same records."""


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Whose a partition is.

    Attributes:
        member: The client's id; empty where it was given up.
        generation: How often it has changed hands.
    """

    member: str
    generation: int


_decoder = msgspec.msgpack.Decoder(Owner)
_FREE: Final = Owner("", 0)


def owners_of(book: Book, group: str) -> dict[Slot, Owner]:
    """Who has which partition, or had it last."""
    return {slot: _decoder.decode(value) for slot, value in _raw_owners(book, group).items()}


def check_group(group: str) -> str:
    """The group's name, if it is allowed."""
    check_name(group, "group")
    if len(group) > LONGEST_GROUP:
        raise InvalidName(f"group name {group[:24]!r}… is longer than {LONGEST_GROUP}")
    return group


class Topics(Protocol):
    """What there is to be read."""

    def wanted(self, interests: Iterable[Interest]) -> dict[str, tuple[int, int]]:
        """Number and partitions of every topic that is in one of these interests, by name."""
        ...

    def number(self, name: str) -> int | None:
        """The number of the topic that now has this name."""
        ...

    def existing(self, numbers: Collection[int]) -> set[int]:
        """Those of these numbers that a topic has now."""
        ...


class LogTopics:
    """The topics of a log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def wanted(self, interests: Iterable[Interest]) -> dict[str, tuple[int, int]]:
        interests = list(interests)
        names = {name for interest in interests for name in interest.named}
        patterns = [interest for interest in interests if interest.open]
        if patterns:
            names |= {name for name in self._log.topics() if any(each.wants(name) for each in patterns)}
        found = {}
        for name in names:
            try:
                topic = self._log[name]
            except TopicNotFound:
                continue
            found[name] = (topic.number, topic.partitions)
        return found

    def number(self, name: str) -> int | None:
        try:
            return self._log[name].number
        except TopicNotFound:
            return None

    def existing(self, numbers: Collection[int]) -> set[int]:
        return {head.topic for head in self._log.heads(internal=True).values()} & {*numbers}


@dataclass(slots=True)
class OffsetChange(Change):
    """A change that also moves offsets of a group.

    Attributes:
        group: The group.
        offsets: The next offset to read, by (topic, partition).
        numbers: Which topics are meant: one that was deleted and made again is another.
        topics: Tells what number a name has.
    """

    group: str = ""
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    topics: Topics | None = None

    def __bool__(self) -> bool:
        return bool(self.records or self.appends or self.offsets)

    def into(self, transaction: Transaction) -> None:
        Change.into(self, transaction)
        if not self.offsets:
            return
        transaction.commit_offsets(self.group, self.offsets)
        # Numbers are never given twice: what has this one now had it when the transaction looked.
        for name, number in self.numbers.items():
            if self.topics is not None and self.topics.number(name) != number:
                raise TopicNotFound(f"topic {name!r} was deleted; nothing was committed")


@dataclass(frozen=True, slots=True)
class Reached:
    """How far we have come in a partition.

    Attributes:
        offset: The next offset to read.
        generation: The one in which we came there. If the partition was somebody else's since, it counts no more, even
            where it is ours again.
    """

    offset: int
    generation: int


Done = Callable[[Slot], Reached | None]
"""How far a partition is done; ``None`` where there is nothing to be committed of it."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What a step found; what is ours now, the membership itself tells.

    Attributes:
        taken: Partitions that somebody else took from us: what was not committed is delivered again there.
        settled: Whether we have everything that is to be ours.
    """

    taken: frozenset[Slot]
    settled: bool


class Membership:
    """What a member has of its group's partitions, and how that changes.

    Args:
        book: The records of clients and of the group.
        topics: What there is to be read.
        group: The group.
        member: The id of the member's client record.
    """

    def __init__(self, book: Book, topics: Topics, group: str, member: str) -> None:
        self._book = book
        self._topics = topics
        self._group = group
        self._member = member
        self._owned: dict[Slot, bytes] = {}
        self._names: dict[int, str] = {}
        self._swept = False

    @property
    def owned(self) -> frozenset[Slot]:
        """The partitions that are ours, as far as we know."""
        return frozenset(self._owned)

    def name_of(self, topic: int) -> str:
        """The name of a topic that we have, or had, partitions of."""
        return self._names[topic]

    def generation(self, slot: Slot) -> int | None:
        """How often a partition of ours changed hands; ``None`` where it is not ours. Ask before reading offsets."""
        value = self._owned.get(slot)
        return None if value is None else _decoder.decode(value).generation

    def step(
        self,
        now: int,
        interest: Interest,
        done: Done,
        pinned: Collection[tuple[str, int]] | None = None,
    ) -> Moves:
        """Looks around, gives up what is to go elsewhere, and takes what is to be ours and nobody holds.

        Where it raises, some of that may have happened: compare generations.

        Args:
            now: Microseconds since the epoch.
            interest: The topics that we want.
            done: How far a partition is done that is given up; ``None`` leaves its offset as it is.
            pinned: (topic, partition) to have instead of what the group's balance gives; ``interest`` is then ignored.
        """
        taken = set[Slot]()
        wanted = frozenset[Slot]()
        for _ in range(_TRIES):
            clients = self._book.records(CLIENTS)
            raw = _raw_owners(self._book, self._group)
            taken |= self._recognise(raw)
            living = alive(clients, now)
            wanted = self._wanted(living, raw, interest, pinned)
            change, claimed = self._planned(clients, living, raw, wanted, done)
            try:
                if change:
                    self._book.commit(change)
            except (PreconditionFailed, TopicNotFound):
                # Somebody else was faster, or a topic went: look again.
                continue
            self._owned = {slot: value for slot, value in self._owned.items() if slot in wanted} | claimed
            # Our own record is ours to renew, however late.
            sweep(self._book, {key: clients[key] for key in clients if key != self._member}, now)
            self._sweep_gone(raw, living)
            break
        return Moves(frozenset(taken), settled=wanted <= self._owned.keys())

    def commit(self, reached: Mapping[Slot, Reached]) -> set[Slot]:
        """Commits how far we have come; returns the partitions that are not ours, or were not in between."""
        lost = self._lost(reached)
        while left := {slot: each for slot, each in reached.items() if slot not in lost}:
            try:
                self._book.commit(self._fenced(left))
                break
            except (PreconditionFailed, TopicNotFound):
                gone = self._gone(left)
                if not gone:
                    raise
                lost |= gone
        for slot in lost:
            self._owned.pop(slot, None)
        return lost

    def commit_with(self, transaction: Transaction, reached: Mapping[Slot, Reached]) -> None:
        """Commits a transaction together with how far we have come.

        Raises:
            StaleLease: A partition is not ours any more, or was not in between; nothing was committed.
        """
        lost = self._lost(reached)
        if lost:
            transaction.abort()
            raise StaleLease(self._taken(lost))
        try:
            self._book.commit(self._fenced(reached), transaction)
        except (PreconditionFailed, TopicNotFound) as error:
            lost = self._gone(reached)
            if not lost:
                raise
            raise StaleLease(self._taken(lost)) from error

    def leave(self, done: Done) -> None:
        """Gives everything up, with how far it is done."""
        self._recognise(_raw_owners(self._book, self._group))
        while self._owned:
            change = self._change()
            for slot in self._owned:
                self._give(change, slot, done)
            try:
                self._book.commit(change)
                self._owned.clear()
            except (PreconditionFailed, TopicNotFound):
                self._recognise(_raw_owners(self._book, self._group))

    def _sweep_gone(self, raw: Mapping[Slot, bytes], living: Collection[str]) -> None:
        """Removes, once, what was left of topics that were deleted while nobody was there: no number comes again."""
        if self._swept:
            return
        self._swept = True
        over = {
            self._place(slot): value
            for slot, value in raw.items()
            if slot not in self._owned and _decoder.decode(value).member not in living
        }
        there = self._topics.existing({slot[0] for slot in raw}) if over else ()
        over = {place: value for place, value in over.items() if int(place[1].partition("/")[0]) not in there}
        if over:
            with contextlib.suppress(PreconditionFailed):
                self._book.commit(Change(requires={**over}, records=dict.fromkeys(over)))

    def _recognise(self, raw: Mapping[Slot, bytes]) -> set[Slot]:
        """What the records say is ours, is ours; returns what is not so any more.

        Also where we do not remember: a commit may have happened, although we were not told.
        """
        ours = {slot: value for slot, value in raw.items() if _decoder.decode(value).member == self._member}
        taken = {slot for slot, value in self._owned.items() if ours.get(slot) != value}
        self._owned = ours
        return taken

    def _wanted(
        self,
        living: Mapping[str, Client],
        raw: Mapping[Slot, bytes],
        interest: Interest,
        pinned: Collection[tuple[str, int]] | None,
    ) -> frozenset[Slot]:
        """The partitions that are to be ours, as things are."""
        if pinned is not None:
            topics = self._known(self._topics.wanted([Interest(tuple({name for name, _ in pinned}))]))
            return frozenset(
                (topics[name][0], partition)
                for name, partition in pinned
                if name in topics and partition < topics[name][1]
            )
        interests = {
            client.id: client.interest
            for client in living.values()
            if client.group == self._group and client.reads == BALANCED
        }
        # Even where our lease ended: evidently we are here.
        interests[self._member] = interest
        topics = self._known(self._topics.wanted(set(interests.values())))
        numbers = {
            each: frozenset(number for name, (number, _) in topics.items() if each.wants(name))
            for each in set(interests.values())
        }
        owners = {slot: _decoder.decode(value).member for slot, value in raw.items()}
        target = assign(
            {member: numbers[each] for member, each in interests.items()},
            dict(topics.values()),
            owners,
        )
        # Whoever was assigned a partition keeps it as long as it lives, whatever our balance says.
        kept = living.keys() - interests.keys()
        return frozenset(
            slot for slot, member in target.items() if member == self._member and owners.get(slot) not in kept
        )

    def _planned(
        self,
        clients: Mapping[str, bytes],
        living: Mapping[str, Client],
        raw: Mapping[Slot, bytes],
        wanted: Collection[Slot],
        done: Done,
    ) -> tuple[OffsetChange, dict[Slot, bytes]]:
        """The change that gives up and claims, and what is claimed."""
        change = self._change()
        for slot in self._owned:
            if slot not in wanted:
                self._give(change, slot, done)
        claimed: dict[Slot, bytes] = {}
        for slot in wanted - self._owned.keys():
            known = raw.get(slot)
            owner = _FREE if known is None else _decoder.decode(known)
            if owner.member:
                if owner.member in living:
                    continue
                # Should its lease be renewed before we are through, it keeps what it has.
                change.requires[place_of(owner.member)] = clients.get(owner.member)
            claimed[slot] = msgspec.msgpack.encode(Owner(self._member, owner.generation + 1))
            place = self._place(slot)
            change.requires[place] = known
            change.records[place] = claimed[slot]
        return change, claimed

    def _give(self, change: OffsetChange, slot: Slot, done: Done) -> None:
        value, place = self._owned[slot], self._place(slot)
        change.requires[place] = value
        if not self._there(slot):
            change.records[place] = None
            return
        generation = _decoder.decode(value).generation
        change.records[place] = msgspec.msgpack.encode(Owner("", generation))
        reached = done(slot)
        if reached is not None and reached.generation == generation:
            self._move(change, slot, reached.offset)

    def _fenced(self, reached: Mapping[Slot, Reached]) -> OffsetChange:
        """The change that moves offsets of partitions as long as they are ours."""
        change = self._change()
        for slot, each in reached.items():
            change.requires[self._place(slot)] = self._owned[slot]
            self._move(change, slot, each.offset)
        return change

    def _move(self, change: OffsetChange, slot: Slot, offset: int) -> None:
        name = self._names[slot[0]]
        change.offsets[name, slot[1]] = offset
        change.numbers[name] = slot[0]

    def _change(self) -> OffsetChange:
        return OffsetChange(group=self._group, topics=self._topics)

    def _lost(self, reached: Mapping[Slot, Reached]) -> set[Slot]:
        """Those that are not ours, as far as we know, in the generation in which we came there."""
        return {slot for slot, each in reached.items() if self.generation(slot) != each.generation}

    def _gone(self, slots: Iterable[Slot]) -> set[Slot]:
        """Those that are not ours any more, or whose topics were deleted."""
        return {
            slot
            for slot in slots
            if self._book.get(self._place(slot)) != self._owned.get(slot) or not self._there(slot)
        }

    def _there(self, slot: Slot) -> bool:
        name = self._names.get(slot[0])
        return name is not None and self._topics.number(name) == slot[0]

    def _known(self, topics: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        self._names.update((number, name) for name, (number, _) in topics.items())
        return topics

    def _place(self, slot: Slot) -> Place:
        return namespace_of(self._group), f"{slot[0]}/{slot[1]}"

    def _taken(self, slots: Collection[Slot]) -> str:
        shown = ", ".join(
            f"{self._names.get(topic, topic)}/{partition}" for topic, partition in sorted(slots)
        )
        return (
            f"group {self._group!r}: {shown} (topic/partition) belongs to another consumer now, since this one was "
            "silent for longer than its session_timeout or max_poll_interval, or the topic is gone; nothing was "
            "committed, and what was not committed before is delivered again, there"
        )


def namespace_of(group: str) -> str:
    """Where the owners of a group's partitions are kept."""
    return f"owners/{group}"


def _raw_owners(book: Book, group: str) -> dict[Slot, bytes]:
    found = {}
    for key, value in book.records(namespace_of(group)).items():
        topic, _, partition = key.partition("/")
        found[int(topic), int(partition)] = value
    return found
