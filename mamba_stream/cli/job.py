"""``mamba-stream job``: what a log knows of the pipelines that ran over it."""

from __future__ import annotations

import click

from mamba_stream.cli.options import log_option, open_place, output_option


@click.group()
def job() -> None:
    """Jobs: list, reset."""


@job.command(name="list")
@output_option
@log_option
def list_jobs(output: str, place: str | None) -> None:
    """List the jobs: where each is, and whether it runs."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.runtime import jobs

    with open_place(place) as log:
        rows = [
            {
                "job": found.name,
                "state": found.state,
                "where": found.where,
                "commits": found.commits,
                "last commit": found.updated,
                "topics": list(found.outputs),
            }
            for found in jobs.list_jobs(log)
        ]
        print_list(rows, output, empty=f"no jobs in {log.path}")


@job.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@log_option
def reset(name: str, yes: bool, place: str | None) -> None:
    """Forget a job's offsets and state, and empty its output topics; its next run starts over."""
    from mamba_stream.runtime import jobs

    with open_place(place) as log:
        jobs.find_job(log, name)
        if not yes:
            click.confirm(f"forget the state of {name}, and empty its output topics?", abort=True, err=True)
        jobs.reset_job(log, name)
    click.echo(f"reset {name}")
