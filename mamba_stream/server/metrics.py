"""What ``/metrics`` tells Prometheus: the queues' six figures, jobs, commits, calls, connections, a listener's life.

Labels are the log's topics and groups, actions and outcomes of calls, reasons and checks: each a set that does not
grow with what clients send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from mamba_stream.core.clock import Clock
from mamba_stream.core.histogram import cumulative
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log
from mamba_stream.server.jobmetrics import AskJobs, JobMetrics
from mamba_stream.server.orders import Figures
from mamba_stream.server.readiness import Readiness
from mamba_stream.server.scrubber import Scrubber
from mamba_stream.server.supervisor import Supervisor

_KEPT: Final = 5.0
"""Seconds for which the queues' figures are not asked for again: they cost a look at every group."""
_TIMEOUT: Final = 1.0
_ESTABLISHED: Final = "01"


class Queue(Protocol):
    """A topic's or a group's six figures."""

    @property
    def per_second(self) -> float: ...
    @property
    def consumers(self) -> int: ...
    @property
    def latency_p50(self) -> float | None: ...
    @property
    def latency_p99(self) -> float | None: ...
    @property
    def producers(self) -> int: ...
    @property
    def backlog(self) -> int | None: ...
    @property
    def bytes(self) -> int: ...


class Queues(Protocol):
    """Those of all topics and groups."""

    @property
    def topics(self) -> Iterable[Any]: ...
    @property
    def groups(self) -> Iterable[Any]: ...


Ask = Callable[[Log], Queues]

_SIX: Final = (
    ("backlog_messages", "backlog", "Messages that are still to be done; of a topic, by its slowest group."),
    (
        "messages_per_second",
        "per_second",
        "Messages appended, or acknowledged by a group, by the second, over a minute.",
    ),
    ("consumers", "consumers", "Clients that receive."),
    (
        "latency_p50_seconds",
        "latency_p50",
        "From append to acknowledgement, which half did not exceed in a minute.",
    ),
    (
        "latency_p99_seconds",
        "latency_p99",
        "From append to acknowledgement, which 99 of 100 did not exceed in a minute.",
    ),
    ("producers", "producers", "Clients that send."),
    ("size_bytes", "bytes", "What it takes on disk; of a group, its backlog."),
)


