"""The six figures that everybody asks of a queue: backlog, messages a second, consumers, latency, producers, size.

From the heads of topics, the records of groups, and what clients tell of themselves, which is a few seconds old. Speeds
and latencies are those of the last minute.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.errors import TopicNotFound
from mamba_stream.log import Log
from mamba_stream.messaging.latency import Latencies, merged
from mamba_stream.messaging.members import Client
from mamba_stream.messaging.survey import GroupFacts, Survey

_WINDOW: Final = 60_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SENDERS: Final = frozenset({"producer", "publisher"})


@dataclass(frozen=True, slots=True)
class TopicStatistics:
    """A topic in six figures.

    Attributes:
        topic: Its name.
        backlog: Messages that the slowest of its groups has still to do; ``None`` where it has no group.
        per_second: Messages that were appended, by the second, over the last minute.
        consumers: Clients that receive them now.
        latency_p50: Seconds from the append to the acknowledgement that half of the messages did not exceed which were
            done in the last minute; ``None`` where there were none. A client that receives more than sixteen topics, or
            whose names are long, tells of all of them together.
        latency_p99: The same for 99 of 100.
        producers: Clients that send to it now. What is appended without a client has none.
        messages: Messages that it holds.
        bytes: What they take on disk.
    """

    topic: str
    backlog: int | None
    per_second: float
    consumers: int
    latency_p50: float | None
    latency_p99: float | None
    producers: int
    messages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """A group in six figures.

    Attributes:
        group: Its name.
        topics: What it reads.
        backlog: Messages that it has still to do.
        per_second: Messages that it acknowledged, by the second, over the last minute.
        consumers: Its members that are there now.
        latency_p50: Seconds from the append to the acknowledgement that half of the messages did not exceed which it
            did in the last minute; ``None`` where there were none.
        latency_p99: The same for 99 of 100.
        producers: Clients that send to its topics now.
        bytes: What its backlog takes on disk, roughly.
        paused: Topics of which it takes nothing new, as too much is open.
    """

    group: str
    topics: tuple[str, ...]
    backlog: int
    per_second: float
    consumers: int
    latency_p50: float | None
    latency_p99: float | None
    producers: int
    bytes: int
    paused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """The queues of a log at one moment.

    Attributes:
        at: When that was.
        topics: Its topics, by name.
        groups: Its groups, by name.
    """

    at: datetime
    topics: tuple[TopicStatistics, ...]
    groups: tuple[GroupStatistics, ...]


def queue_statistics(log: Log, *, clock: Clock | None = None) -> QueueStatistics:
    """The figures of all topics and groups: backlog, messages a second, consumers, latency, producers, size.

    Args:
        log: The log.
        clock: Tells the time; for tests.

    Example:
        >>> import mamba_stream as mamba
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place, mamba.Publisher("emails", place) as publisher:
        ...     _ = publisher.publish("Hello, world!").result()
        ...     [emails] = mamba.queue_statistics(publisher.topic.log).topics
        ...     emails.topic, emails.messages, emails.consumers
        ('emails', 1, 0)
    """
    look = Survey(log, (clock or log.clock).now())
    groups = [look.group(name) for name in look.names()]
    names = {name for name, _ in log.heads()}
    receivers: dict[str, list[Client]] = defaultdict(list)
    senders: dict[str, list[Client]] = defaultdict(list)
    for client in look.clients.values():
        into = senders if client.kind in _SENDERS else receivers
        for name in _wanted(client, names):
            into[name].append(client)
    backlogs: dict[str, list[int]] = defaultdict(list)
    for group in groups:
        for name, backlog in _backlogs(group).items():
            backlogs[name].append(backlog)
    topics = {each.topic: each for each in _topics(log, look, backlogs, receivers, senders)}
    return QueueStatistics(
        at=_EPOCH + timedelta(microseconds=look.now),
        topics=tuple(topics.values()),
        groups=tuple(_group(group, topics, senders) for group in groups),
    )


def _topics(
    log: Log,
    look: Survey,
    backlogs: Mapping[str, list[int]],
    receivers: Mapping[str, list[Client]],
    senders: Mapping[str, list[Client]],
) -> Iterator[TopicStatistics]:
    messages: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    last: dict[str, int] = defaultdict(int)
    for (name, _), head in log.heads().items():
        messages[name] += head.end - head.begin
        # Rows before the beginning go with their batch: theirs is not the topic's any more.
        sizes[name] += head.bytes * (head.end - head.begin) // max(head.rows, 1)
        last[name] = max(last[name], head.append_time)
    for name in sorted(messages):
        p50, p99 = _latency(
            client.by_topic.get(name, {}) if client.by_topic else client.latency
            for client in receivers.get(name, ())
        )
        yield TopicStatistics(
            topic=name,
            backlog=max(backlogs[name]) if name in backlogs else None,
            per_second=_appended(log, name, look.now) if last[name] > look.now - _WINDOW else 0.0,
            consumers=len(receivers.get(name, ())),
            latency_p50=p50,
            latency_p99=p99,
            producers=len(senders.get(name, ())),
            messages=messages[name],
            bytes=sizes[name],
        )


def _group(
    group: GroupFacts, topics: Mapping[str, TopicStatistics], senders: Mapping[str, list[Client]]
) -> GroupStatistics:
    members = [member.client for member in group.members]
    p50, p99 = _latency(client.latency for client in members)
    backlogs = _backlogs(group)
    reads = {name for client in members for name in _wanted(client, topics)} | backlogs.keys()
    sizes = (
        topics[name].bytes * min(backlog, topics[name].messages) // max(topics[name].messages, 1)
        for name, backlog in backlogs.items()
        if name in topics
    )
    return GroupStatistics(
        group=group.name,
        topics=tuple(sorted(reads)),
        backlog=group.backlog,
        per_second=sum(client.rates.get("acknowledged", 0.0) for client in members),
        consumers=len(members),
        latency_p50=p50,
        latency_p99=p99,
        producers=len({client.id for name in reads for client in senders.get(name, ())}),
        bytes=sum(sizes),
        paused=group.paused,
    )


def _appended(log: Log, name: str, now: int) -> float:
    """Messages by the second, over the last minute."""
    try:
        topic = log[name]
        then = topic.offset_at(_EPOCH + timedelta(microseconds=now - _WINDOW), by="append")
        return sum(end - then[p] for p, (_, end) in topic.offsets().items()) * 1e6 / _WINDOW
    except TopicNotFound:
        return 0.0


def _backlogs(group: GroupFacts) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for each in group.partitions:
        found[each.topic] += each.backlog
    return found


def _wanted(client: Client, names: Iterable[str]) -> list[str]:
    """The topics that a client receives, or sends to."""
    if client.interest.open:
        return [name for name in names if client.interest.wants(name)]
    return [name for name in client.interest.named if name in names]


def _latency(counted: Iterable[Mapping[int, int]]) -> tuple[float | None, float | None]:
    latencies = merged(map(Latencies, counted))
    return (latencies.quantile(0.5), latencies.quantile(0.99)) if latencies.count else (None, None)
