"""``mamba-stream restore``: puts a log back from a backup, and lists what there is."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.options import output_option


@click.command()
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option(
    "--to", metavar="LSN|TIME", help="The newest backup that is not past this. Default: the newest."
)
@click.option("--list", "listing", is_flag=True, help="List the backups, and restore nothing.")
@output_option
def restore(source: str, directory: Path | None, to: str | None, listing: bool, output: str) -> int:
    """Restore a backup from SOURCE into DIRECTORY, which must be new or empty.

    Every byte is proven to be what was backed up, and the doctor looks at the log. Exits with 1 if it was damaged
    when it was backed up, or if a listed backup is damaged.
    """
    from mamba_stream.cli.printing import encode, print_list
    from mamba_stream.log import backups, restore as put_back

    if listing:
        found = backups(source)
        rows = [
            {
                "commit": one.lsn,
                "time": datetime.fromtimestamp(one.time / 1e6, UTC),
                "bytes": one.size,
                "copied": one.copied,
                "name": one.name,
                "state": "damaged" if one.damage else "whole",
            }
            for one in found
        ]
        print_list(rows, output, empty=f"no backups in {source}")
        damage = [one.damage for one in found if one.damage]
        for what in damage:
            click.echo(what, err=True)
        return FAILED if damage else 0
    if directory is None:
        raise click.UsageError("say where to: mamba-stream restore SOURCE DIRECTORY; or --list what there is")
    done = put_back(source, directory, to)
    bad = [finding for finding in done.findings if finding.severity != "note"]
    if output == "json":
        click.echo(encode({**asdict(done), "path": str(done.path)}))
    else:
        click.echo(f"restored {done.path} as of commit {done.lsn} ({_time(done.time)}): {done.size:,} bytes")
        if done.next_lsn is not None and done.next_time is not None:
            click.echo(
                f"the next backup is of commit {done.next_lsn} ({_time(done.next_time)}): there is none of a moment in "
                "between"
            )
        for finding in bad:
            click.echo(f"{finding.severity}: topic {finding.topic}: {finding.what}")
    return FAILED if bad else 0


def _time(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}"
