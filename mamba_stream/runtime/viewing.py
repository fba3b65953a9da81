"""The state of a step as a frame: what the job's last commit holds of it."""

from __future__ import annotations

import polars as pl

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import NotFound
from mamba_stream.log import Log
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.runtime.progress import decode_record
from mamba_stream.runtime.saved import Saved, read_state, read_tasks
from mamba_stream.runtime.standing import JOBS
from mamba_stream.runtime.steps import step_of


def view_state(log: Log, job: str, analysis: Analysis, name: str) -> pl.DataFrame:
    """What a step remembers, as of the job's last commit, whether the job runs or not.

    Args:
        log: The log.
        job: The job's name.
        analysis: Its pipeline.
        name: The step's name.

    Raises:
        NotFound: The pipeline has no step of this name.
    """
    found = {step.name: step for step in analysis.steps}
    if name not in found:
        there = ", ".join(map(repr, found)) or "none with state"
        raise NotFound(f"job {job!r} has no step {name!r}{did_you_mean(name, found)}; there are {there}")
    record = log.record(JOBS, job)
    if record is None:
        return step_of(found[name], analysis).view()
    saved = read_state(log, job, decode_record(record).base)
    if saved.progress.layout is None:
        return _view(found[name], analysis, saved)
    # Of a job over workers, each task has its share of the keys.
    parts = [one for one in read_tasks(log, job).values() if any(owner == name for owner, _, _ in one.state)]
    views = [_view(found[name], analysis, one) for one in parts]
    return pl.concat(views) if views else step_of(found[name], analysis).view()


def _view(node: n.Stateful, analysis: Analysis, saved: Saved) -> pl.DataFrame:
    step = step_of(node, analysis)
    for owner, part, frame in saved.state:
        if owner == node.name:
            step.restore(part, frame)
    if node.name in saved.progress.steps:
        step.restored(saved.progress.steps[node.name].closed)
    return step.view()
