"""Pipelines at work: sources and their time, the loop, state, commits, jobs."""

from mamba_stream.runtime import join_steps  # noqa: F401 - what joins do is registered there
from mamba_stream.runtime.facts import JobStatus, RunSummary
from mamba_stream.runtime.job import Job

__all__ = ["Job", "JobStatus", "RunSummary"]
