"""Pipelines at work: sources and their time, the loop, state, commits, jobs."""

# What the verbs of modules of their own do is registered when these are imported.
from mamba_stream.runtime import (  # noqa: F401
    changelog_steps,
    join_steps,
    neighbour_steps,
    process_steps,
    window_steps,
)
from mamba_stream.runtime.facts import JobStatus, RunSummary
from mamba_stream.runtime.job import Job

__all__ = ["Job", "JobStatus", "RunSummary"]
