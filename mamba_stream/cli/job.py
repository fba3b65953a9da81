"""``mamba-stream job``: what a log knows of the pipelines that ran over it."""

from __future__ import annotations

import click

from mamba_stream.cli.options import log_option, open_place, output_option


@click.group()
def job() -> None:
    """Jobs: list, reset, savepoints."""


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
        print_list(rows, output, empty=f"no jobs in {log.place}")


@job.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@log_option
def reset(name: str, yes: bool, place: str | None) -> None:
    """Forget a job's offsets and state, and empty its output topics; its next run starts over.

    What it wrote to sinks its next run has them remove, where they can, before it writes.
    """
    from mamba_stream.runtime import jobs

    with open_place(place) as log:
        jobs.find_job(log, name)
        if not yes:
            click.confirm(f"forget the state of {name}, and empty its output topics?", abort=True, err=True)
        done = jobs.reset_job(log, name)
    click.echo(f"reset {name}: its state and offsets are forgotten")
    if done.savepoints:
        click.echo(f"gone are its savepoints {', '.join(done.savepoints)}")
    if done.emptied:
        click.echo(f"emptied topics {', '.join(done.emptied)}")
    for sink in done.sinks:
        click.echo(
            f"sink {sink} has what the job wrote until its next run, which has it removed, if the sink can do that "
            "(files can), before it writes anew"
        )


@job.command()
@click.argument("name")
@click.argument("savepoint")
@log_option
def savepoint(name: str, savepoint: str, place: str | None) -> None:
    """Keep what a job that does not run remembers, as SAVEPOINT, until it is deleted.

    mamba-stream run FILE --state SAVEPOINT goes back to it.
    """
    from mamba_stream.runtime.savepoints import make_savepoint

    with open_place(place) as log:
        make_savepoint(log, name, savepoint)
    click.echo(f"kept the state of {name} as {savepoint}")


@job.command(name="savepoints")
@click.argument("name")
@click.option("--delete", metavar="SAVEPOINT", help="Let go of one.")
@output_option
@log_option
def savepoints(name: str, delete: str | None, output: str, place: str | None) -> None:
    """List a job's savepoints, or delete one."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.runtime.savepoints import delete_savepoint, list_savepoints

    with open_place(place) as log:
        if delete is not None:
            delete_savepoint(log, name, delete)
            click.echo(f"deleted {delete}")
            return
        rows = [{"savepoint": found.name, "made": found.created} for found in list_savepoints(log, name)]
        print_list(rows, output, empty=f"job {name} has no savepoints")


@job.command()
@click.argument("pipeline", metavar="FILE")
@log_option
def check(pipeline: str, place: str | None) -> int:
    """Say what the pipeline in FILE could keep of its job's state, before it is run; changes nothing.

    Exits with 1 where it does not fit.
    """
    from mamba_stream.cli.loading import load_pipeline
    from mamba_stream.runtime.prepared import check_upgrade

    made = load_pipeline(pipeline)
    with open_place(place) as log:
        upgrade = check_upgrade(made, log)
    click.echo(upgrade)
    return 0 if upgrade.fits else 1


@job.command()
@click.argument("pipeline", metavar="FILE")
@click.argument("step")
@output_option
@log_option
def state(pipeline: str, step: str, output: str, place: str | None) -> None:
    """Show what STEP of the pipeline in FILE remembers, as of its job's last commit."""
    from mamba_stream.cli.loading import load_pipeline
    from mamba_stream.cli.printing import print_list
    from mamba_stream.runtime.prepared import Prepared
    from mamba_stream.runtime.viewing import view_state

    made = load_pipeline(pipeline)
    with open_place(place) as log:
        rows = view_state(log, made.name, Prepared(made, log).analysis, step).to_dicts()
    print_list(rows, output, empty=f"step {step} remembers nothing")
