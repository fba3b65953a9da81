"""``mamba-stream job``: what a log knows of the pipelines that ran over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mamba_stream.cli.options import log_option, open_place, output_option

if TYPE_CHECKING:
    from mamba_stream.log import Log
    from mamba_stream.runtime.requests import What

_Function = TypeVar("_Function", bound=Callable[..., Any])


@click.group()
def job() -> None:
    """Jobs: what there are, what they do, and asking something of one that runs."""


def _timeout_option(seconds: float) -> Callable[[_Function], _Function]:
    """``--timeout``: how long to wait for what is asked of a job."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=seconds,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait until it is done. What the job has not begun by then is withdrawn.",
    )


def _ask(log: Log, name: str, what: What, timeout: float) -> tuple[str, bytes]:
    from mamba_stream.runtime.asking import ask

    try:
        return ask(log, name, what, timeout)
    except TimeoutError as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(1) from None


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
                "workers": found.workers,
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
@_timeout_option(10.0)
@output_option
@log_option
def describe(name: str, timeout: float, output: str, place: str | None) -> None:
    """Show what a job is doing: its stages and tasks, who runs them, how far they are, and what went wrong last.

    One that runs is asked; of any other, this is what its last commit left.
    """
    from mamba_stream.cli.jobdescribe import print_description
    from mamba_stream.runtime.asking import ask
    from mamba_stream.runtime.describing import decode_description
    from mamba_stream.runtime.jobs import find_job
    from mamba_stream.runtime.requests import Describe

    with open_place(place) as log:
        facts, described, unheard = find_job(log, name), None, ""
        if facts.where:
            try:
                described = decode_description(ask(log, name, Describe(), timeout)[1])
            except TimeoutError as error:
                unheard = str(error)
        print_description(log, facts, described, unheard, output)


@job.command()
@click.argument("name")
@_timeout_option(60.0)
@log_option
def stop(name: str, timeout: float, place: str | None) -> None:
    """Stop a job that another process runs: it finishes what it has in hand, commits, and ends.

    The same pipeline, run again, goes on there.
    """
    from mamba_stream.runtime.requests import Stop

    with open_place(place) as log:
        said, _ = _ask(log, name, Stop(), timeout)
    click.echo(said)


@job.command()
@click.argument("name")
@_timeout_option(30.0)
@log_option
def cancel(name: str, timeout: float, place: str | None) -> None:
    """End a job that another process runs at once, without a commit.

    Its next run does again what was not committed.
    """
    from mamba_stream.runtime.requests import Cancel

    with open_place(place) as log:
        said, _ = _ask(log, name, Cancel(), timeout)
    click.echo(said)


@job.command()
@click.argument("name")
@click.argument("workers", type=click.IntRange(1))
@_timeout_option(60.0)
@log_option
def rescale(name: str, workers: int, timeout: float, place: str | None) -> None:
    """Have a job that another process runs go on with so many WORKERS; only the tasks that must move do.

    Only a job that was begun with several workers can be.
    """
    from mamba_stream.runtime.requests import Rescale

    with open_place(place) as log:
        said, _ = _ask(log, name, Rescale(workers), timeout)
    click.echo(f"{name} {said}")


@job.command()
@click.argument("name")
@click.argument("savepoint")
@_timeout_option(60.0)
@log_option
def savepoint(name: str, savepoint: str, timeout: float, place: str | None) -> None:
    """Keep what a job remembers, as SAVEPOINT, until it is deleted; one that runs commits first.

    mamba-stream run FILE --state SAVEPOINT goes back to it.
    """
    from mamba_stream.runtime.jobs import find_job
    from mamba_stream.runtime.requests import Savepoint
    from mamba_stream.runtime.savepoints import check_savepoint, make_savepoint

    check_savepoint(savepoint)
    with open_place(place) as log:
        if find_job(log, name).where:
            _ask(log, name, Savepoint(savepoint), timeout)
        else:
            make_savepoint(log, name, savepoint)
    click.echo(f"kept the state of {name} as {savepoint}")


@job.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("-n", "--last", type=click.IntRange(0), metavar="N", help="Only the last N events.")
@output_option
@log_option
def logs(name: str, follow: bool, last: int | None, output: str, place: str | None) -> None:
    """Show what happened to a job: runs, workers, tasks that moved, what was asked of it, errors.

    The log keeps the last 256 events of each job.
    """
    from mamba_stream.cli.joblogs import print_events
    from mamba_stream.runtime.jobs import find_job

    with open_place(place) as log:
        find_job(log, name)
        print_events(log, name, follow=follow, last=last, output=output)


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
    from mamba_stream.runtime.altered import check_upgrade

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
    from mamba_stream.runtime.altered import planned
    from mamba_stream.runtime.viewing import view_state

    made = load_pipeline(pipeline)
    with open_place(place) as log:
        rows = view_state(log, made.name, planned(made, log)[0].analysis, step).to_dicts()
    print_list(rows, output, empty=f"step {step} remembers nothing")
