"""``mamba-stream copy``: copies topics into another log, at the same offsets."""

from __future__ import annotations

import click

from mamba_stream.cli.options import log_option, open_place, output_option


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC...")
@click.option(
    "--into", required=True, metavar="DIR|HOST:PORT", help="The other log; a directory is made if missing."
)
@output_option
@log_option
def copy(topics: tuple[str, ...], into: str, output: str, place: str | None) -> None:
    """Copy topics into another log: the same rows at the same offsets.

    Run again it goes on where it came to, after an interruption too: each row lands once.
    """
    from mamba_stream.cli.printing import print_list

    with open_place(place) as source, open_place(into, create=True) as target:
        done = source.copy(topics, target)
    rows = [
        {"topic": topic, "partition": partition, "from": first, "to": following, "rows": following - first}
        for (topic, partition), (first, following) in sorted(done.ranges.items())
    ]
    print_list(rows, output, empty="nothing that was not there")
