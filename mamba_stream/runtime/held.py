"""What savepoints hold of a job and its tasks, and what is let go of with a job."""

from __future__ import annotations

from mamba_stream.core.names import check_name
from mamba_stream.errors import AlreadyExists
from mamba_stream.log import Log, Transaction
from mamba_stream.runtime.progress import (
    Savepoint,
    decode_record,
    decode_savepoint,
    encode,
)
from mamba_stream.runtime.standing import SAVEPOINTS, kept_of, place_of_task, tasks_of


def forget_tasks(tx: Transaction, log: Log, job: str, *, held: bool = True) -> None:
    """Lets go, within a transaction, of all that the tasks of a job had, and of what was on its way between them.

    Args:
        tx: The transaction.
        log: The log.
        job: The job's name.
        held: But not of what savepoints hold.
    """
    for key in log.records(tasks_of(job)):
        tx.delete_record(tasks_of(job), key)
    kept = held_states(log, job) if held else {}
    for name in log.topics(internal=True):
        kind, _, rest = name.partition(".")
        owner, _, number = rest.rpartition(".")
        if kind in ("_tasks", "_exchange") and owner == job:
            ends = {p: end for p, (_, end) in log[name].offsets().items()}
            if kind == "_tasks":
                ends = {p: min([end, *kept.get(f"{number}/{p}", ())]) for p, end in ends.items()}
            tx.trim(name, ends)


def held_states(log: Log, job: str) -> dict[str, list[int]]:
    """Where the states of tasks begin that savepoints hold, by the key of the task."""
    found: dict[str, list[int]] = {}
    for key, data in log.records(kept_of(job)).items():
        found.setdefault(key.partition("/")[2], []).append(decode_savepoint(data).base)
    return found


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
    for key, data in log.records(tasks_of(job)).items():
        # Whatever a task commits from here on does not belong to it.
        tx.require_record(tasks_of(job), key, data)
        stage, _, task = key.partition("/")
        place = place_of_task(job, int(stage), int(task))
        end = log[place.topic].offsets()[place.partition][1]
        held = Savepoint(decode_record(data).base, end, savepoint.created)
        tx.put_record(kept_of(job), f"{name}/{key}", encode(held))


def remove_savepoint(tx: Transaction, log: Log, job: str, name: str) -> None:
    """Lets go of a savepoint within a transaction."""
    tx.delete_record(SAVEPOINTS, f"{job}/{name}")
    for key in log.records(kept_of(job)):
        if key.partition("/")[0] == name:
            tx.delete_record(kept_of(job), key)
