"""``mamba-stream backup``: copies a log, of one moment, while it is in use."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mamba_stream.cli.options import output_option


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("target")
@click.option(
    "--keep", type=click.IntRange(min=1), help="Keep so many backups, the newest ones. Default: all."
)
@output_option
def backup(directory: Path, target: str, keep: int | None, output: str) -> None:
    """Back up the log in DIRECTORY to TARGET, a directory or an address such as s3://bucket/logs.

    It may run beside writers, and beside a server. What TARGET has from earlier backups is not copied again.
    """
    from mamba_stream.cli.printing import encode
    from mamba_stream.errors import NotALog
    from mamba_stream.log import open_log

    if not (directory / "index" / "data.mdb").exists():
        raise NotALog(f"{directory} is not a log: there is no index/data.mdb in it")
    with open_log(directory) as log:
        done = log.backup(target, keep=keep)
    if output == "json":
        click.echo(encode(asdict(done)))
        return
    click.echo(f"backed up {directory} as of commit {done.lsn} to {done.place}: {done.name}")
    click.echo(f"{done.size:,} bytes, of which {done.copied:,} were not there yet")
    if done.pruned:
        click.echo(f"{done.pruned} older backups removed")
    for name in done.missing:
        click.echo(f"missing in the log: {name}; run: mamba-stream doctor {directory}", err=True)
