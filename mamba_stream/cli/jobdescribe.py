"""How ``mamba-stream job describe`` prints a job."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli.printing import encode, print_facts, print_list

if TYPE_CHECKING:
    from mamba_stream.log import Log
    from mamba_stream.runtime.describing import JobDescription
    from mamba_stream.runtime.jobs import JobFacts

_ERRORS = 3
"""How many of the last things that went wrong are shown."""


def print_description(
    log: Log, facts: JobFacts, described: JobDescription | None, unheard: str, output: str
) -> None:
    """Prints what is known of a job.

    Args:
        log: The log.
        facts: What the log knows of it.
        described: What it says itself, if it runs.
        unheard: Why it says nothing, though it runs.
        output: ``table`` or ``json``.
    """
    from mamba_stream.runtime.jobs import readings_of
    from mamba_stream.runtime.journal import read_journal

    readings = [asdict(reading) for reading in readings_of(log, facts.name)]
    wrong = [event for event in read_journal(log, facts.name) if event.wrong][-_ERRORS:]
    summary: dict[str, Any] = {
        "job": facts.name,
        "state": facts.state,
        "where": facts.where,
        "workers": facts.workers,
        "commits": facts.commits,
        "last commit": facts.updated,
        "topics": list(facts.outputs),
    }
    if described is not None:
        status = described.status
        counts = ("rows_in", "rows_out", "late", "rejected", "failed")
        summary |= {name.replace("_", " "): getattr(status, name) for name in counts}
        summary["processes"] = {f"worker {number}": pid for number, pid in described.workers.items()}
        summary["state bytes"] = dict(status.state_bytes)
    stages = [] if described is None else _stages(described)
    tasks = [] if described is None else _tasks(described)
    errors = [{"at": event.at, "run": event.run, "what": event.text} for event in wrong]
    if output == "json":
        parts = {"reading": readings, "stages": stages, "tasks": tasks, "errors": errors, "unheard": unheard}
        click.echo(encode({**summary, **parts}))
        return
    print_facts(summary, output)
    for title, rows in (
        ("reading", readings),
        ("stages", stages),
        ("tasks", _in_percent(tasks)),
        ("last errors", errors),
    ):
        if rows:
            click.echo(f"\n{title}")
            print_list(rows, output, empty="")
    if unheard:
        click.echo(unheard, err=True)


def _stages(described: JobDescription) -> list[dict[str, Any]]:
    status = described.status
    return [
        {
            "stage": stage.number,
            "what": stage.what,
            "tasks": sum(task.stage == stage.number for task in status.tasks),
            "lag": described.lag.get(stage.number, 0),
            "watermark": stage.watermark,
        }
        for stage in status.stages
    ]


def _tasks(described: JobDescription) -> list[dict[str, Any]]:
    return [
        {
            "task": f"{task.stage}/{task.number}",
            "worker": task.worker,
            "positions": {source: dict(found) for source, found in task.positions.items()},
            "rows in": task.rows_in,
            "rows out": task.rows_out,
            "commits": task.commits,
            "state bytes": task.state_bytes,
            "busy": task.busy,
            "idle": task.idle,
            "backpressured": task.backpressured,
        }
        for task in described.status.tasks
    ]


def _in_percent(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tasks as people read them: shares in percent, and positions only once, which stand above."""
    shares = ("busy", "idle", "backpressured")
    return [
        {
            name: f"{value:.0%}" if name in shares else value
            for name, value in task.items()
            if name != "positions"
        }
        for task in tasks
    ]
