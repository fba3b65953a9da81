"""What ``/metrics`` tells of the jobs that run over the log, wherever they run: the log knows of their commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log


class JobFigures(Protocol):
    """A job, as its last commit left it."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def commits(self) -> int: ...
    @property
    def updated(self) -> datetime: ...


AskJobs = Callable[[Log], Iterable[JobFigures]]


class JobMetrics(Collector):
    """Of each job whether it runs, on how many workers, and its commits. Its lag is that of its group, ``job.NAME``."""

    def __init__(self, log: Log, ask: AskJobs) -> None:
        self._log = log
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        running, workers, updated = (
            GaugeMetricFamily(f"mamba_stream_job_{name}", words, labels=["job"])
            for name, words in (
                ("running", "Whether it runs."),
                ("workers", "Workers that run it; 0 while it does not run."),
                ("last_commit_timestamp_seconds", "When its last commit was."),
            )
        )
        commits = CounterMetricFamily(
            "mamba_stream_job_commits", "Its commits since it began, of all its tasks.", labels=["job"]
        )
        try:
            jobs = list(self._ask(self._log))
        except MambaStreamError:
            # That the log cannot be read is told by what /readyz checks.
            return
        for job in jobs:
            running.add_metric([job.name], job.state == "running")
            workers.add_metric([job.name], job.workers)
            updated.add_metric([job.name], job.updated.timestamp())
            commits.add_metric([job.name], job.commits)
        yield from (running, workers, updated, commits)
