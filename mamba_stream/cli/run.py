"""``mamba-stream run``: sets a pipeline to work."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from datetime import datetime
from types import FrameType
from typing import Any

import click

from mamba_stream.cli.options import log_option

_LOOK = 0.2


def _until(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | datetime | None:
    if value is None or value in ("stopped", "now"):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        said = f"{value!r} is neither 'stopped', 'now' nor a time (2013-01-31T12:00)"
        raise click.BadParameter(said) from None


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
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many workers run it: 1 is this process, more are processes of their own.",
)
@log_option
def run(
    pipeline: str, until: Any, state: Any, commit: str, latency: str | None, workers: int, place: str | None
) -> int:
    """Run the pipeline in FILE: a Python file, FILE:NAME, a module, MODULE:NAME, or a ready-made one.

    There is one pipeline at module level, or a function build() that makes it. Stopped with Ctrl-C, it commits
    what it has, and goes on there when it is run again.
    """
    import mamba_stream as mamba
    from mamba_stream.cli.loading import load_pipeline

    made = load_pipeline(pipeline)
    with _signals() as received:
        job = mamba.start(
            made, log=place, until=until, state=state, commit=commit, latency=latency, workers=workers
        )
        while job.status.state == "running" and not received:
            with contextlib.suppress(TimeoutError):
                job.wait(_LOOK)
        summary = job.stop() if received else job.wait()
    click.echo(summary)
    return 128 + received[0] if received else 0


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Takes Ctrl-C and the wish to terminate down instead of raising: libraries below do not expect an exception.

    A second one raises.
    """
    received: list[int] = []

    def take(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
