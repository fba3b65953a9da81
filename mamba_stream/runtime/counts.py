"""What a job, or a task of one, has done, in numbers; and the line in which a run ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

import msgspec

from mamba_stream.core.durations import ticks_per_day
from mamba_stream.operators.tally import Tally
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.runtime.facts import RunSummary, State


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """Rows since a job first began.

    Attributes:
        rows_in: Read from sources.
        rows_out: Given to topics and sinks.
        late: Too late for a step.
        rejected: Without a time, or with one too far ahead.
        failed: Left out, since a step raised over them.
    """

    rows_in: int = 0
    rows_out: int = 0
    late: int = 0
    rejected: int = 0
    failed: int = 0

    def since(self, before: Counts) -> Counts:
        """What came since."""
        return Counts(*(now - then for now, then in zip(_all(self), _all(before), strict=True)))


class StepLateness(msgspec.Struct, frozen=True, array_like=True):
    """How late the rows of a step were: how many rows came at all, and by how much lateness fell short, as a tally."""

    rows: int
    short: dict[int, int]


def added(counts: Iterable[Counts]) -> Counts:
    """All of them together."""
    return Counts(*(sum(column) for column in zip(*map(_all, counts), strict=True)))


def added_lateness(parts: Iterable[StepLateness]) -> StepLateness:
    """All of them together."""
    rows, short = 0, dict[int, int]()
    for part in parts:
        rows += part.rows
        for bucket, count in part.short.items():
            short[bucket] = short.get(bucket, 0) + count
    return StepLateness(rows, short)


def summary_of(
    name: str,
    analysis: Analysis,
    state: State,
    counts: Counts,
    seconds: float,
    lateness: Mapping[str, StepLateness],
) -> RunSummary:
    """How a run ended.

    Args:
        name: The job's name.
        analysis: Its plan.
        state: How it ended.
        counts: What it did in this run.
        seconds: How long it took.
        lateness: How late rows were since the job first began, by step.
    """
    judging = [step for step in analysis.steps if step.by_time]
    return RunSummary(
        name=name,
        state=state,
        rows_in=counts.rows_in,
        rows_out=counts.rows_out,
        late=counts.late,
        rejected=counts.rejected,
        failed=counts.failed,
        seconds=seconds,
        lateness_for_999={step.name: _enough(step, analysis, lateness.get(step.name)) for step in judging},
        lateness={step.name: _lateness(step, analysis) for step in judging},
    )


def _lateness(step: n.Stateful, analysis: Analysis) -> timedelta:
    given = [node.lateness for node in n.walk([step]) if isinstance(node, n.WithTime)]
    given = given or [node.lateness for node in analysis.sources_of(step)]
    return timedelta(microseconds=max(given))


def _enough(step: n.Stateful, analysis: Analysis, found: StepLateness | None) -> timedelta:
    if found is None:
        return _lateness(step, analysis)
    more = Tally(found.short).covering(found.rows / 1000)
    per_day = ticks_per_day(analysis.shapes[step.parents[0]].time_type)
    return _lateness(step, analysis) + timedelta(microseconds=-(-more * 86_400_000_000 // per_day))


def _all(counts: Counts) -> tuple[int, ...]:
    return counts.rows_in, counts.rows_out, counts.late, counts.rejected, counts.failed