def registry_of(
    log: Log,
    ask: Ask,
    ask_jobs: AskJobs,
    supervisor: Supervisor,
    readiness: Readiness,
    clock: Clock,
    version: str,
    scrubber: Scrubber,
) -> CollectorRegistry:
    """All that ``/metrics`` tells."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(_Queues(log, ask, clock))
    registry.register(JobMetrics(log, ask_jobs))
    registry.register(_Server(log, supervisor, readiness, version, scrubber))
    return registry


class _Queues(Collector):
    def __init__(self, log: Log, ask: Ask, clock: Clock) -> None:
        self._log = log
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._asked = -_KEPT
        self._found: Queues | None = None

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._asked >= _KEPT:
                try:
                    self._found = self._ask(self._log)
                except MambaStreamError:
                    # That the log cannot be read is told by what /readyz checks.
                    self._found = None
                self._asked = self._clock.monotonic()
            found = self._found
        if found is None:
            return
        for kind, each in (("topic", found.topics), ("group", found.groups)):
            yield from _six(kind, list(each))
        messages = GaugeMetricFamily(
            "mamba_stream_topic_messages", "Messages that it holds.", labels=["topic"]
        )
        for topic in found.topics:
            messages.add_metric([topic.topic], topic.messages)
        yield messages


def _six(kind: str, each: list[Any]) -> Iterator[Metric]:
    for name, attribute, words in _SIX:
        family = GaugeMetricFamily(f"mamba_stream_{kind}_{name}", words, labels=[kind])
        for one in each:
            value = getattr(one, attribute)
            if value is not None:
                family.add_metric([getattr(one, kind)], value)
        yield family


class _Server(Collector):
    def __init__(
        self, log: Log, supervisor: Supervisor, readiness: Readiness, version: str, scrubber: Scrubber
    ) -> None:
        self._scrubber = scrubber
        self._log = log
        self._supervisor = supervisor
        self._readiness = readiness
        self._version = version

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("mamba_stream_build", "The version.", {"version": self._version})
        yield _gauge("ready", "Whether the server can do its work.", self._readiness.ready)
        checks = GaugeMetricFamily(
            "mamba_stream_check_passed", "Whether a check of readiness found nothing.", labels=["check"]
        )
        for name, wrong in self._readiness.found().items():
            checks.add_metric([name], wrong is None)
        yield checks
        yield from self._of_log()
        yield from self._of_listener()

    def _of_log(self) -> Iterator[Metric]:
        looked_at, damaged = self._scrubber.bytes, self._scrubber.findings
        yield _counter("log_scrubbed_bytes", "What was looked at for damage.", looked_at)
        yield _counter("log_scrub_findings", "Batches that were damaged or missing then.", damaged)
        try:
            yield _counter("log_commits", "Commits of the log since it exists, by whomever.", self._log.lsn())
            found = self._log.statistics()
        except MambaStreamError:
            return
        yield _gauge("disk_bytes", "How large the log's disk is.", found.disk_bytes)
        yield _gauge("disk_free_bytes", "What is left on the log's disk.", found.disk_free)
        reached = GaugeMetricFamily(
            "mamba_stream_disk_mark_reached", "Whether a mark of the log's disk is reached.", labels=["mark"]
        )
        reached.add_metric(["soft"], found.disk_state != "ample")
        reached.add_metric(["hard"], found.disk_state == "hard")
        yield reached
        yield _gauge("ballast_bytes", "What goes where there is no room to delete.", found.ballast_bytes)
        yield _counter("upkeep_runs", "How often upkeep was done.", found.upkeep_runs)
        yield _counter("upkeep_trimmed_rows", "Rows that retention removed.", found.trimmed_rows)
        yield _counter("upkeep_unread_rows", "Those of them that groups had yet to read.", found.unread_rows)
        yield _counter("upkeep_compacted_rows", "Rows that compaction removed.", found.compacted_rows)
        yield _counter(
            "upkeep_written_bytes", "What was written anew to seal and to compact.", found.written_bytes
        )

    def _of_listener(self) -> Iterator[Metric]:
        found = self._supervisor.figures(_TIMEOUT)
        calls = CounterMetricFamily(
            "mamba_stream_calls", "Calls that ended, by action and outcome.", labels=["action", "outcome"]
        )
        for action, outcomes in found.calls.items():
            for outcome, count in outcomes.items():
                calls.add_metric([action, outcome], count)
        yield calls
        yield _gauge("calls_active", "Calls in flight.", found.active)
        yield _counter("received_bytes", "Bytes of rows that clients sent.", found.received)
        yield _counter("sent_bytes", "Bytes of rows that clients got.", found.sent)
        yield _counter("commits", "Synced transactions of the server.", found.commits)
        yield _counter(
            "commit_changes", "Change sets in them; callers that come together share one.", found.changes
        )
        yield _counter("commit_refused", "Change sets that were refused.", found.refused)
        no_room = CounterMetricFamily(
            "mamba_stream_commit_refused_for_room",
            "Those of them that a mark of the disk refused, or the quota of a topic.",
            labels=["reason"],
        )
        no_room.add_metric(["disk"], found.disk_refused)
        no_room.add_metric(["quota"], found.quota_refused)
        yield no_room
        yield HistogramMetricFamily(
            "mamba_stream_commit_seconds",
            "Time that transactions of the server took, such as were refused included.",
            buckets=cumulative(found.commit_times),
            sum_value=found.commit_seconds,
        )
        yield from _of_guard(found)
        expires = self._supervisor.orders.tls_expires
        if expires is not None:
            yield _gauge(
                "certificate_expires_timestamp_seconds", "When the server's certificate ends.", expires
            )
        child = self._supervisor.child
        yield _gauge("listener_up", "Whether a listener answers.", child is not None)
        if child is not None:
            yield _gauge(
                "connections", "Connections to the listener.", connections(child.pid, child.port or 0)
            )
            yield _gauge("listener_memory_bytes", "What the listener uses.", child.memory)
        yield _gauge("listener_memory_limit_bytes", "What it may use.", self._supervisor.orders.memory)
        restarts = CounterMetricFamily(
            "mamba_stream_listener_restarts", "How often it was started again, by reason.", labels=["reason"]
        )
        for reason in ("died", "memory"):
            restarts.add_metric([reason], self._supervisor.restarts[reason])
        yield restarts


def _of_guard(found: Figures) -> Iterator[Metric]:
    """What became of those who call a server with users; without users nobody is refused."""
    refused = CounterMetricFamily(
        "mamba_stream_refused", "Calls that were refused to those who made them, by kind.", labels=["kind"]
    )
    for kind in ("unauthenticated", "denied", "throttled"):
        refused.add_metric([kind], found.guard.get(kind, 0))
    yield refused
    reloads = CounterMetricFamily(
        "mamba_stream_users_reloads", "How often the users were read again, by outcome.", labels=["outcome"]
    )
    for outcome, name in (("ok", "reloads"), ("failed", "failed_reloads")):
        reloads.add_metric([outcome], found.guard.get(name, 0))
    yield reloads
    yield _counter("audit_rows", "Rows that were written to the audit topic.", found.audit.get("rows", 0))
    yield _counter(
        "audit_dropped", "Events for which the audit topic had no room.", found.audit.get("dropped", 0)
    )


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mamba_stream_{name}", words, value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"mamba_stream_{name}", words, value)


def connections(pid: int, port: int) -> int:
    """How many connections a process has at a port that it listens on; 0 where the system does not say."""
    wanted = f":{port:04X}"
    found = 0
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            found += fields[1].endswith(wanted) and fields[3] == _ESTABLISHED
    return found
