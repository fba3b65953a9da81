"""Groups from outside: which there are, how far they have come, who is in them; and moving or deleting them.

Everything is read from the log's records, and changed in one change set that requires them to be as they were read.
There is no thread, and nobody needs to be there: a group that nobody is in stays what it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final

import msgspec

from mamba_stream.core.clock import Clock
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import (
    GroupInUse,
    InvalidInput,
    PartitionNotFound,
    PreconditionFailed,
    TopicNotFound,
)
from mamba_stream.log import Log, Topic
from mamba_stream.messaging.accounts import cursor_namespace, pending_namespace
from mamba_stream.messaging.books import Change, LogBook
from mamba_stream.messaging.members import SESSIONS, Client, place_of
from mamba_stream.messaging.membership import Owner, namespace_of, owners_of
from mamba_stream.messaging.pending import due_of, unpack
from mamba_stream.messaging.survey import SHARED, GroupFacts, OpenRun, Place, Survey, state_of

To = str | int | datetime | date
"""Where a group is to go on: ``"earliest"``, ``"latest"``, an offset or a time."""

_TRIES: Final = 32
_FEW: Final = 4


@dataclass(frozen=True, slots=True)
class Reset:
    """Where a group goes on.

    Attributes:
        topic: The topic.
        partition: The partition.
        before: The offset that it would have read next; ``None``: it had not begun.
        after: The offset that it reads next.
        dropped: Messages that were open, and are not any more.
    """

    topic: str
    partition: int
    before: int | None
    after: int
    dropped: int


def list_groups(log: Log, *, clock: Clock | None = None) -> list[GroupFacts]:
    """All groups, by name."""
    look = Survey(log, (clock or log.clock).now())
    return [look.group(name) for name in look.names()]


def describe_group(log: Log, name: str, *, clock: Clock | None = None) -> GroupFacts:
    """One group.

    Raises:
        NotFound: The log knows of none with this name.
    """
    look = Survey(log, (clock or log.clock).now())
    look.check(name)
    return look.group(name)


def open_runs(
    log: Log, name: str, *, topic: str | None = None, clock: Clock | None = None
) -> Iterator[OpenRun]:
    """What is open in a group that shares topics, in the order in which it falls due.

    Args:
        log: The log.
        name: The group.
        topic: Only this topic.
        clock: Tells the time; for tests.

    Raises:
        NotFound: There is no such group, or it knows nothing of this topic.
    """
    look = Survey(log, (clock or log.clock).now())
    look.check(name)
    chosen = look.chosen(look.group(name), topic)
    members = {client.session: client for client in look.clients.values()}
    found = [
        (key, each.name, run)
        for each in look.shared(name)
        if each.name in chosen
        for key, run in look.runs(name, each).items()
    ]
    return (
        OpenRun(
            topic=of,
            partition=run.partition,
            offsets=tuple(run.offsets.tolist()),
            attempt=run.attempt,
            state=state_of(key, run, look.now),
            until=due_of(key),
            session=run.session,
            member=members.get(run.session) if run.session else None,
        )
        for key, of, run in sorted(found, key=lambda each: each[0])
    )


def reset_group(
    log: Log,
    name: str,
    to: To,
    *,
    topic: str | None = None,
    partitions: Collection[int] | None = None,
    force: bool = False,
    dry_run: bool = False,
    clock: Clock | None = None,
) -> list[Reset]:
    """Has a group go on from elsewhere, back or forth: all of it in one change set.

    What was open in these partitions is not any more: what lies before the new position counts as done, and what lies
    behind it is new again, as its first attempt.

    Args:
        log: The log.
        name: The group.
        to: ``"earliest"``, ``"latest"``, an offset, or a time: the first row that reaches it by the topic's time, or
            when it was appended.
        topic: Only this topic.
        partitions: Only these partitions of it.
        force: Even while members are there: they go on from the new position as well, and what they have in hand is
            delivered again.
        dry_run: Only say what would happen.
        clock: Tells the time; for tests.

    Raises:
        NotFound: There is no such group, or it knows nothing of this topic.
        GroupInUse: Members are there.
        InvalidInput: The offset is not one of a partition, or the group is a job's.
    """
    if partitions is not None and topic is None:
        raise InvalidInput(f"partitions={list(partitions)}: say of which topic")
    if isinstance(to, str) and to not in ("earliest", "latest"):
        raise InvalidInput(f"to={to!r}: choose 'earliest', 'latest', an offset or a datetime")
    if topic is not None:
        # Refused in the log's own words, and at once.
        log[topic]
    resets: list[Reset] = []

    def plan(look: Survey, group: GroupFacts) -> _Plan:
        plan = _Plan()
        resets.clear()
        chosen = look.chosen(group, topic)
        shared = {each.number for each in look.shared(name)}
        by_partition = look.divided(name)
        for of in chosen.values():
            numbers = _checked(of, partitions)
            targets = _targets(of, to, numbers)
            known = {each.partition: each for each in group.partitions if each.topic == of.name}
            dropped: dict[int, int] = defaultdict(int)
            if of.number in shared:
                _reset_shared(look, name, of, targets, plan.change, dropped)
            if of.number in by_partition:
                plan.offsets |= {(of.name, p): offset for p, offset in targets.items()}
                plan.numbers[of.name] = of.number
                _free(log, name, plan.change, {(of.number, p) for p in targets})
            for p, offset in targets.items():
                before = known[p].offset if p in known else None
                resets.append(Reset(of.name, p, before, offset, dropped[p]))
        return plan

    _apply(log, name, plan, clock, force=force, dry_run=dry_run)
    return resets


def delete_group(log: Log, name: str, *, clock: Clock | None = None) -> None:
    """Deletes a group with all that is known of it; whoever takes its name is a new one.

    Raises:
        NotFound: There is no such group.
        GroupInUse: Members are there.
        InvalidInput: It is a job's.
    """

    def plan(look: Survey, group: GroupFacts) -> _Plan:
        plan = _Plan(forget=list(log.group_offsets(name)))
        numbers = look.shared_numbers(name)[name]
        spaces = [f"{kind}/{name}/{number}" for kind in SHARED for number in numbers]
        for space in (namespace_of(name), *spaces):
            for key, value in log.records(space).items():
                plan.change.requires[space, key] = value
                plan.change.records[space, key] = None
        for number in numbers:
            # Where those who bound topics learn of the groups that share them.
            plan.change.records[f"groups/{number}", name] = None
        return plan

    _apply(log, name, plan, clock)


@dataclass(slots=True)
class _Plan:
    change: Change = field(default_factory=Change)
    offsets: dict[Place, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    forget: list[Place] = field(default_factory=list)


def _apply(
    log: Log,
    name: str,
    make: Callable[[Survey, GroupFacts], _Plan],
    clock: Clock | None,
    *,
    force: bool = False,
    dry_run: bool = False,
) -> None:
    """Commits what is planned for a group as it is; looks again where somebody else changed it meanwhile."""
    for _ in range(_TRIES):
        look = Survey(log, (clock or log.clock).now())
        look.check(name)
        group = look.group(name)
        if group.job is not None:
            raise InvalidInput(
                f"group {name!r} only shows how far the job {group.job!r} has come: to have it start over, run "
                f"mamba-stream job reset {group.job}"
            )
        if group.members and not (force or dry_run):
            raise GroupInUse(f"{_busy(group)}: stop them first")
        try:
            plan = make(look, group)
            if dry_run:
                return
            if not force:
                plan.change.requires[SESSIONS] = look.sessions
                _bury(look, name, plan.change)
            _commit(log, name, plan)
        except (PreconditionFailed, TopicNotFound):
            continue
        return
    raise PreconditionFailed(
        f"group {name!r} changed {_TRIES} times while it was looked at, and nothing was done: its members are at work; "
        "stop them, or try again"
    )


def _commit(log: Log, name: str, plan: _Plan) -> None:
    transaction = log.transaction()
    plan.change.into(transaction)
    transaction.commit_offsets(name, plan.offsets)
    transaction.delete_offsets(name, [place for place in plan.forget if place[0] in log])
    for topic, number in plan.numbers.items():
        # Numbers are never given twice: what has this one now had it when the transaction looked.
        if log[topic].number != number:
            raise TopicNotFound(f"topic {topic!r} was deleted; nothing was committed")
    transaction.commit()


def _bury(look: Survey, name: str, change: Change) -> None:
    """Members whose leases ended are gone, if they still are when this is committed."""
    for key, value in look.records.items():
        if key in look.clients:
            continue
        try:
            client = msgspec.msgpack.decode(value, type=Client)
        except msgspec.MsgspecError:
            continue
        if client.group == name:
            change.requires[place_of(key)] = value
            change.records[place_of(key)] = None


def _free(log: Log, name: str, change: Change, slots: Collection[tuple[int, int]]) -> None:
    """Takes partitions from whoever has them, or thinks so: what they commit later is refused."""
    for slot, owner in owners_of(LogBook(log), name).items():
        if slot in slots:
            place = namespace_of(name), f"{slot[0]}/{slot[1]}"
            change.requires[place] = msgspec.msgpack.encode(owner)
            change.records[place] = msgspec.msgpack.encode(Owner("", owner.generation + 1))


def _reset_shared(
    look: Survey,
    name: str,
    topic: Topic,
    targets: Mapping[int, int],
    change: Change,
    dropped: dict[int, int],
) -> None:
    log, cursors, runs = look.log, cursor_namespace(name, topic), pending_namespace(name, topic)
    for partition in targets:
        for priority in look.priorities(topic.number):
            change.requires[cursors, f"{partition}.{priority}"] = None
    for key, value in log.records(cursors).items():
        if int(key.partition(".")[0]) in targets:
            change.requires[cursors, key] = value
            change.records[cursors, key] = None
    # After the cursors: no run comes without one of them, or another run, changing.
    for key, value in log.records(runs).items():
        run = unpack(value)
        if run.partition in targets:
            change.requires[runs, key] = value
            change.records[runs, key] = None
            dropped[run.partition] += run.count
    for partition, offset in targets.items():
        change.records[cursors, f"{partition}.0"] = msgspec.msgpack.encode((offset, offset))


def _checked(topic: Topic, partitions: Collection[int] | None) -> list[int]:
    if partitions is None:
        return list(range(topic.partitions))
    for number in partitions:
        if not is_whole(number, 0, topic.partitions - 1):
            raise PartitionNotFound(
                f"topic {topic.name!r} has no partition {number}: it has {topic.partitions}, counted from 0"
            )
    return sorted({int(number) for number in partitions})


def _targets(topic: Topic, to: To, partitions: Iterable[int]) -> dict[int, int]:
    offsets = topic.offsets()
    if to == "earliest":
        return {p: offsets[p][0] for p in partitions}
    if to == "latest":
        return {p: offsets[p][1] for p in partitions}
    if isinstance(to, datetime | date):
        found = topic.offset_at(to, by="time" if topic.time else "append")
        return {p: found[p] for p in partitions}
    for p in partitions:
        begin, end = offsets[p]
        if not is_whole(to, begin, end):
            raise InvalidInput(
                f"topic {topic.name!r}, partition {p}: {to!r} is not within its offsets, {begin}..{end}; choose "
                "another, 'earliest' or 'latest', or name the topic and its partitions"
            )
    return dict.fromkeys(partitions, int(to))


def _busy(group: GroupFacts) -> str:
    shown = [f"{each.client.host}, pid {each.client.pid}" for each in group.members]
    more = f" and {len(shown) - _FEW} more" if len(shown) > _FEW else ""
    return f"group {group.name!r} has members at work ({'; '.join(shown[:_FEW])}{more})"
