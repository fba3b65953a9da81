"""``mamba-stream maintain``: what a log needs from time to time."""

from __future__ import annotations

from dataclasses import asdict

import click

from mamba_stream.cli.options import log_option, open_place, output_option


@click.command()
@click.argument("directory", required=False, metavar="[DIR]")
@click.option("--budget", metavar="SIZE", help="Write about so much anew at most, as 1GiB; all, unless said.")
@output_option
@log_option
def maintain(directory: str | None, budget: str | None, output: str, place: str | None) -> None:
    """Do what a log needs: remove what is too old or too much, seal, compact.

    Jobs, readers and writers go on meanwhile. It may be interrupted at any time; the next run goes on.
    """
    from mamba_stream.cli.printing import print_facts

    with open_place(directory or place) as log:
        found = log.maintain(budget=budget)
    if found.busy is not None:
        raise click.ClickException(f"nothing was done: {found.busy} is at it already")
    print_facts(
        {
            "trimmed rows": found.trimmed_rows,
            "trimmed bytes": found.trimmed_bytes,
            "unread": [asdict(one) for one in found.unread],
            "written bytes": found.written_bytes,
            "merged batches": found.merged_batches,
            "compacted rows": found.compacted_rows,
            "removed files": found.removed_files,
            "done": found.done,
            "short of room": found.short_of_room,
        },
        output,
    )
