"""A job's durable side: one transaction holds what it put out, how far it read, and what its state became.

State goes to an internal topic as Arrow: usually what came since the last commit, now and then everything, after
which what lies before is trimmed away. The job's record points at the first row that is still needed, and every
commit requires the record to be as this runner left it: a runner that was taken for dead can commit nothing more.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from mamba_stream.core.clock import Clock
from mamba_stream.core.names import check_name
from mamba_stream.errors import AlreadyExists, JobFailed, PipelineRefused, PreconditionFailed
from mamba_stream.log import Log, Transaction
from mamba_stream.operators.step import StatefulStep
from mamba_stream.runtime.progress import (
    JobRecord,
    Progress,
    Savepoint,
    decode_progress,
    decode_record,
    decode_savepoint,
    encode,
)

JOBS = "jobs"
"""The namespace of the records of jobs."""
OWNED = "jobs.outputs"
"""The namespace that says which topics a job made: ``job/topic``."""

SAVEPOINTS = "jobs.savepoints"
"""The namespace of the records of savepoints: ``job/name``."""

_SCHEMA = pa.schema(
    [("step", pa.large_string()), ("part", pa.large_string()), ("payload", pa.large_binary())]
)
_PROGRESS = "progress"
_PAYLOAD_BYTES = 32 << 20
_SLACK = 1 << 20


def state_topic(job: str) -> str:
    """The topic that holds a job's state."""
    return f"_state.{job}"


@dataclass(frozen=True, slots=True)
class Saved:
    """What the last commit of a job left."""

    progress: Progress
    state: Sequence[tuple[str, str, pl.DataFrame]]


class Checkpoints:
    """The commits of one job by one runner."""

    def __init__(self, log: Log, job: str, clock: Clock) -> None:
        """Looks up what the job's last commit left, and makes the topic of its state.

        Raises:
            PipelineRefused: Another job has almost this name.
        """
        self._log = log
        self._job = job
        self._clock = clock
        self._topic = state_topic(job)
        if other := next((name for name in log.records(JOBS) if _twins(name, job)), None):
            raise PipelineRefused(
                f"this log has a job {other!r}, whose name differs from {job!r} only in case: choose another name"
            )
        log.create_topic(self._topic, _SCHEMA, exist_ok=True, internal=True)
        # The runner before may have been killed in its last commit: it counts from here on, not later.
        log.settle()
        self._bytes = log.record(JOBS, job)
        self._record = None if self._bytes is None else decode_record(self._bytes)
        self._end = log[self._topic].offsets()[0][1]
        self._written = 0
        self.lsn: int | None = None

    @property
    def record(self) -> JobRecord | None:
        """The job's record as of its last commit; ``None`` if it never ran."""
        return self._record

    @property
    def next_epoch(self) -> int:
        """A number for the next commit: larger than all before it, also those of runs that did not commit."""
        assert self._record is not None
        return (self._record.epoch << 32) + self._record.commits + 1

    def load(self) -> Saved | None:
        """What the last commit left; ``None`` if the job never ran."""
        if self._record is None:
            return None
        saved = read_state(self._log, self._job, self._record.base)
        self._written = sum(int(frame.estimated_size()) for _, _, frame in saved.state)
        return saved

    def claim(
        self,
        progress: Progress,
        *,
        anew: bool,
        owned: Sequence[str],
        empty: Sequence[str],
        replaced: Mapping[str, StatefulStep] | None = None,
    ) -> None:
        """Takes the job over: from here on no other runner's commit goes through.

        Args:
            progress: Where this run begins.
            anew: Forget what the job did before.
            owned: Output topics that this job made.
            empty: Output topics to empty, together with the state.
            replaced: Steps whose state takes the place of what the last commit left.
        """
        now = self._clock.now()
        tx = self._begin()
        before = None if anew else self._record
        base = self._end if before is None else before.base
        for name in empty:
            tx.trim(name, {p: end for p, (_, end) in self._log[name].offsets().items()})
        for name in owned:
            tx.put_record(OWNED, f"{self._job}/{name}", b"")
        if replaced is not None:
            base = self._end
        rows = _rows(progress, replaced or {}, whole=True)
        tx.append(self._topic, rows)
        if before is None or replaced is not None:
            self._trim(tx, base)
            self._written = rows.nbytes
        epoch = self._record.epoch + 1 if self._record is not None else 1
        started = now if before is None else before.started
        self._finish(tx, JobRecord(epoch, base, "running", before.commits if before else 0, started, now))

    def commit(
        self,
        *,
        outputs: Sequence[tuple[str, pl.DataFrame | pa.RecordBatch]],
        offsets: Mapping[str, Mapping[tuple[str, int], int]],
        progress: Progress,
        steps: Mapping[str, StatefulStep],
        status: str,
    ) -> None:
        """Commits what happened since the last commit.

        Args:
            outputs: Rows by topic.
            offsets: What to read next, by group.
            progress: How far the job has come.
            steps: The steps with state, by name.
            status: ``running``, or how the run ends.

        Raises:
            JobFailed: Another runner has taken the job over.
        """
        assert self._record is not None
        tx = self._begin()
        for name, frame in outputs:
            tx.append(name, frame)
        for group, positions in offsets.items():
            tx.commit_offsets(group, positions)
        base = self._record.base
        whole = self._written > 2 * sum(step.bytes for step in steps.values()) + _SLACK
        rows = _rows(progress, steps, whole=whole)
        if whole:
            base, self._written = self._end, 0
            self._trim(tx, base)
        self._written += rows.nbytes
        tx.append(self._topic, rows)
        commits = self._record.commits + 1
        record = JobRecord(self._record.epoch, base, status, commits, self._record.started, self._clock.now())
        self._finish(tx, record)

    def keep(self, name: str) -> None:
        """Keeps what the last commit left under a name, for as long as nobody deletes it.

        Raises:
            AlreadyExists: There is a savepoint of this name.
        """
        assert self._record is not None
        tx = self._begin()
        add_savepoint(
            tx, self._log, self._job, name, Savepoint(self._record.base, self._end, self._clock.now())
        )
        tx.commit()

    def _trim(self, tx: Transaction, base: int) -> None:
        """Lets go of state before an offset, but not of what savepoints hold."""
        held = [savepoint.base for savepoint in savepoints(self._log, self._job).values()]
        tx.trim(self._topic, {0: min([base, *held])})

    def _begin(self) -> Transaction:
        tx = self._log.transaction()
        tx.require_record(JOBS, self._job, self._bytes)
        return tx

    def _finish(self, tx: Transaction, record: JobRecord) -> None:
        data = encode(record)
        tx.put_record(JOBS, self._job, data)
        try:
            tx.commit()
        except PreconditionFailed as error:
            raise JobFailed(
                f"another runner has taken over job {self._job!r}: this one stops; what it had committed stays"
            ) from error
        self._record, self._bytes = record, data
        self._end = tx.offsets[self._topic, 0][1]
        self.lsn = tx.lsn


