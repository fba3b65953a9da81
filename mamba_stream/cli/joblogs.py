"""How ``mamba-stream job logs`` prints what happened to a job."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mamba_stream.log import Log
    from mamba_stream.runtime.journal import Event

_LOOK = 2.0
"""Seconds between two looks; of new events the log tells by itself."""


def print_events(log: Log, job: str, *, follow: bool, last: int | None, output: str) -> None:
    """Prints what happened to a job.

    Args:
        log: The log.
        job: The job's name.
        follow: Go on with what happens.
        last: Of what has happened by now, so many events at most.
        output: ``table``, or ``json`` (a line each).
    """
    from mamba_stream.runtime.journal import read_journal

    lsn = log.heard()
    events = read_journal(log, job)
    known = events[-1].number if events else -1
    _print(events if last is None else events[len(events) - last :] if last else [], output)
    if not events and not follow:
        click.echo(f"nothing is known to have happened to {job}", err=True)
    while follow:
        lsn = log.wait(lsn, _LOOK)
        events = [event for event in read_journal(log, job) if event.number > known]
        if events:
            known = events[-1].number
            _print(events, output)


def _print(events: Sequence[Event], output: str) -> None:
    from msgspec.structs import asdict

    from mamba_stream.cli.printing import encode

    try:
        for event in events:
            if output == "json":
                click.echo(encode(asdict(event)))
            else:
                at = event.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
                text = event.text.replace("\n", "\n    ")
                click.echo(f"{at} UTC  run {event.run}  {event.what:<9}  {text}")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it has seen enough, as `head` has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None
