"""What belongs to whom: the engine's books of a group, a job or a topic are its own, and nobody writes rules for them.

Messaging and jobs keep small records in namespaces of theirs (``cursor/GROUP/NUMBER``, ``jobs`` ...), and jobs topics
whose names begin with ``_``. Users write rules for topics and groups only; here is what each of these needs of them.
Any other namespace is the users' own, and takes a rule for namespaces, or ``admin`` on the log.

Where groups stand in a topic may be seen by whoever may see the topic: a sender to a bounded topic must know of all
groups what they still need, or it would let go of messages that a group whom it cannot see has yet to read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, Protocol

import msgspec

from mamba_stream.core.changes import ChangeSet, Record
from mamba_stream.core.clock import Clock
from mamba_stream.errors import TopicNotFound
from mamba_stream.server.gate import Caller, Gate, Kind, Need, Operation

Act = Literal["read", "write", "delete"]
"""What is done with a record; to require that it has a value is to read it."""

EVERYBODY: Final[tuple[Need, ...]] = ()
"""Nothing is needed beyond being known."""
SHARED: Final = frozenset(
    {"clients", "jobs", "jobs.outputs", "jobs.resets", "jobs.runs", "jobs.savepoints", "bounds", "priorities"}
)
"""Namespaces in which every record is somebody else's: whoever lists them gets those that he may see."""
SERVER: Final = "server."
"""How the server's own namespaces begin."""

_SESSIONS: Final = ("sessions", "next")
_ADMIN: Final = Need("admin", "log")
_STATE: Final = "_state."
_SLACK: Final = 2_000_000
"""Microseconds by which clocks may differ as to whether a lease is over."""
_BACK: Final = 10_000_000


class Lookup(Protocol):
    """What is asked of the log."""

    def topic_name(self, number: int) -> str | None:
        """The name of the topic of this number; ``None`` where there is none (any more)."""
        ...

    def record(self, namespace: str, key: str) -> bytes | None:
        """One small value."""
        ...


class _Client(msgspec.Struct):
    """What matters here of a client's record."""

    group: str = ""
    until: int = 0
    lease: int = 0


_clients = msgspec.msgpack.Decoder(_Client)


