"""``mamba-stream run``: sets a pipeline to work."""

from __future__ import annotations

from datetime import datetime

import click

from mamba_stream.cli.options import log_option


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
    type=click.Choice(["resume", "new"]),
    default="resume",
    show_default=True,
    help="Go on where the job was, or start over and empty its output topics.",
)
@click.option("--commit", default="1s", show_default=True, metavar="DURATION", help="How often to commit.")
@log_option
def run(pipeline: str, until: str | datetime | None, state: str, commit: str, place: str | None) -> None:
    """Run the pipeline in FILE: a Python file, FILE:NAME, a module, MODULE:NAME, or a ready-made one.

    There is one pipeline at module level, or a function build() that makes it. Stopped with Ctrl-C, it commits
    what it has, and goes on there when it is run again.
    """
    import mamba_stream as mamba
    from mamba_stream.cli.loading import load_pipeline

    click.echo(mamba.run(load_pipeline(pipeline), log=place, until=until, state=state, commit=commit))
