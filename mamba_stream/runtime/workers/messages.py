"""What a pool and its workers tell each other: plain values, that travel as msgpack where they travel at all."""

from __future__ import annotations

import msgspec

from mamba_stream.runtime.care import Attempt, Death
from mamba_stream.runtime.counts import Counts, StepLateness
from mamba_stream.runtime.workers.layout import TaskName


class Take(msgspec.Struct, frozen=True, tag="take"):
    """To a worker: these tasks are yours.

    Attributes:
        tasks: The tasks.
        lease: Under which number; whoever was given one of them later keeps it, even if it hears of that first.
        care: How many rows to read before a commit, at first, saying what is done with them; 0 does without. The
            worker releases a task that has come through what there was.
        known: What ended the processes before that ran one of them so.
    """

    tasks: list[TaskName]
    lease: int
    care: int = 0
    known: list[Death] = []


class Release(msgspec.Struct, frozen=True, tag="release"):
    """To a worker: commit these tasks, and let go of them."""

    tasks: list[TaskName]


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """To a worker: commit all tasks now, and say so under this number."""

    number: int


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """To a worker: read sources no further; the tasks end when what was read has gone through."""


class Quit(msgspec.Struct, frozen=True, tag="quit"):
    """To a worker: end at once, without a commit."""


Order = Take | Release | Commit | Leave | Quit


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From a worker: it can take tasks.

    Attributes:
        process: The number of its process; 0 where it has none of its own.
    """

    process: int


class Trying(msgspec.Struct, frozen=True, tag="trying"):
    """From a worker: this is what it does now; what it said last, its end may be due to.

    Attributes:
        task: Of which task; ``None`` when that has had its turn.
        attempt: What.
    """

    task: TaskName | None
    attempt: Attempt | None = None


class Through(msgspec.Struct, frozen=True, tag="through"):
    """From a worker: it has come through these tasks with care. What it did of them is committed, and they are free."""

    tasks: list[TaskName]


class Released(msgspec.Struct, frozen=True, tag="released"):
    """From a worker: what it did of these tasks is committed, and they are free."""

    tasks: list[TaskName]


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """From a worker: what was asked to be committed is."""

    number: int


class SourceFacts(msgspec.Struct, frozen=True, array_like=True):
    """How far a task has come in a source.

    Attributes:
        watermark: In ticks of the source's time.
        idle: Whether nothing holds back time there.
        positions: The next offset to read, by partition.
        waiting: The partitions that are not read at present, though they may have rows.
    """

    watermark: int
    idle: bool
    positions: dict[int, int]
    waiting: tuple[int, ...]


class EntranceFacts(msgspec.Struct, frozen=True, array_like=True):
    """How far a task has come in an exchange.

    Attributes:
        watermark: In ticks of the time of the rows that come.
        idle: Whether nothing holds back time there.
        position: The next offset to read.
        rows: How many rows have come since the job first began.
    """

    watermark: int
    idle: bool
    position: int
    rows: int


class TaskFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a task did, and how it spends its time.

    Attributes:
        counts: Since the job first began.
        begun: The same when this worker took the task.
        commits: How many there were since the job first began.
        sources: How far it has come, by source.
        state_bytes: By step.
        lateness: How late rows were since the job first began, by step.
        busy: Seconds spent working.
        held_back: Seconds in which there was something to read, but not to be read, since others are behind.
        seconds: How long this worker has had the task.
        entered: How far it has come in what other tasks write, by exchange.
    """

    counts: Counts
    begun: Counts
    commits: int
    sources: dict[str, SourceFacts]
    state_bytes: dict[str, int]
    lateness: dict[str, StepLateness]
    busy: float
    held_back: float
    seconds: float
    entered: dict[int, EntranceFacts] = {}


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """From a worker: it runs these tasks, and nobody else can commit them.

    Attributes:
        tasks: The tasks.
        refused: Those that were given to it, too, but to another worker since: it leaves them alone.
    """

    tasks: list[tuple[TaskName, TaskFacts]]
    refused: list[TaskName] = []


class Over(msgspec.Struct, frozen=True, tag="over"):
    """From a worker: a task has come to its end in this run.

    Attributes:
        task: The task.
        ended: Whether all that it reads is over for good.
        facts: What it has done.
    """

    task: TaskName
    ended: bool
    facts: TaskFacts


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """From a worker, now and then: it lives, and this is what its tasks have done."""

    tasks: list[tuple[TaskName, TaskFacts]]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From a worker: it cannot go on.

    Attributes:
        code: The error's class among ours.
        message: What it says.
        task: At which task; ``None`` where it was none.
    """

    code: str
    message: str
    task: TaskName | None


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """Of a worker, by whoever watches it: it is no more, and had not said that it would not be.

    Attributes:
        reason: How it ended, in words.
    """

    reason: str


Report = Ready | Taken | Trying | Through | Released | Over | Committed | Beat | Failed | Gone
