"""What the steps of a task remember as rows of a topic of state, written and read.

Everything is written in pieces of bounded size: see :mod:`mamba_stream.runtime.checkpoint` for what is written when.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import Log, Topic, Transaction
from mamba_stream.operators.step import StatefulStep
from mamba_stream.runtime.progress import (
    JobRecord,
    Progress,
    decode_progress,
    decode_record,
    decode_savepoint,
    encode,
)
from mamba_stream.runtime.standing import JOBS, Place, kept_of, place_of_task, state_topic, tasks_of

_SCHEMA = pa.schema(
    [("step", pa.large_string()), ("part", pa.large_string()), ("payload", pa.large_binary())]
)
_PROGRESS = "progress"
PIECE_BYTES = 2 << 20
"""State is written in pieces of so many bytes; so much, or less, is always written whole."""
PIECE = "@"
"""How the part's name begins of a piece, as in ``@120 partials``: what came after it lies from offset 120 on."""
Held = tuple[str, str, pl.DataFrame]
"""Rows that a step remembers: its name, the part, and they."""


class Saved(msgspec.Struct, frozen=True):
    """What the last commit of a job left."""

    progress: Progress
    state: Sequence[tuple[str, str, pl.DataFrame]]


def put_state(
    tx: Transaction, log: Log, place: Place, progress: Progress, held: Iterable[Held], record: JobRecord
) -> None:
    """Writes what a task is to begin with within a transaction; nobody else may write to its place meanwhile.

    Args:
        tx: The transaction.
        log: The log, which has the topic of state.
        place: Whose state it is.
        progress: How far the task has come.
        held: What its steps remember.
        record: Its record; where its state begins is filled in.
    """
    base = log[place.topic].offsets()[place.partition][1]
    for rows in batches_of(encode(progress), held):
        tx.append(place.topic, rows, partition=place.partition)
    tx.put_record(place.namespace, place.key, encode(msgspec.structs.replace(record, base=base)))


def make_state(log: Log, job: str) -> None:
    """Makes the topic of a job's state.

    Raises:
        PipelineRefused: Another job has almost this name.
    """
    if other := next((name for name in log.records(JOBS) if _twins(name, job)), None):
        raise PipelineRefused(
            f"this log has a job {other!r}, whose name differs from {job!r} only in case: choose another name"
        )
    make_state_topic(log, state_topic(job))


def make_state_topic(log: Log, name: str, partitions: int = 1) -> None:
    """Makes a topic for the state of tasks, one partition for each."""
    log.create_topic(name, _SCHEMA, partitions=partitions, exist_ok=True, internal=True)


def read_state(log: Log, job: str, base: int, end: int | None = None) -> Saved:
    """What a job's topic of state holds between two offsets.

    Args:
        log: The log.
        job: The job's name.
        base: Where its state begins.
        end: Where it ends; the topic's end if left out.
    """
    return read_between(log[state_topic(job)], 0, base, end)


def read_tasks(log: Log, job: str, savepoint: str | None = None) -> dict[str, Saved]:
    """What the last commit of each of a job's tasks left, or a savepoint holds of it, by the keys of the tasks."""
    found = {}
    places: dict[str, tuple[int, int | None]]
    if savepoint is None:
        places = {key: (decode_record(data).base, None) for key, data in log.records(tasks_of(job)).items()}
    else:
        kept = {
            key.partition("/")[2]: decode_savepoint(data)
            for key, data in log.records(kept_of(job)).items()
            if key.partition("/")[0] == savepoint
        }
        places = {key: (one.base, one.end) for key, one in kept.items()}
    for key, (base, end) in places.items():
        stage, _, task = key.partition("/")
        place = place_of_task(job, int(stage), int(task))
        found[key] = read_between(log[place.topic], place.partition, base, end)
    return found


def read_between(topic: Topic, partition: int, base: int, end: int | None) -> Saved:
    """What a partition of a topic of state holds between two offsets; up to its end where that is left out."""
    progress = Progress()
    whole, came = [], []
    to = None if end is None else {partition: end}
    for batch in topic.read(start={partition: base}, partitions=[partition], end=to):
        for step, part, payload in pl.DataFrame(batch.data).iter_rows():
            if step == "":
                progress = decode_progress(payload)
            elif not part.startswith(PIECE):
                came.append((step, part, _decoded(payload)))
            elif part.startswith(f"{PIECE}{base} "):
                whole.append((step, part.partition(" ")[2], _decoded(payload)))
    return Saved(progress, [*whole, *came])


def _twins(one: str, other: str) -> bool:
    """Whether names differ, but not enough for the topics that are called after them."""
    return one != other and one.casefold() == other.casefold()


def held_in(steps: Iterable[tuple[str, StatefulStep]], *, whole: bool) -> Iterator[Held]:
    """What steps remember, or what came to that, in pieces of bounded size."""
    for name, step in steps:
        for part, frame in (step.snapshot() if whole else step.delta()).items():
            pieces = max(1, -(-int(frame.estimated_size()) // PIECE_BYTES))
            for piece in frame.iter_slices(max(1, -(-frame.height // pieces))):
                yield name, part, piece


def batches_of(progress: bytes, held: Iterable[Held]) -> Iterator[pa.RecordBatch]:
    """How far the job has come and what its steps remember as rows of its topic of state, some megabytes at a time."""
    payloads = pa.BufferOutputStream()
    payloads.write(progress)
    names, parts, ends = [""], [_PROGRESS], [0, payloads.tell()]
    for name, part, frame in held:
        if ends[-1] >= PIECE_BYTES:
            yield _batch(names, parts, ends, payloads.getvalue())
            payloads = pa.BufferOutputStream()
            names, parts, ends = [], [], [0]
        _encode(frame, payloads)
        names.append(name)
        parts.append(part)
        ends.append(payloads.tell())
    yield _batch(names, parts, ends, payloads.getvalue())


def _batch(
    names: Sequence[str], parts: Sequence[str], ends: Sequence[int], payloads: pa.Buffer
) -> pa.RecordBatch:
    """Rows whose payloads lie one behind the other in a buffer, which becomes the column's: they are not copied."""
    offsets = pa.py_buffer(np.array(ends, np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), len(names), [None, offsets, payloads])
    return pa.RecordBatch.from_arrays([_texts(names), _texts(parts), column], schema=_SCHEMA)


def _texts(values: Sequence[str]) -> pa.Array:
    # By Polars: Arrow imports pandas, if there is one, the first time that it is given Python objects.
    return pl.Series(values, dtype=pl.String).to_arrow(compat_level=pl.CompatLevel.oldest())


def _encode(frame: pl.DataFrame, buffer: pa.BufferOutputStream) -> None:
    """Adds a frame as an Arrow IPC stream: by Arrow, which takes a twentieth of the time that Polars does."""
    try:
        table = frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    except pa.ArrowException:  # a type that only Polars has
        own = io.BytesIO()
        frame.write_ipc_stream(own)
        buffer.write(own.getbuffer())
        return
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)


def _decoded(payload: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(io.BytesIO(payload))
