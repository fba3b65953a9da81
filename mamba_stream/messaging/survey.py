"""What the log's records say of groups: read at one look, counted, and told as plain facts. Changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import numpy as np
import pyarrow.compute as pc

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import NotFound
from mamba_stream.log import Log, Topic
from mamba_stream.messaging.assignment import Slot
from mamba_stream.messaging.books import LogBook
from mamba_stream.messaging.members import CLIENTS, SESSIONS, Client, alive
from mamba_stream.messaging.membership import owners_of
from mamba_stream.messaging.pending import Pending, due_of, unpack
from mamba_stream.messaging.priorities import Priorities, priorities_of
from mamba_stream.messaging.terms import MOST_RUNS
from mamba_stream.runtime.jobs import job_of_group

Place = tuple[str, int]
"""Topic name and partition."""
State = Literal["leased", "waiting", "due"]
SHARED: Final = ("cursor", "pending")
"""Where groups that share topics keep their books: ``cursor/GROUP/NUMBER``, by the topic's number."""

_cursor = msgspec.msgpack.Decoder(tuple[int, int])


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A client that is in a group now.

    Attributes:
        client: What its record says: where it runs, since when, what it receives, what it counted.
        assignment: The partitions that it has, where the group's partitions are divided.
    """

    client: Client
    assignment: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class GroupPartition:
    """How far a group has come in a partition. Numbers are messages, unless they say otherwise.

    Attributes:
        topic: The topic.
        partition: The partition.
        shared: Whether messages are acknowledged one by one; otherwise the group reads in order, and commits how far.
        offset: The next one to read; ``None`` where nothing is committed. What lies before it is done, or open.
        begin: The first offset there is.
        end: The next one to be given.
        backlog: What is not done: new, leased, or waiting.
        leased: Somebody has them.
        waiting: For a retry, or for their time.
        due: To be delivered again now: leases that ended, retries, messages behind others of their key.
        runs: How many records hold what is open.
        owner: The id of the member that has the partition, where partitions are divided.
    """

    topic: str
    partition: int
    shared: bool
    offset: int | None
    begin: int
    end: int
    backlog: int
    leased: int = 0
    waiting: int = 0
    due: int = 0
    runs: int = 0
    owner: str = ""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group as it is.

    Attributes:
        name: Its name.
        job: The job whose progress it shows; ``None`` for groups of consumers and subscribers.
        members: Who is there.
        partitions: How far it has come.
    """

    name: str
    job: str | None
    members: tuple[GroupMember, ...]
    partitions: tuple[GroupPartition, ...]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics of which it knows something, or that its members name."""
        named = {name for member in self.members for name in member.client.interest.topics}
        return tuple(sorted({each.topic for each in self.partitions} | named))

    @property
    def backlog(self) -> int:
        """Messages that are not done."""
        return sum(each.backlog for each in self.partitions)

    @property
    def paused(self) -> tuple[str, ...]:
        """Topics of which it takes no new messages until some of those that are open are done: it has too many."""
        runs: dict[str, int] = defaultdict(int)
        for each in self.partitions:
            runs[each.topic] += each.runs
        return tuple(topic for topic, count in sorted(runs.items()) if count >= MOST_RUNS)


@dataclass(frozen=True, slots=True)
class OpenRun:
    """Messages of a group that are neither new nor done.

    Attributes:
        topic: The topic.
        partition: The partition.
        offsets: Their offsets, ascending.
        attempt: How often they were delivered.
        state: ``leased`` (somebody has them), ``waiting`` (for a retry, or for their time), or ``due`` (to be delivered
            again now).
        until: When the lease ends, or they fall due, in microseconds since the epoch.
        session: Whose lease it is, or was; 0 where they wait.
        member: Who that is, if still there.
    """

    topic: str
    partition: int
    offsets: tuple[int, ...]
    attempt: int
    state: State
    until: int
    session: int
    member: Client | None


@dataclass(frozen=True, slots=True)
class Part:
    """A topic: all that is needed of it to count."""

    name: str
    number: int
    ranges: Mapping[int, tuple[int, int]]


class Survey:
    """The groups of a log, looked at once."""

    def __init__(self, log: Log, now: int) -> None:
        self.log = log
        self.now = now
        # Before the clients: whoever comes after them changes it.
        self.sessions = log.record(*SESSIONS)
        self.records = log.records(CLIENTS)
        self.clients = alive(self.records, self.now)
        ranges: dict[tuple[str, int], dict[int, tuple[int, int]]] = defaultdict(dict)
        for (name, partition), head in log.heads(internal=True).items():
            ranges[name, head.topic][partition] = (head.begin, head.end)
        self.topics = {number: Part(name, number, each) for (name, number), each in ranges.items()}
        # Once, not for each of thousands of groups.
        self._numbers = {each.name: each.number for each in self.topics.values()}
        self._members: dict[str, list[Client]] = defaultdict(list)
        for client in sorted(self.clients.values(), key=lambda each: each.session):
            self._members[client.group].append(client)

    def names(self) -> list[str]:
        """The groups that there are."""
        owned = (space.partition("/")[2] for space in self.log.namespaces("owners/"))
        members = (client.group for client in self.clients.values() if client.group)
        return sorted({*self.log.groups(), *owned, *members, *self.shared_numbers()})

    def check(self, name: str) -> None:
        names = self.names()
        if name not in names:
            raise NotFound(
                f"no group {name!r:.80} in {self.log.place}{did_you_mean(str(name), names)}; "
                + (
                    f"it has {', '.join(names[:8])}{' …' if len(names) > 8 else ''}"
                    if names
                    else "it has none"
                )
            )

    def shared_numbers(self, group: str = "") -> dict[str, set[int]]:
        """By group the numbers of the topics that it shares, deleted ones included."""
        found: dict[str, set[int]] = defaultdict(set)
        for kind in SHARED:
            for space in self.log.namespaces(f"{kind}/{group}{'/' if group else ''}"):
                _, name, number = space.split("/")
                found[name].add(int(number))
        return found

    def shared(self, group: str) -> list[Part]:
        """The topics that a group shares."""
        numbers = self.shared_numbers(group)[group]
        return sorted((self.topics[n] for n in numbers if n in self.topics), key=lambda each: each.name)

    def divided(self, group: str) -> dict[int, dict[int, int | None]]:
        """The topics that a group reads by partition, with the offsets that it committed."""
        found: dict[int, dict[int, int | None]] = defaultdict(dict)
        for topic, partition in owners_of(LogBook(self.log), group):
            if topic in self.topics:
                found[topic][partition] = None
        for (name, partition), offset in self.log.group_offsets(group).items():
            if name in self._numbers:
                found[self._numbers[name]][partition] = offset
        return found

    def chosen(self, group: GroupFacts, topic: str | None) -> dict[str, Topic]:
        """The topics that a group knows of: all, or this one."""
        names = sorted({each.topic for each in group.partitions})
        if topic is not None and topic not in names:
            # Refuses with the log's own words what is not there at all.
            self.log[topic]
            raise NotFound(
                f"group {group.name!r} knows nothing of topic {topic!r}{did_you_mean(topic, names)}; "
                + (f"it has read {', '.join(names)}" if names else "it has read none")
            )
        return {name: self.log[name] for name in names if topic in (None, name)}

    def group(self, name: str) -> GroupFacts:
        owners = {
            slot: owner.member
            for slot, owner in owners_of(LogBook(self.log), name).items()
            if owner.member in self.clients
        }
        return GroupFacts(
            name=name,
            job=job_of_group(self.log, name),
            members=tuple(
                GroupMember(client, self._assignment(client, owners))
                for client in self._members.get(name, ())
            ),
            partitions=tuple(
                sorted(
                    [*self._divided(name, owners), *self._shared(name)],
                    key=lambda each: (each.topic, each.partition),
                )
            ),
        )

    def runs(self, group: str, part: Part) -> dict[str, Pending]:
        space = f"pending/{group}/{part.number}"
        return {key: unpack(value) for key, value in self.log.records(space).items()}

    def priorities(self, topic: int) -> Priorities:
        """The priorities that messages of a topic have, and where each begins, by partition."""
        return priorities_of(self.log, topic)

    def _assignment(self, client: Client, owners: Mapping[Slot, str]) -> tuple[Place, ...]:
        return tuple(
            sorted(
                (self.topics[topic].name, partition)
                for (topic, partition), member in owners.items()
                if member == client.id and topic in self.topics
            )
        )

    def _divided(self, group: str, owners: Mapping[Slot, str]) -> Iterator[GroupPartition]:
        for number, offsets in self.divided(group).items():
            part = self.topics[number]
            for partition, offset in offsets.items():
                begin, end = part.ranges[partition]
                yield GroupPartition(
                    topic=part.name,
                    partition=partition,
                    shared=False,
                    offset=offset,
                    begin=begin,
                    end=end,
                    backlog=max(0, end - max(offset or 0, begin)),
                    owner=owners.get((number, partition), ""),
                )

    def _shared(self, group: str) -> Iterator[GroupPartition]:
        for part in self.shared(group):
            cursors = self._cursors(group, part)
            runs = self.runs(group, part)
            counts: dict[int, dict[State, int]] = {
                p: {"leased": 0, "waiting": 0, "due": 0} for p in part.ranges
            }
            records: dict[int, int] = defaultdict(int)
            for key, run in runs.items():
                records[run.partition] += 1
                counts[run.partition][state_of(key, run, self.now)] += run.count
            for partition, (begin, end) in part.ranges.items():
                count = counts[partition]
                new = self._new(
                    part, partition, {p: max(c, begin) for p, c in cursors[partition].items()}, end
                )
                yield GroupPartition(
                    topic=part.name,
                    partition=partition,
                    shared=True,
                    offset=min(cursors[partition].values()),
                    begin=begin,
                    end=end,
                    backlog=new + sum(count.values()),
                    leased=count["leased"],
                    waiting=count["waiting"],
                    due=count["due"],
                    runs=records[partition],
                )

    def _cursors(self, group: str, part: Part) -> dict[int, dict[int, int]]:
        """By partition and priority, what is new."""
        priorities = self.priorities(part.number)
        stored = {
            key: _cursor.decode(value)
            for key, value in self.log.records(f"cursor/{group}/{part.number}").items()
        }
        found: dict[int, dict[int, int]] = {}
        for partition, (begin, _) in part.ranges.items():
            _, start = stored.get(f"{partition}.0", (begin, begin))
            found[partition] = {
                priority: stored[f"{partition}.{priority}"][0]
                if f"{partition}.{priority}" in stored
                else max(start, begins.get(partition, 0))
                for priority, begins in priorities.items()
            }
        return found

    def _new(self, part: Part, partition: int, cursors: Mapping[int, int], end: int) -> int:
        """How many rows lie behind the cursors of their priorities."""
        low, high = min(cursors.values()), max(cursors.values())
        new = max(0, end - high)
        if low >= min(high, end):
            return new
        topic = self.log[part.name]
        for batch in topic.read(
            start={partition: low},
            end={partition: min(high, end)},
            partitions=[partition],
            columns=["priority"],
        ):
            given = pc.fill_null(batch.data.column(0), 0).to_numpy(zero_copy_only=False)
            for priority, cursor in cursors.items():
                new += int(np.count_nonzero((given == priority) & (batch.offsets >= cursor)))
        return new


def state_of(key: str, run: Pending, now: int) -> State:
    """What is with a run, whose record has this key."""
    if due_of(key) <= now:
        return "due"
    return "leased" if run.session else "waiting"
