"""How far a job has come, as plain values that are stored with its state."""

from __future__ import annotations

from typing import Any

import msgspec


class PartitionProgress(msgspec.Struct, frozen=True, array_like=True):
    """A partition: the next offset to read, and its time; a connector's also has a name, and where it goes on."""

    position: int
    greatest: int
    ended: bool
    name: str = ""
    place: Any = None


class SourceProgress(msgspec.Struct, frozen=True, array_like=True):
    """A source. ``content`` identifies its rows: a frame's, or a topic among all that ever had its name.

    ``schema`` is the number of the topic's schema that the plan was made for; 0 where there is none, or none was noted.
    """

    partitions: dict[int, PartitionProgress]
    rows: int
    rejected: dict[str, int]
    content: str
    time: str
    schema: int = 0


class StepProgress(msgspec.Struct, frozen=True, array_like=True):
    """A step with state. ``layout`` identifies the form of its state."""

    closed: int
    rows: int
    by_watermark: int
    by_idleness: int
    short: dict[int, int]
    layout: str


class SinkProgress(msgspec.Struct, frozen=True, array_like=True):
    """A sink: the last epoch it prepared for, what it prepared, and how many rows it was given."""

    epoch: int
    prepared: Any
    rows: int


class EntranceProgress(msgspec.Struct, frozen=True, array_like=True):
    """The partition of an exchange that a task reads: the next offset, and how many rows have come."""

    position: int
    rows: int


class LayoutProgress(msgspec.Struct, frozen=True, array_like=True):
    """How a job is laid out over tasks.

    Attributes:
        partitions: How many tasks a stage behind a shuffle has.
        tasks: How many tasks each stage has.
        form: What identifies the stages: which steps are done in each, and what goes from one to another.
    """

    partitions: int
    tasks: list[int]
    form: str


class Progress(msgspec.Struct, frozen=True):
    """A job, or one of its tasks, as of one commit."""

    sources: dict[str, SourceProgress] = {}
    steps: dict[str, StepProgress] = {}
    rows_out: dict[str, int] = {}
    sinks: dict[str, SinkProgress] = {}
    failed: dict[str, int] = {}
    entered: dict[int, EntranceProgress] = {}
    layout: LayoutProgress | None = None


class MarkRecord(msgspec.Struct, frozen=True, array_like=True):
    """How far time has come in the rows that a task wrote to an exchange."""

    watermark: int
    idle: bool
    greatest: int


class JobRecord(msgspec.Struct, frozen=True):
    """The record of a job, or of a task: what a second runner would have to see unchanged to commit.

    Attributes:
        epoch: Counts the runs that took the job over.
        base: The first offset of its topic of state that is still needed.
        status: ``running``, ``stopped``, ``finished``; a run that died says ``running`` still.
        commits: How many there were.
        started: When the job first ran, in microseconds since the epoch.
        updated: When it committed last.
        run: Of a task, the run of the job that it belongs to: its epoch.
        lease: Of a task, which of the run's gifts of tasks to workers it was.
        marks: Of a task, how far time has come in the rows that it wrote, by the number of the exchange.
    """

    epoch: int
    base: int
    status: str
    commits: int
    started: int
    updated: int
    run: int = 0
    lease: int = 0
    marks: dict[int, MarkRecord] = {}


class Savepoint(msgspec.Struct, frozen=True):
    """The record of a savepoint: between which offsets the topic of state holds it, and when it was made."""

    base: int
    end: int
    created: int


_progress = msgspec.msgpack.Decoder(Progress)
_record = msgspec.msgpack.Decoder(JobRecord)
_savepoint = msgspec.msgpack.Decoder(Savepoint)


def encode(value: Progress | JobRecord | Savepoint) -> bytes:
    """The value as msgpack."""
    return msgspec.msgpack.encode(value)


def decode_progress(data: bytes) -> Progress:
    """The progress in these bytes."""
    return _progress.decode(data)


def decode_record(data: bytes) -> JobRecord:
    """The record in these bytes."""
    return _record.decode(data)


def decode_savepoint(data: bytes) -> Savepoint:
    """The savepoint in these bytes."""
    return _savepoint.decode(data)
