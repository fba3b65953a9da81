"""``mamba-stream consume``: the rows of a topic, as they lie there or as they come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from mamba_stream.cli.options import log_option, open_place, output_option, start_option, topic_argument

if TYPE_CHECKING:
    from mamba_stream.log.batch import LogBatch


@click.command()
@topic_argument
@start_option("earliest")
@click.option("-n", "--rows", type=click.IntRange(min=0), help="Stop after so many rows.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more at the end.")
@click.option(
    "--where", metavar="SQL", help="""Only rows for which this holds, as in "price > 3 AND symbol = 'A'"."""
)
@click.option("--columns", metavar="NAME,…", help="Only these columns.")
@click.option("--offsets", is_flag=True, help="Begin every row with its partition and offset.")
@output_option
@log_option
def consume(
    topic: str,
    start: str | int | datetime,
    rows: int | None,
    follow: bool,
    where: str | None,
    columns: str | None,
    offsets: bool,
    output: str,
    place: str | None,
) -> None:
    """Print the rows of TOPIC. With -o json, one object a line."""
    import sys

    import polars as pl

    from mamba_stream.cli.predicate import failure, predicate
    from mamba_stream.cli.printing import RowPrinter
    from mamba_stream.core.batches import frame_from_batch
    from mamba_stream.core.predicates import split
    from mamba_stream.errors import InvalidInput

    with open_place(place) as log:
        source = log[topic]
        shown = source.schema.names if columns is None else [name.strip() for name in columns.split(",")]
        asked, needed = (None, []) if where is None else predicate(where, source)
        there = None
        if asked is not None and split(asked, source.polars_schema)[1] is None:
            # All of it can be asked where the rows are: a server sends no others.
            asked, needed, there = None, [], asked
        printer = RowPrinter(output, sys.stdout)
        left = rows
        batches = source.read(
            start=start,
            follow=follow,
            columns=[*shown, *(name for name in needed if name not in shown)],
            # Without a predicate the log itself knows when there are enough.
            max_rows=left if asked is None else None,
            where=there,
        )
        while left != 0 and (batch := _following(batches, there is not None)) is not None:
            frame = frame_from_batch(batch.data)
            if offsets:
                frame = frame.with_columns(
                    _partition=pl.lit(batch.partition), _offset=pl.Series(batch.offsets)
                )
            if asked is not None:
                try:
                    frame = frame.filter(asked)
                except pl.exceptions.PolarsError as error:
                    raise InvalidInput(failure(error)) from error
            frame = frame.select(*(["_partition", "_offset"] if offsets else []), *shown)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            printer.write(frame)


def _following(batches: Iterator[LogBatch], asked: bool) -> LogBatch | None:
    """The next batch; where rows are asked as they are read, what is wrong with one is about the predicate."""
    from mamba_stream.cli.predicate import failure
    from mamba_stream.errors import InvalidInput

    try:
        return next(batches, None)
    except InvalidInput as error:
        raise (InvalidInput(failure(error)) if asked else error) from error
