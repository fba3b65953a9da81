"""``mamba-stream bench``: measures this machine, against its own limits in the same run."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def bench() -> None:
    """Measure the log and a pipeline as ratios of what this machine can do."""


@bench.command(name="log")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Measure on the disk of this directory; left out: the system's temporary directory.",
)
def bench_log(directory: Path | None) -> None:
    """Appends, scans and waking, each against the plain system calls or Arrow that it stands on."""
    from mamba_stream.cli.bench.log import main

    main(directory)


@bench.command(name="pipeline")
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Measure on the disk of this directory; left out: the system's temporary directory.",
)
def bench_pipeline(directory: Path | None) -> None:
    """A filter and a window, against one Polars group_by over the same rows in memory."""
    from mamba_stream.cli.bench.pipeline import main

    main(directory)
