"""``mamba-stream maintain``: what a log needs from time to time."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mamba_stream.cli.options import log_option, open_place, output_option

if TYPE_CHECKING:
    from mamba_stream.log.upkeep import Maintained


@click.command()
@click.argument("directory", required=False, metavar="[DIR]")
@click.option("--budget", metavar="SIZE", help="Write about so much anew at most, as 1GiB; all, unless said.")
@click.option("--scrub", metavar="SIZE", help="Look at about so much of what is stored for damage, as 1GiB.")
@output_option
@log_option
def maintain(
    directory: str | None, budget: str | None, scrub: str | None, output: str, place: str | None
) -> None:
    """Do what a log needs: remove what is too old or too much, seal, compact, merge.

    Jobs, readers and writers go on meanwhile. It may be interrupted at any time; the next run goes on.
    """
    from mamba_stream.cli.printing import print_facts

    with open_place(directory or place) as log:
        found = log.maintain(budget=budget, scrub=scrub)
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
            **({} if scrub is None else _scrubbed(found)),
            "done": found.done,
            "short of room": found.short_of_room,
        },
        output,
    )
    if found.findings:
        click.get_current_context().exit(1)


def _scrubbed(found: Maintained) -> dict[str, object]:
    return {"scrubbed bytes": found.scrubbed_bytes, "damaged": [asdict(one) for one in found.findings]}