class Belongings:
    """Says what is needed to touch things of the engine's.

    Args:
        lookup: The log.
        clock: Tells the time by which leases end.
    """

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._lookup = lookup
        self._clock = clock

    def record(self, act: Act, namespace: str, key: str, value: bytes | None = None) -> tuple[Need, ...]:
        """What is needed to read, write or delete a record.

        Args:
            act: What is done with it.
            namespace: Its namespace.
            key: Its key; ``""`` for all of a namespace that is not of :data:`SHARED`.
            value: What is written.
        """
        space, _, rest = namespace.partition("/")
        match space:
            case "owners" if rest:
                return (_part(act, rest),)
            case "cursor" | "pending" if "/" in rest:
                group, _, number = rest.rpartition("/")
                return self._in_topic(act, group, number)
            case "groups" if rest:
                return (
                    *(() if act == "read" else (_part(act, key),)),
                    *self._of_topic(act, rest, "read"),
                )
            case "jobs.tasks" | "jobs.requests" | "jobs.answers" | "jobs.journal" if rest:
                # Whoever runs the job may write what its tasks have come to, what happened to it and what is asked of
                # it, and so may take it away.
                return (_of_job("read" if act == "read" else "write", rest),)
            case "jobs.kept" if rest:
                return (_of_job(act, rest),)
            case "letters" if rest:
                return self._of_topic(act, rest, "delete")
        match namespace:
            case "clients":
                return self._of_client(act, key, value)
            case "sessions" if key == _SESSIONS[1]:
                return EVERYBODY
            case "priorities":
                return self._of_topic(act, key, "write")
            case "bounds":
                number, turn, _ = key.partition(".turn")
                return self._of_topic(act, number, "write" if turn else "create")
            case "jobs":
                return (_of_job(act, key),)
            case "jobs.resets" | "jobs.runs":
                # The next run takes it away, as it goes, or writes another.
                return (_of_job("read" if act == "read" else "write", key),)
            case "jobs.outputs" | "jobs.savepoints":
                return (_of_job(act, key.partition("/")[0]),)
        return (_ADMIN,) if namespace.startswith(SERVER) else (Need(act, "namespace", namespace),)

    def changed(self, change: ChangeSet) -> list[Need]:
        """All that a change set needs, in the order in which it says it, and nothing twice.

        Raises:
            TopicNotFound: It names the number of a topic that is not there.
        """
        needs: list[Need] = [Need("create", "topic", topic.name) for topic in change.creates]
        needs += [self.numbered(number, "delete") for number in change.drops]
        written = [each.topic for each in change.appends]
        written += [each.topic for each in change.sequences]
        # Of a topic that is gone there is nothing to forget.
        written += [each.topic for each in change.forgets if self._lookup.topic_name(each.topic) is not None]
        for number in dict.fromkeys(written):
            needs.append(self.numbered(number, "write"))
        needs += [self.numbered(alter.topic, "admin") for alter in change.alters]
        needs += [self.numbered(number, "admin") for number in change.ends]
        needs += [self.trim(trim.topic) for trim in change.trims]
        for offset in change.offsets:
            needs += self.offset(offset.group, offset.topic, offset.offset)
        for record in change.records:
            act: Act = "delete" if record.value is None else "write"
            needs += self.record(act, record.namespace, record.key, record.value)
            if (record.namespace, record.key) == _SESSIONS and not _is_turn(record, change.requires):
                needs.append(_ADMIN)
        for required in change.requires:
            needs += self.record("read", required.namespace, required.key)
        return [*dict.fromkeys(needs)]

    def offset(self, group: str, topic: int, offset: int | None) -> tuple[Need, ...]:
        """What is needed to commit the offset of a group, or (``None``) to forget it."""
        if offset is None:
            return (Need("delete", "group", group),)
        return self._in_topic("write", group, str(topic))

    def trim(self, topic: int) -> Need:
        """What is needed to remove the first rows of a topic: senders to a bounded one make room there."""
        bounded = self._lookup.record("bounds", str(topic)) is not None
        return self.numbered(topic, "write" if bounded else "delete")

    def numbered(self, number: int, operation: Operation) -> Need:
        """What is needed to do something with the topic of a number.

        Raises:
            TopicNotFound: There is none, which must not pass for harmless: one that is made meanwhile may get it.
        """
        name = self._lookup.topic_name(number)
        if name is None:
            raise TopicNotFound(f"no topic has the number {number}: it was deleted")
        return Need(operation, "topic", name)

    def _in_topic(self, act: Act, group: str, number: str) -> tuple[Need, ...]:
        """The books of a group about a topic, which are nothing to anybody else once it is gone."""
        topic = self._named(number)
        if act == "read":
            return (_part(act, group),) if topic is None else (Need("describe", "topic", topic),)
        return (_part(act, group), *(() if topic is None else (Need("read", "topic", topic),)))

    def _of_topic(self, act: Act, number: str, operation: Operation) -> tuple[Need, ...]:
        """The books of a topic.

        What is left of one that is gone may be swept by anybody; but nothing may be written for one that is to come.
        """
        topic = self._named(number)
        if topic is not None:
            return (Need("describe" if act == "read" else operation, "topic", topic),)
        return (_ADMIN,) if act == "write" else EVERYBODY

    def _named(self, number: str) -> str | None:
        return self._lookup.topic_name(int(number)) if _is_number(number) else None

    def _of_client(self, act: Act, key: str, value: bytes | None) -> tuple[Need, ...]:
        stored = self._lookup.record("clients", key) if key else None
        groups = {_client(each).group for each in (stored, value) if each is not None}
        if act == "delete" and stored is not None and self._over(_client(stored)):
            return EVERYBODY
        if act == "read" and groups == {""}:
            return (Need("describe", "log"),)
        return tuple(_part(act, group) for group in sorted(groups) if group)

    def _over(self, client: _Client) -> bool:
        """Whether its lease is: whoever sees that sweeps it, of whichever group it was."""
        now = self._clock.now()
        late = bool(client.lease) and client.until > now + client.lease + max(client.lease, _BACK)
        return client.until <= now + _SLACK or late


