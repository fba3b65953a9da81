"""A job at work, described for whoever looks: its status, who runs it, and how much is still to be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.exchanges import exchange_topic
from mamba_stream.runtime.facts import JobStatus


class Inlets(msgspec.Struct, frozen=True):
    """What a stage reads of the log.

    Attributes:
        topics: Its topics, by the source's name.
        exchanges: The internal topics that other stages write to for it, whose read rows are trimmed away.
    """

    topics: Mapping[str, str] = msgspec.field(default_factory=dict)
    exchanges: Sequence[str] = ()


class JobDescription(msgspec.Struct, frozen=True):
    """A job at one moment.

    Attributes:
        status: What it does, and has done.
        workers: The numbers of the processes that run it, by worker.
        lag: By stage, how many rows are there that it has not read; those of connectors are not known.
    """

    status: JobStatus
    workers: dict[int, int]
    lag: dict[int, int]


_description = msgspec.msgpack.Decoder(JobDescription)


def inlets_of(job: str, stages: Sequence[Stage], names: Mapping[n.Node, str]) -> dict[int, Inlets]:
    """What the stages of a job read, by their numbers."""
    return {
        stage.number: Inlets(
            {names[node]: node.topic for node in stage.sources if isinstance(node, n.TopicSource)},
            [exchange_topic(job, exchange) for exchange in stage.exchanges],
        )
        for stage in stages
    }


def describe(
    log: Log, status: JobStatus, workers: Mapping[int, int], inlets: Mapping[int, Inlets]
) -> JobDescription:
    """Describes a job.

    Args:
        log: The log.
        status: Its status.
        workers: The processes of its workers.
        inlets: What its stages read, by their numbers.
    """
    return JobDescription(status, dict(workers), {n: _lag(log, status, one) for n, one in inlets.items()})


def encode_description(description: JobDescription) -> bytes:
    """The description as msgpack."""
    return msgspec.msgpack.encode(description)


def decode_description(data: bytes) -> JobDescription:
    """The description in these bytes."""
    return _description.decode(data)


def _lag(log: Log, status: JobStatus, inlets: Inlets) -> int:
    waiting = 0
    for source, topic in inlets.topics.items():
        read = status.positions.get(source, {})
        waiting += sum(max(0, end - read.get(p, begin)) for p, (begin, end) in log[topic].offsets().items())
    for topic in inlets.exchanges:
        waiting += sum(end - begin for begin, end in log[topic].offsets().values())
    return waiting
