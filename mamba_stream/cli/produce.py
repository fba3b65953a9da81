"""``mamba-stream produce``: rows from a file or a pipe into a topic."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from mamba_stream.cli.options import durability_option, log_option, open_place, topic_argument


@click.command()
@topic_argument
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), default="-"
)
@click.option(
    "--format", "form", type=click.Choice(["ndjson", "csv", "parquet"]), help="Left out: the file's suffix."
)
@click.option(
    "--create", is_flag=True, help="Create the topic, if missing, with a schema guessed from the rows."
)
@click.option("--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="With --create.")
@click.option("--key", multiple=True, metavar="COLUMN", help="With --create: equal keys go to one partition.")
@click.option("--time", metavar="COLUMN", help="With --create: the column that holds a row's time.")
@click.option("--end", is_flag=True, help="Mark the topic finished afterwards.")
@durability_option("commit")
@log_option
def produce(
    topic: str,
    file: Path,
    form: str | None,
    create: bool,
    partitions: int,
    key: tuple[str, ...],
    time: str | None,
    end: bool,
    durability: Any,
    place: str | None,
) -> None:
    """Append rows of FILE, or of standard input, to TOPIC.

    NDJSON, CSV or Parquet. From a pipe, NDJSON is appended as it comes. A wrong row stops it; the message
    says which it is and how many rows were appended before.
    """
    from mamba_stream.cli.incoming import form_of, incoming
    from mamba_stream.cli.interrupting import interruptible
    from mamba_stream.errors import MambaStreamError

    piped = file == Path("-")
    form = form or "ndjson" if piped else form_of(file, form)
    rows = 0
    with (
        open_place(place, create=create) as log,
        contextlib.nullcontext(sys.stdin.buffer) if piped else file.open("rb") as source,
    ):
        try:
            if piped:
                interruptible()
            coming = incoming(source, form)
            if create and topic not in log:
                log.create_topic(
                    topic, coming.guess(), partitions=partitions, key=list(key) or None, time=time
                )
            target = log[topic]
            for batch in coming.batches(target.schema):
                target.append(batch, durability=durability)
                rows += batch.num_rows
        except MambaStreamError:
            if rows:
                click.echo(f"{rows:,} rows were appended before the error", err=True)
            raise
        if end:
            target.end()
    click.echo(f"{rows:,} rows appended to {topic}", err=True)
