"""A job's status, put together of what its tasks say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.stages import Stage
from mamba_stream.runtime.counts import added
from mamba_stream.runtime.facts import JobStatus, StageStatus, State, TaskStatus
from mamba_stream.runtime.watermarks import Mark, combined, moment_of
from mamba_stream.runtime.workers.layout import TaskName
from mamba_stream.runtime.workers.messages import SourceFacts, TaskFacts


class StatusOf:
    """Puts together what is known of a job; a plan and its stages are looked through once."""

    def __init__(
        self, job: str, analysis: Analysis, names: Mapping[n.Node, str], stages: Sequence[Stage]
    ) -> None:
        """Of a job of which nothing is known yet.

        Args:
            job: The job's name.
            analysis: Its plan.
            names: What the sources are called.
            stages: What the plan is cut into.
        """
        self._job = job
        self._analysis = analysis
        self._names = names
        self._stages = stages
        self._words = {stage.number: _words(stage, stages, names) for stage in stages}

    def __call__(
        self,
        state: State,
        facts: Mapping[TaskName, TaskFacts],
        owners: Mapping[TaskName, int],
        lsn: int | None,
    ) -> JobStatus:
        """The status.

        Args:
            state: What the job is doing.
            facts: What is known of its tasks.
            owners: Which worker has a task.
            lsn: The number of the last commit.
        """
        counts = added(one.counts for one in facts.values())
        sources: dict[str, list[SourceFacts]] = {}
        state_bytes: dict[str, int] = {}
        for one in facts.values():
            for name, found in one.sources.items():
                sources.setdefault(name, []).append(found)
            for name, size in one.state_bytes.items():
                state_bytes[name] = state_bytes.get(name, 0) + size
        waiting = {
            name: tuple(sorted(p for part in parts for p in part.waiting)) for name, parts in sources.items()
        }
        return JobStatus(
            name=self._job,
            state=state,
            rows_in=counts.rows_in,
            rows_out=counts.rows_out,
            late=counts.late,
            rejected=counts.rejected,
            failed=counts.failed,
            watermarks={
                self._names[node]: self._moment(node, _marks(sources.get(self._names[node], ())))
                for node in self._analysis.sources
            },
            positions={
                name: {p: at for part in parts for p, at in part.positions.items()}
                for name, parts in sources.items()
            },
            waiting={name: partitions for name, partitions in waiting.items() if partitions},
            state_bytes=state_bytes,
            commits=sum(one.commits for one in facts.values()),
            lsn=lsn,
            stages=tuple(self._stage(stage, facts) for stage in self._stages),
            tasks=tuple(_task(name, one, owners.get(name)) for name, one in sorted(facts.items())),
        )

    def _stage(self, stage: Stage, facts: Mapping[TaskName, TaskFacts]) -> StageStatus:
        own = [one for name, one in facts.items() if name.stage == stage.number]
        moments = [
            self._moment(node, _marks(one.sources[self._names[node]] for one in own if one.sources))
            for node in stage.sources
        ]
        for exchange in stage.exchanges:
            entered = [one.entered[exchange.number] for one in own if exchange.number in one.entered]
            moments.append(self._moment(exchange.node, (Mark(one.watermark, one.idle) for one in entered)))
        known = [moment for moment in moments if moment is not None]
        return StageStatus(stage.number, self._words[stage.number], min(known, default=None))

    def _moment(self, node: n.Node, marks: Iterable[Mark]) -> datetime | None:
        return moment_of(combined(marks).watermark, self._analysis.shapes[node])


def _marks(parts: Iterable[SourceFacts]) -> Iterable[Mark]:
    return (Mark(one.watermark, one.idle) for one in parts)


def _task(name: TaskName, facts: TaskFacts, worker: int | None) -> TaskStatus:
    busy, backpressured = 0.0, 0.0
    if facts.seconds > 0:
        busy = min(1.0, facts.busy / facts.seconds)
        backpressured = min(1.0 - busy, facts.held_back / facts.seconds)
    return TaskStatus(
        stage=name.stage,
        number=name.number,
        worker=worker,
        rows_in=facts.counts.rows_in + sum(one.rows for one in facts.entered.values()),
        rows_out=facts.counts.rows_out,
        commits=facts.commits,
        positions={source: one.positions for source, one in facts.sources.items()},
        state_bytes=sum(facts.state_bytes.values()),
        busy=busy,
        idle=1.0 - busy - backpressured,
        backpressured=backpressured,
        seconds=facts.seconds,
    )


def _words(stage: Stage, stages: Sequence[Stage], names: Mapping[n.Node, str]) -> str:
    """What a stage does, in a line: what it reads, and the verbs that it does."""
    writers = [other.number for other in stages if {*other.leaves} & {*stage.exchanges}]
    inlets = [*(names[node] for node in stage.sources), *(f"stage {number}" for number in writers)]
    verbs = [node.verb for node in stage.nodes if node not in stage.sources]
    partial = [f"{exchange.partials.verb} (partial)" for exchange in stage.leaves if exchange.partials]
    return f"{', '.join(inlets)}: {', '.join(dict.fromkeys([*verbs, *partial])) or 'read'}"
