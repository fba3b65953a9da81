"""``mamba-stream consume``: the rows of a topic, as they lie there or as they come."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from mamba_stream.cli.options import log_option, open_place, output_option, start_option, topic_argument

if TYPE_CHECKING:
    import polars as pl

    from mamba_stream.log import Topic


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

    from mamba_stream.cli.printing import RowPrinter
    from mamba_stream.core.batches import frame_from_batch

    with open_place(place) as log:
        source = log[topic]
        shown = source.schema.names if columns is None else [name.strip() for name in columns.split(",")]
        predicate, needed = (None, []) if where is None else _predicate(where, source)
        printer = RowPrinter(output, sys.stdout)
        left = rows
        batches = source.read(
            start=start,
            follow=follow,
            columns=[*shown, *(name for name in needed if name not in shown)],
            # Without a predicate the log itself knows when there are enough.
            max_rows=left if predicate is None else None,
        )
        while left != 0 and (batch := next(batches, None)) is not None:
            frame = frame_from_batch(batch.data)
            if offsets:
                frame = frame.with_columns(
                    _partition=pl.lit(batch.partition), _offset=pl.Series(batch.offsets)
                )
            if predicate is not None:
                frame = frame.filter(predicate)
            frame = frame.select(*(["_partition", "_offset"] if offsets else []), *shown)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            printer.write(frame)


def _predicate(where: str, topic: Topic) -> tuple[pl.Expr, list[str]]:
    """The SQL text as an expression over single rows, and the columns it needs."""
    import polars as pl

    from mamba_stream.core.names import did_you_mean
    from mamba_stream.errors import ColumnNotFound
    from mamba_stream.plan import expressions

    try:
        predicate = pl.sql_expr(where)
    except pl.exceptions.PolarsError as error:
        raise click.UsageError(f"--where: {error}") from error
    needed = sorted(expressions.columns(predicate))
    for name in needed:
        if name not in topic.schema.names:
            raise ColumnNotFound(
                f"--where: topic {topic.name!r} has no column {name!r}"
                f"{did_you_mean(name, topic.schema.names)}; it has {', '.join(topic.schema.names)}"
            )
    expressions.check_row_wise(predicate, verb="--where", schema=topic.polars_schema)
    kind = pl.DataFrame(schema=topic.polars_schema).select(predicate.alias("where")).schema["where"]
    if kind != pl.Boolean:
        raise click.UsageError(f"--where: {where!r} is {kind}, not true or false")
    return predicate, needed
