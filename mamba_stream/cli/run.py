"""``mamba-stream run``: sets a pipeline to work."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from datetime import datetime
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from mamba_stream.cli.options import durability_option, log_option

if TYPE_CHECKING:
    from mamba_stream.cli.live import LiveView
    from mamba_stream.runtime.facts import RunSummary
    from mamba_stream.runtime.job import Job

_LOOK = 0.2
_END = 5.0
"""Seconds that a job may take to end at once; a function that hangs then ends with the process."""


def _until(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | datetime | None:
    if value is None or value in ("stopped", "now"):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        said = f"{value!r} is neither 'stopped', 'now' nor a time (2013-01-31T12:00)"
        raise click.BadParameter(said) from None


def _workers(_context: click.Context, _parameter: click.Parameter, value: str) -> int | str:
    if re.fullmatch(r"[1-9]\d*|auto(:\d+-\d+)?|exactly:\d+", value, re.ASCII) is None:
        raise click.BadParameter(
            f"{value!r} is neither a number from 1 on nor 'auto', 'auto:1-8' or 'exactly:2'"
        )
    return int(value) if value.isdigit() else value


@click.command()
@click.argument("pipeline", metavar="FILE")
@click.option(
    "--until",
    callback=_until,
    metavar="stopped|now|TIME",
    help="When to end. Left out: where all sources end, else when stopped.",
)
@click.option(
    "--state",
    default="resume",
    show_default=True,
    metavar="resume|new|upgrade|SAVEPOINT",
    help="Go on where the job was; start over and empty its output topics; keep what a changed pipeline can; go "
    "back to a savepoint.",
)
@click.option("--commit", default="1s", show_default=True, metavar="DURATION", help="How often to commit.")
@click.option(
    "--latency",
    metavar="DURATION",
    help="How long a row should be on its way at most. Left out, whatever is efficient.",
)
@click.option(
    "--workers",
    callback=_workers,
    default="1",
    show_default=True,
    metavar="N|auto|auto:N-M|exactly:N",
    help="How many workers run it: 1 is this process, more are processes of their own, where that is faster; auto: as "
    "many as the load takes; exactly: though one were faster.",
)
@click.option(
    "--grace",
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="How long it may finish what it has in hand when it is to end (Ctrl-C, SIGTERM), before it is cancelled.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no view of it while it runs.")
@durability_option("interval")
@log_option
def run(
    pipeline: str,
    until: Any,
    state: Any,
    commit: str,
    latency: str | None,
    workers: int | str,
    grace: str,
    quiet: bool,
    durability: str,
    place: str | None,
) -> int:
    """Run the pipeline in FILE: a Python file, FILE:NAME, a module, MODULE:NAME, or a ready-made one.

    There is one pipeline at module level, or a function build() that makes it. Told to end, by Ctrl-C or SIGTERM, it
    commits what it has, and goes on there when it is run again; told so twice, it ends without.
    """
    import mamba_stream as mamba
    from mamba_stream.cli.live import watching
    from mamba_stream.cli.loading import load_pipeline
    from mamba_stream.core.durations import duration_us

    patience = duration_us(grace, what="grace", zero=True) / 1_000_000
    made = load_pipeline(pipeline)
    with _Signals() as signals:
        job = mamba.start(
            made,
            log=place,
            until=until,
            state=state,
            commit=commit,
            latency=latency,
            workers=workers,
            durability=durability,
        )
        if job.note:
            click.echo(f"{job.name}: {job.note}", err=True)
        signals.at_work = True
        with watching(job, quiet=quiet) as view:
            while job.status.state == "running" and not signals.received:
                _wait(job, view)
            summary = _ended(job, signals, patience, view) if signals.received else job.wait()
    click.echo(summary)
    return 128 + signals.received[0] if signals.received else 0


def _wait(job: Job, view: LiveView | None) -> None:
    with contextlib.suppress(TimeoutError):
        job.wait(_LOOK)
    if view is not None:
        view.look()


def _ended(job: Job, signals: _Signals, patience: float, view: LiveView | None) -> RunSummary:
    """Has the job finish what it has in hand, and cancels it where that takes too long, or it is told to end again."""
    click.echo(
        f"{job.name} is to end: it finishes what it has in hand; once more cancels it at once", err=True
    )
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0 and len(signals.received) == 1:
        with contextlib.suppress(TimeoutError):
            return job.stop(min(left, _LOOK))
        if view is not None:
            view.look()
    why = "told again to end" if len(signals.received) > 1 else f"not done within {patience:g} s (--grace)"
    click.echo(f"{job.name} is cancelled, {why}: what it had committed stays", err=True)
    try:
        job.cancel(_END)
    except TimeoutError:
        click.echo(f"a function of {job.name} does not end, and is ended with the process", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # A thread of Python's cannot be ended otherwise; workers' processes end with this one.
        os._exit(128 + signals.received[0])
    return job.wait()


class _Signals:
    """Takes Ctrl-C and the wish to terminate down instead of raising: libraries below do not expect an exception.

    One that comes when there is no job yet to be told of the second raises; so does the third.

    Attributes:
        received: The numbers of those that came.
        at_work: Whether somebody looks at them.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.at_work = False

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if len(self.received) > (2 if self.at_work else 1):
            raise KeyboardInterrupt
