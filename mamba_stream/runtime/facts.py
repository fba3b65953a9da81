"""What a job says about itself while it runs, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from mamba_stream.plan.words import in_units

State = Literal["starting", "running", "finished", "stopped", "cancelled", "failed"]


@dataclass(frozen=True)
class TaskStatus:
    """A task of a job at one moment; a job that runs as one task has one, and that is the whole of it.

    Its time since its worker has it is divided in three shares, which are 1 together.

    Attributes:
        stage: The number of its stage.
        number: Which of the stage's tasks it is.
        worker: Who has it; ``None`` while nobody does.
        rows_in: Rows read since the job first began, from sources and from other tasks.
        rows_out: Rows given to topics and sinks since then.
        commits: How many there were since then.
        positions: The next offset to read, by source and partition.
        state_bytes: The size of its state.
        busy: The share in which it worked on rows, on what fell due, or on a commit.
        idle: The share in which there was nothing to do, or another task of its worker worked.
        backpressured: The share in which there was something to read that it may not read yet: others are behind, what
            it gave was not taken as fast as it came, or a commit did not come through.
        seconds: How long its worker has had it.
    """

    stage: int
    number: int
    worker: int | None
    rows_in: int
    rows_out: int
    commits: int
    positions: Mapping[str, Mapping[int, int]]
    state_bytes: int
    busy: float
    idle: float
    backpressured: float
    seconds: float


@dataclass(frozen=True)
class StageStatus:
    """A stage of a job at one moment.

    Attributes:
        number: Its number.
        what: What it does, in words.
        watermark: How far time has come in what it reads; ``None`` before the first row and after the last.
    """

    number: int
    what: str
    watermark: datetime | None


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment; the counts are those since the job first began, commits of earlier runs included.

    Attributes:
        name: The job's name.
        state: What it is doing, or how it ended.
        rows_in: Rows read.
        rows_out: Rows given to topics; those of the last moment are not committed yet.
        late: Rows that came too late for a window step.
        rejected: Rows without a time, or with one too far ahead.
        failed: Rows that were left out since a step raised over them, as ``on_error`` says.
        watermarks: How far time has come, by source; ``None`` before the first row and after the last.
        positions: The next offset to read, by source and partition.
        waiting: By source, the partitions that are not read at present, though they may have rows: their time is
            ahead of that of others, which they meet, or their source comes behind another that is not over.
        state_bytes: The size of the state, by step.
        commits: How many there were.
        lsn: The number of the last commit.
        stages: Its stages, those that others read from first.
        tasks: Its tasks, and how each spends its time.
    """

    name: str
    state: State
    rows_in: int
    rows_out: int
    late: int
    rejected: int
    failed: int
    watermarks: Mapping[str, datetime | None]
    positions: Mapping[str, Mapping[int, int]]
    waiting: Mapping[str, tuple[int, ...]]
    state_bytes: Mapping[str, int]
    commits: int
    lsn: int | None
    stages: tuple[StageStatus, ...] = ()
    tasks: tuple[TaskStatus, ...] = ()


@dataclass(frozen=True, repr=False)
class RunSummary:
    """How a run ended, and what it did; printed, it says so in a line of words.

    Attributes:
        name: The job's name.
        state: ``finished`` (all sources are over), ``stopped`` (asked to, or ``until`` was reached).
        rows_in: Rows read in this run.
        rows_out: Rows written in this run.
        late: Rows of this run that came too late for a window step.
        rejected: Rows of this run without a time, or with one too far ahead.
        failed: Rows of this run that were left out since a step raised over them.
        seconds: How long it took.
        lateness_for_999: By window step, the lateness that would have kept 99.9% of all rows since the job began.
        lateness: By window step, the lateness that there was.
    """

    name: str
    state: State
    rows_in: int
    rows_out: int
    late: int
    rejected: int
    failed: int
    seconds: float
    lateness_for_999: Mapping[str, timedelta]
    lateness: Mapping[str, timedelta]

    def __repr__(self) -> str:
        rate = self.rows_in / self.seconds if self.seconds > 0 else 0.0
        words = (
            f"{self.name} {self.state}: {self.rows_in:,} rows in, {self.rows_out:,} out, {self.late:,} late"
            + (f", {self.rejected:,} rejected" if self.rejected else "")
            + (f", {self.failed:,} failed" if self.failed else "")
            + f", {self.seconds:.1f} s ({rate:,.0f} rows/s)"
        )
        for step, enough in self.lateness_for_999.items():
            if enough > self.lateness[step]:
                words += f"; lateness={in_units(enough, roughly=True)!r} would have kept 99.9%"
                words += f" of the rows of {step!r}" if len(self.lateness_for_999) > 1 else ""
        return words
