"""What a log knows of the jobs that ran over it, and how to make one start over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import JobNotFound
from mamba_stream.log import Log
from mamba_stream.runtime.held import forget_tasks, remove_savepoint, savepoints
from mamba_stream.runtime.lock import holder_of, lock_job
from mamba_stream.runtime.progress import decode_record
from mamba_stream.runtime.requests import RUNS, decode_run
from mamba_stream.runtime.saved import read_state
from mamba_stream.runtime.standing import JOBS, OWNED, RESETS, state_topic, tasks_of


@dataclass(frozen=True)
class JobFacts:
    """A job as its last commit left it.

    Attributes:
        name: Its name.
        state: ``running``, ``stopped``, ``finished``, or ``interrupted``: it died, or was cancelled, and its next run
            goes on from its last commit.
        where: The process that runs it, or nothing.
        workers: How many workers run it; 0 while it does not run.
        commits: How many there were.
        updated: When the last was.
        outputs: The topics that it made.
    """

    name: str
    state: str
    where: str
    workers: int
    commits: int
    updated: datetime
    outputs: tuple[str, ...]


def list_jobs(log: Log) -> list[JobFacts]:
    """The jobs of a log, by name."""
    return [_facts(log, name, data) for name, data in sorted(log.records(JOBS).items())]


def find_job(log: Log, name: str) -> JobFacts:
    """One job.

    Raises:
        JobNotFound: The log knows none of this name.
    """
    data = log.record(JOBS, name)
    if data is None:
        names = list(log.records(JOBS))
        raise JobNotFound(
            f"no job {name!r} in {log.place}{did_you_mean(name, names)}; "
            + (f"it has {', '.join(sorted(names)[:8])}" if names else "it has none")
        )
    return _facts(log, name, data)


def job_of_group(log: Log, group: str) -> str | None:
    """The job whose progress the offsets of a group show; ``None`` for other groups."""
    if not group.startswith("job."):
        return None
    rest = group.removeprefix("job.")
    # ``job.NAME`` and ``job.NAME.SOURCE``, where both may have dots.
    names = (name for name in log.records(JOBS) if rest == name or rest.startswith(f"{name}."))
    return max(names, key=len, default=None)


@dataclass(frozen=True)
class Reading:
    """How far a job has read a partition, as its last commit left it.

    Attributes:
        topic: The topic.
        partition: The partition's number.
        position: The next offset to read.
        lag: How many rows are there that are not read.
    """

    topic: str
    partition: int
    position: int
    lag: int


def readings_of(log: Log, name: str) -> list[Reading]:
    """How far a job has read the topics that are its sources, whether it runs or not."""
    found = []
    for group in log.groups():
        if job_of_group(log, group) != name:
            continue
        for (topic, partition), position in sorted(log.group_offsets(group).items()):
            end = log[topic].offsets()[partition][1] if topic in log else position
            found.append(Reading(topic, partition, position, max(0, end - position)))
    return found


@dataclass(frozen=True)
class Reset:
    """What became of what a job had.

    Attributes:
        emptied: The topics that were emptied.
        savepoints: The savepoints that are gone.
        sinks: Sinks that the job wrote to. Only its next run can have them remove what it wrote, and does, before it
            writes; one that cannot do that keeps it.
    """

    emptied: tuple[str, ...]
    savepoints: tuple[str, ...]
    sinks: tuple[str, ...]


def reset_job(log: Log, name: str) -> Reset:
    """Forgets a job's offsets, state and savepoints, and empties the topics that it made: its next run starts over.

    Raises:
        JobNotFound: The log knows none of this name.
        JobRunning: It is running.
    """
    find_job(log, name)
    lock = lock_job(log, name)
    try:
        data = log.record(JOBS, name)
        assert data is not None
        sinks = read_state(log, name, decode_record(data).base).progress.sinks
        emptied = tuple(topic for topic in owned_topics(log, name) if topic in log)
        gone = tuple(savepoints(log, name))
        with log.transaction() as tx:
            tx.require_record(JOBS, name, data)
            tx.delete_record(JOBS, name)
            tx.put_record(RESETS, name, data)
            for savepoint in gone:
                remove_savepoint(tx, log, name, savepoint)
            forget_tasks(tx, log, name, held=False)
            for topic in (*emptied, state_topic(name)):
                if topic in log:
                    tx.trim(topic, {p: end for p, (_, end) in log[topic].offsets().items()})
    finally:
        lock.release()
    return Reset(emptied, gone, tuple(sorted(sinks)))


def owned_topics(log: Log, name: str) -> list[str]:
    """The topics that a job made."""
    return sorted(key.partition("/")[2] for key in log.records(OWNED) if key.startswith(f"{name}/"))


def _facts(log: Log, name: str, data: bytes) -> JobFacts:
    record, where = decode_record(data), holder_of(log, name)
    # Of a job over workers, the tasks commit.
    records = [record, *map(decode_record, log.records(tasks_of(name)).values())]
    run = log.record(RUNS, name) if where else None
    state = "running" if where else "interrupted" if record.status == "running" else record.status
    return JobFacts(
        name=name,
        state=state,
        where=where or "",
        # One that is only about to begin has not said it yet.
        workers=0 if run is None else decode_run(run).workers,
        commits=sum(one.commits for one in records),
        updated=datetime(1970, 1, 1, tzinfo=UTC)
        + timedelta(microseconds=max(one.updated for one in records)),
        outputs=tuple(owned_topics(log, name)),
    )