def need_of_topic(operation: Operation, name: str) -> Need:
    """What is needed to do this with a topic."""
    return of_internal_topic(Need(operation, "topic", name))


def need_of_lock(operation: Operation, space: str, name: str) -> Need:
    """What is needed to take a lock, or to see who has it."""
    return _of_lock("read" if operation == "describe" else "write", space, name)


def of_internal_topic(need: Need) -> Need:
    """What a need becomes: a topic of the engine's own is its job's, or the log's; anything else is what it is."""
    if need.kind != "topic" or not need.name.startswith("_"):
        return need
    if not need.name.startswith(_STATE):
        return _ADMIN
    return _of_job("read" if need.operation == "describe" else "write", need.name.removeprefix(_STATE))


def visible_records(
    gate: Gate, caller: Caller, belongings: Belongings, namespace: str, records: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Those of the records of a shared namespace that a caller may see."""
    asked = {key: belongings.record("read", namespace, key) for key in records}
    may = _visible(gate, caller, asked.values())
    return {key: value for key, value in records.items() if may(asked[key])}


def visible_namespaces(
    gate: Gate, caller: Caller, belongings: Belongings, namespaces: Iterable[str]
) -> list[str]:
    """Those of the namespaces that a caller may see; shared ones always."""
    asked = {
        name: EVERYBODY if name in SHARED else belongings.record("read", name, "") for name in namespaces
    }
    may = _visible(gate, caller, asked.values())
    return [name for name, needs in asked.items() if may(needs)]


def visible_offsets(
    gate: Gate, caller: Caller, group: str, offsets: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], int]:
    """Those of a group's offsets, by (topic, partition), that a caller may see: all, or those in topics it may see."""
    topics = {topic for topic, _ in offsets}
    seen = topics if gate.visible(caller, "group", [group]) else {*gate.visible(caller, "topic", topics)}
    return {place: offset for place, offset in offsets.items() if place[0] in seen}


def visible_groups(
    gate: Gate, caller: Caller, groups: Iterable[str], topics_of: Callable[[str], Iterable[str]]
) -> list[str]:
    """The groups that a caller may know of: those that rules name, and those that stand in a topic that he may see.

    Args:
        gate: Knows the rules.
        caller: Who asks.
        groups: Which there are.
        topics_of: The topics in which a group has committed offsets.
    """
    groups = list(groups)
    seen = {*gate.visible(caller, "group", groups)}
    return [group for group in groups if group in seen or gate.visible(caller, "topic", topics_of(group))]


def _visible(gate: Gate, caller: Caller, asked: Iterable[Iterable[Need]]) -> Callable[[Iterable[Need]], bool]:
    """Whether needs are met, looked up for all at once."""
    names: dict[Kind, set[str]] = defaultdict(set)
    for needs in asked:
        for need in needs:
            names[need.kind].add(need.name)
    seen = {kind: frozenset(gate.visible(caller, kind, each)) for kind, each in names.items()}
    return lambda needs: all(need.name in seen[need.kind] for need in needs)


def _of_lock(act: Act, space: str, name: str) -> Need:
    return _of_job(act, name) if space == "jobs" else Need(act, "namespace", f"lock/{space}")


def _part(act: Act, group: str) -> Need:
    """To take part in a group is to ``read`` it: its members change its books as they go."""
    return Need("describe" if act == "read" else "read", "group", group)


def _of_job(act: Act, job: str) -> Need:
    if not job:
        return _ADMIN
    operation: Operation = "describe" if act == "read" else "read" if act == "write" else "delete"
    return Need(operation, "group", f"job.{job}")


def _client(value: bytes) -> _Client:
    try:
        return _clients.decode(value)
    except msgspec.MsgspecError:
        # Nobody's: neither a version that is to come nor a forger gets at others' with it.
        return _Client()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _is_turn(record: Record, requires: Iterable[Record]) -> bool:
    """Whether a session is taken as clients do: one more than what it must have been."""
    for required in requires:
        if (required.namespace, required.key) == _SESSIONS:
            before = b"1" if required.value is None else required.value
            return before.isdigit() and len(before) < 19 and record.value == b"%d" % (int(before) + 1)
    return False
