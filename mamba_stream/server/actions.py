"""The actions of the server, each with what it needs: one that is not in this table does not exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec

from mamba_stream.core.changes import ChangeSet
from mamba_stream.core.names import check_name
from mamba_stream.core.schemas import schema_bytes
from mamba_stream.errors import InvalidInput, TopicNotFound
from mamba_stream.log.asked import check_bounds, is_text, partitions_of, text_of
from mamba_stream.log.remote import protocol
from mamba_stream.log.remote.describing import packed
from mamba_stream.log.remote.protocol import HeadInfo, Nothing
from mamba_stream.log.scrubbing import Scrubbed
from mamba_stream.log.storage import PartitionHead
from mamba_stream.log.upkeep import Maintained
from mamba_stream.server.belongings import (
    SHARED,
    need_of_lock,
    need_of_topic,
    visible_groups,
    visible_namespaces,
    visible_offsets,
    visible_records,
)
from mamba_stream.server.desk import Desk
from mamba_stream.server.failures import failure_of
from mamba_stream.server.gate import Caller, Need
from mamba_stream.server.reading import rows

_VERSION: Final = version("mamba-stream")
_MOST_TOGETHER: Final = 64


@dataclass(frozen=True, slots=True)
class Action:
    """What a client can ask for.

    Attributes:
        name: Its name.
        request: What its body holds.
        needs: What the caller must be allowed, by the request.
        answer: What is done, and what the one result's body holds.
        words: What it is for.
        together: Whether it may be one of several that are asked for together: those that only look, and do not wait.
        lasting: Whether it may take so long that signs of life are given before its result: results that are nil.
    """

    name: str
    request: type[Any]
    needs: Callable[[Desk, Any], Iterable[Need]]
    answer: Callable[[Desk, Caller, Any], Any]
    words: str
    together: bool = False
    lasting: bool = False


def _free(desk: Desk, request: Any) -> Iterable[Need]:
    """For everybody who may connect; what is listed is what the caller may know of."""
    return ()


def _of_log(operation: Any) -> Callable[[Desk, Any], Iterable[Need]]:
    return lambda desk, request: (Need(operation, "log"),)


def _describes(desk: Desk, request: Any) -> Iterable[Need]:
    number = request.number if isinstance(request, protocol.Numbered) else request.topic
    return (need_of_topic("describe", desk.catalog.numbered(number).name),)


def _named(desk: Desk, request: protocol.Named) -> Iterable[Need]:
    return (need_of_topic("describe", request.name),)


def _reads_rows(desk: Desk, request: protocol.Read) -> Iterable[Need]:
    name = request.name if request.topic is None else desk.catalog.numbered(request.topic).name
    return (need_of_topic("read", name or ""),)


def _reads_record(desk: Desk, request: protocol.AskRecord) -> Iterable[Need]:
    return desk.belongings.record("read", request.namespace, request.key)


def _reads_records(desk: Desk, request: protocol.AskRecords) -> Iterable[Need]:
    # Of a shared namespace everybody gets his own.
    return () if request.namespace in SHARED else desk.belongings.record("read", request.namespace, "")


def _commits(desk: Desk, request: protocol.Commit) -> Iterable[Need]:
    return desk.needs_of(request)


def _hello(desk: Desk, caller: Caller, request: protocol.Hello) -> protocol.Welcome:
    if request.protocol != protocol.VERSION:
        raise InvalidInput(
            f"this server speaks version {protocol.VERSION} of the protocol, not {request.protocol}: "
            f"use mamba-stream {_VERSION} on both sides"
        )
    return protocol.Welcome(
        protocol=protocol.VERSION,
        version=_VERSION,
        boot=desk.boot,
        log=desk.identity,
        now=desk.storage.clock.now(),
        lsn=desk.storage.lsn(),
        most_bytes=desk.limits.most_bytes,
        pieces=True,
        beyond=True,
        paced=True,
    )


def _topics(desk: Desk, caller: Caller, request: protocol.ListTopics) -> Any:
    rows = {row.name: row for row in desk.storage.topics() if request.internal or not row.internal}
    return [rows[name] for name in desk.gate.visible(caller, "topic", rows)]


def _topic(desk: Desk, caller: Caller, request: protocol.Named) -> protocol.TopicInfo | None:
    row = desk.storage.topic(request.name)
    if row is None:
        return None
    return protocol.TopicInfo(row, schema_bytes(desk.storage.schema(row.schema)))


def _schema(desk: Desk, caller: Caller, request: protocol.Numbered) -> bytes:
    topics = [
        row.name for row in desk.storage.topics() if request.number in (number for number, _ in row.versions)
    ]
    if not desk.gate.visible(caller, "topic", topics):
        # It is that of no topic which the caller may see.
        desk.gate.check(caller, (Need("admin", "log"),))
    if not 0 <= request.number < 1 << 32:
        raise TopicNotFound(f"no topic's schema has the number {request.number}")
    return schema_bytes(desk.storage.schema(request.number))


def _heads(desk: Desk, caller: Caller, request: protocol.AskHeads) -> dict[int, HeadInfo]:
    row = desk.catalog.numbered(request.topic)
    wanted = None if request.partitions is None else partitions_of(row, request.partitions)
    return {partition: _head(head) for partition, head in desk.storage.heads(row, wanted).items()}


def _all_heads(desk: Desk, caller: Caller, request: protocol.ListTopics) -> list[protocol.NamedHead]:
    found = desk.storage.all_heads(internal=request.internal)
    seen = set(desk.gate.visible(caller, "topic", dict.fromkeys(name for name, _ in found)))
    return [
        protocol.NamedHead(name, partition, _head(head))
        for (name, partition), head in found.items()
        if name in seen
    ]


def _offsets_at(desk: Desk, caller: Caller, request: protocol.AskOffsetsAt) -> dict[int, int]:
    row = desk.catalog.numbered(request.topic)
    if request.by not in ("time", "append") or (request.by == "time" and row.time is None):
        raise InvalidInput(
            f"topic {row.name!r}: by={request.by!r:.40}; choose 'time', where it has one, or 'append'"
        )
    return desk.storage.offsets_at(row, request.ticks, request.by)


def _records(desk: Desk, caller: Caller, request: protocol.AskRecords) -> dict[str, bytes]:
    before = None if request.before is None else text_of(request.before)
    check_bounds("records", limit=request.limit)
    found = desk.storage.records(text_of(request.namespace), before, request.limit)
    if request.namespace not in SHARED:
        return found
    return visible_records(desk.gate, caller, desk.belongings, request.namespace, found)


def _namespaces(desk: Desk, caller: Caller, request: protocol.Prefix) -> list[str]:
    if request.prefix and not is_text(request.prefix):
        raise InvalidInput(f"no namespace begins with {request.prefix!r:.80}")
    found = desk.storage.namespaces(request.prefix)
    return visible_namespaces(desk.gate, caller, desk.belongings, found)


def _groups(desk: Desk, caller: Caller, request: Nothing) -> list[str]:
    def topics_of(group: str) -> set[str]:
        return {topic for topic, _ in desk.storage.group_offsets(group)}

    return visible_groups(desk.gate, caller, desk.storage.groups(), topics_of)


def _group_offsets(desk: Desk, caller: Caller, request: protocol.AskGroup) -> list[protocol.GroupPlace]:
    check_name(request.group, "group")
    offsets = desk.storage.group_offsets(request.group)
    found = visible_offsets(desk.gate, caller, request.group, offsets)
    return [protocol.GroupPlace(topic, partition, offset) for (topic, partition), offset in found.items()]


def _wait(desk: Desk, caller: Caller, request: protocol.AskWait) -> int:
    if math.isnan(request.timeout):
        # It never would be over.
        raise InvalidInput("timeout=nan: give a number of seconds")

    def gone() -> bool:
        desk.gate.check(caller, ())
        return False

    return desk.pulse.wait(request.lsn, min(request.timeout, protocol.LONGEST_WAIT), gone)


def _maintain(desk: Desk, caller: Caller, request: protocol.Maintain) -> Maintained:
    check_bounds("maintain", budget=request.budget)
    return desk.storage.maintain(request.budget)


def _scrub(desk: Desk, caller: Caller, request: protocol.Scrub) -> Scrubbed:
    check_bounds("scrub", most=request.most)
    return desk.storage.scrub(request.most)


def _lock_holder(desk: Desk, caller: Caller, request: protocol.LockName) -> str | None:
    for text in (request.space, request.name):
        check_name(text, "lock")
    return desk.storage.lock_holder(request.space, request.name)


def _together(desk: Desk, caller: Caller, request: protocol.Together) -> list[protocol.Told]:
    if len(request.asks) > _MOST_TOGETHER:
        raise InvalidInput(f"{len(request.asks)} actions together: ask for at most {_MOST_TOGETHER}")
    if request.beyond is not None:
        _wait(desk, caller, protocol.AskWait(request.beyond, request.timeout))
    return [_told(desk, caller, asked) for asked in request.asks]


def _told(desk: Desk, caller: Caller, asked: protocol.Asked) -> protocol.Told:
    """What came of one of several: the others do not suffer by what is wrong with it."""
    try:
        action = ACTIONS.get(asked.action)
        if action is not None and not action.together:
            names = ", ".join(sorted(action.name for action in ACTIONS.values() if action.together))
            raise InvalidInput(f"action {asked.action!r} is asked for alone; together may be {names}")
        return protocol.Told(msgspec.Raw(perform(desk, caller, asked.action, memoryview(asked.request))))
    except Exception as error:  # noqa: BLE001 - told to the client, whatever it is
        return protocol.Told(failure=failure_of(error))


def _head(head: PartitionHead) -> HeadInfo:
    return HeadInfo(head.topic, head.begin, head.end, head.rows, head.bytes, head.append_time, head.ended)


ACTIONS = {
    action.name: action
    for action in (
        Action("hello", protocol.Hello, _free, _hello, "who the server is, and what time it is there"),
        Action("topics", protocol.ListTopics, _free, _topics, "the topics"),
        Action("topic", protocol.Named, _named, _topic, "a topic by its name, nil where there is none"),
        Action(
            "schema", protocol.Numbered, _free, _schema, "the columns of a schema's number, as an IPC message"
        ),
        Action(
            "numbered",
            protocol.Numbered,
            _free,
            lambda desk, caller, request: (
                0 <= request.number < 1 << 32 and desk.storage.numbered(request.number)
            ),
            "whether a topic of this number is there",
        ),
        Action(
            "heads", protocol.AskHeads, _describes, _heads, "the state of a topic's partitions", together=True
        ),
        Action("all_heads", protocol.ListTopics, _free, _all_heads, "the state of all topics' partitions"),
        Action("offsets_at", protocol.AskOffsetsAt, _describes, _offsets_at, "where a time is reached"),
        Action(
            "describe",
            protocol.Numbered,
            _describes,
            lambda desk, caller, request: packed(
                desk.storage.describe(desk.catalog.numbered(request.number))
            ),
            "the facts of a topic",
        ),
        Action(
            "groups",
            Nothing,
            _free,
            _groups,
            "the groups that have committed offsets",
        ),
        Action("group_offsets", protocol.AskGroup, _free, _group_offsets, "what a group reads next"),
        Action(
            "record",
            protocol.AskRecord,
            _reads_record,
            lambda desk, caller, request: desk.storage.record(
                text_of(request.namespace), text_of(request.key)
            ),
            "a small value, nil where there is none",
            together=True,
        ),
        Action(
            "records",
            protocol.AskRecords,
            _reads_records,
            _records,
            "small values, in the order of their keys",
            together=True,
        ),
        Action("namespaces", protocol.Prefix, _free, _namespaces, "the namespaces that hold records"),
        Action(
            "lsn",
            Nothing,
            _free,
            lambda desk, caller, request: desk.storage.lsn(),
            "the last commit's number",
            together=True,
        ),
        Action(
            "wait",
            protocol.AskWait,
            _free,
            _wait,
            "the last commit's number, once it is another",
        ),
        Action(
            "rows",
            protocol.Read,
            _reads_rows,
            rows,
            "rows that are not many, for which a stream would be too much",
            together=True,
        ),
        Action(
            "together", protocol.Together, _free, _together, "several that only look, one after the other"
        ),
        Action(
            "settle",
            Nothing,
            _free,
            lambda desk, caller, request: desk.storage.settle(),
            "waits for a commit",
        ),
        Action(
            "flush",
            Nothing,
            _free,
            lambda desk, caller, request: desk.storage.flush(),
            "has everything on the disk that was committed",
        ),
        Action(
            "seal",
            Nothing,
            _of_log("admin"),
            lambda desk, caller, request: desk.storage.seal(),
            "seals files",
            lasting=True,
        ),
        Action(
            "maintain",
            protocol.Maintain,
            _of_log("admin"),
            _maintain,
            "what upkeep did: it removes what topics do not keep, seals and compacts",
            lasting=True,
        ),
        Action(
            "scrub",
            protocol.Scrub,
            _of_log("admin"),
            _scrub,
            "what was looked at, and what is damaged of it",
            lasting=True,
        ),
        Action(
            "statistics",
            Nothing,
            _of_log("describe"),
            lambda desk, caller, request: desk.storage.statistics(),
            "what the log holds",
        ),
        Action(
            "commit",
            protocol.Commit,
            _commits,
            lambda desk, caller, request: desk.commit(caller, request),
            "a change set with its rows, all or nothing",
        ),
        Action(
            "goodbye",
            protocol.Goodbye,
            lambda desk, request: desk.belongings.changed(ChangeSet(forgets=request.forgets)),
            lambda desk, caller, request: desk.part(caller, request),
            "nothing: what the server keeps for a client may go",
        ),
        Action(
            "lock_holder",
            protocol.LockName,
            lambda desk, request: (need_of_lock("describe", request.space, request.name),),
            _lock_holder,
            "who has a lock, nil where nobody has",
        ),
    )
}
"""By name."""


def perform(desk: Desk, caller: Caller, name: str, body: Any) -> bytes:
    """Does what is asked, if the caller may; the result's body.

    Raises:
        InvalidInput: There is no such action, or its body holds something else.
        NotAuthorized: The caller may not.
    """
    action = ACTIONS.get(name)
    if action is None:
        raise InvalidInput(f"no action {name!r:.80}; there are {', '.join(sorted(ACTIONS))}")
    if len(body) == 0 and action.request is Nothing:
        request: Any = Nothing()
    else:
        request = protocol.decode(body, action.request)
    with desk.catalog:
        return msgspec.msgpack.encode(_done(desk, caller, action, request))


def _done(desk: Desk, caller: Caller, action: Action, request: Any) -> Any:
    try:
        desk.gate.check(caller, action.needs(desk, request))
        return action.answer(desk, caller, request)
    except TopicNotFound:
        # The topic may be gone because of this very commit, whose answer was lost.
        answer = desk.answered(caller, request) if isinstance(request, protocol.Commit) else None
        if answer is None:
            raise
        desk.gate.check(caller, ())
        return answer