def read_state(log: Log, job: str, base: int, end: int | None = None) -> Saved:
    """What a job's topic of state holds between two offsets.

    Args:
        log: The log.
        job: The job's name.
        base: Where its state begins.
        end: Where it ends; the topic's end if left out.
    """
    progress, state = Progress(), []
    topic = log[state_topic(job)]
    for batch in topic.read(start={0: base}, end=None if end is None else {0: end}):
        for step, part, payload in pl.DataFrame(batch.data).iter_rows():
            if step == "":
                progress = decode_progress(payload)
            else:
                state.append((step, part, pl.read_ipc_stream(io.BytesIO(payload))))
    return Saved(progress, state)


def savepoints(log: Log, job: str) -> dict[str, Savepoint]:
    """A job's savepoints, by name."""
    prefix = f"{job}/"
    return {
        key.removeprefix(prefix): decode_savepoint(data)
        for key, data in log.records(SAVEPOINTS).items()
        if key.startswith(prefix)
    }


def add_savepoint(tx: Transaction, log: Log, job: str, name: str, savepoint: Savepoint) -> None:
    """Adds a savepoint within a transaction.

    Raises:
        AlreadyExists: There is one of this name.
    """
    check_name(name, "savepoint")
    if name in savepoints(log, job):
        raise AlreadyExists(f"job {job!r} has a savepoint {name!r}: choose another name, or delete that one")
    tx.put_record(SAVEPOINTS, f"{job}/{name}", encode(savepoint))


def _twins(one: str, other: str) -> bool:
    """Whether names differ, but not enough for the topics that are called after them."""
    return one != other and one.casefold() == other.casefold()


def _rows(progress: Progress, steps: Mapping[str, StatefulStep], *, whole: bool) -> pa.RecordBatch:
    """How far the job has come and what its steps remember, or what came to that, as rows of its topic of state."""
    # All payloads lie in one buffer, which is the column's: state of many megabytes is copied once.
    buffer = io.BytesIO()
    names, parts, ends = [""], [_PROGRESS], [0, buffer.write(encode(progress))]
    for name, step in steps.items():
        for part, frame in (step.snapshot() if whole else step.delta()).items():
            for piece in _pieces(frame):
                piece.write_ipc_stream(buffer)
                names.append(name)
                parts.append(part)
                ends.append(buffer.tell())
    offsets, payloads = pa.py_buffer(np.array(ends, np.int64)), pa.py_buffer(buffer.getbuffer())
    columns = [
        pa.array(names, pa.large_string()),
        pa.array(parts, pa.large_string()),
        pa.Array.from_buffers(pa.large_binary(), len(names), [None, offsets, payloads]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _pieces(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows in pieces of bounded size."""
    pieces = max(1, -(-int(frame.estimated_size()) // _PAYLOAD_BYTES))
    return frame.iter_slices(max(1, -(-frame.height // pieces)))
