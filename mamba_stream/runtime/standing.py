"""Where a job, or a task of one, keeps its record and its state, and what the records are called."""

from __future__ import annotations

import msgspec

JOBS = "jobs"
"""The namespace of the records of jobs."""
OWNED = "jobs.outputs"
"""The namespace that says which topics a job made: ``job/topic``."""
SAVEPOINTS = "jobs.savepoints"
"""The namespace of the records of savepoints: ``job/name``."""
TASKS = "jobs.tasks"
"""How the namespace begins of the records of a job's tasks, where it has several; in it, ``stage/task``."""
KEPT = "jobs.kept"
"""How the namespace begins of what a job's savepoints hold of its tasks; in it, ``savepoint/stage/task``."""
RESETS = "jobs.resets"
"""The namespace of the last records of jobs that start over, until their sinks have removed what they wrote."""


def state_topic(job: str) -> str:
    """The topic that holds a job's state."""
    return f"_state.{job}"


class Place(msgspec.Struct, frozen=True):
    """Where a job, or a task of one, keeps its record and its state.

    Attributes:
        job: The job.
        namespace: Of the record.
        key: Of the record.
        topic: Holds the state.
        partition: Which partition of it.
        words: Whose place it is, for messages.
    """

    job: str
    namespace: str
    key: str
    topic: str
    partition: int
    words: str


def place_of_job(job: str) -> Place:
    """The place of a job that is one task."""
    return Place(job, JOBS, job, state_topic(job), 0, f"job {job!r}")


def place_of_task(job: str, stage: int, task: int) -> Place:
    """The place of one of a job's tasks."""
    words = f"task {task} of stage {stage} of job {job!r}"
    return Place(job, tasks_of(job), task_key(stage, task), f"_tasks.{job}.{stage}", task, words)


def kept_of(job: str) -> str:
    """The namespace of what a job's savepoints hold of its tasks."""
    return f"{KEPT}/{job}"


def tasks_of(job: str) -> str:
    """The namespace of the records of a job's tasks."""
    return f"{TASKS}/{job}"


def task_key(stage: int, task: int) -> str:
    """What the record of a task is called."""
    return f"{stage}/{task}"
