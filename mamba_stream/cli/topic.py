"""``mamba-stream topic``: make, list, describe, alter, look at and delete topics."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli.columns import schema_of, schema_of_text, type_text, version_words
from mamba_stream.cli.options import log_option, open_place, output_option, topic_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    from mamba_stream.core.changes import TopicSettings
    from mamba_stream.log import Topic

_NONE = "none"


def _keeping(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say how a topic is kept."""
    for option in reversed(
        (
            click.option(
                "--retention",
                metavar="TIME",
                help="How long rows are kept after they were appended, as 7d; or none.",
            ),
            click.option(
                "--retention-bytes",
                metavar="SIZE",
                help="What a partition may take on disk, as 10GB; or none.",
            ),
            click.option(
                "--quota",
                metavar="SIZE",
                help="What the topic may take on disk before appends are refused, as 50GB; or none.",
            ),
            click.option(
                "--compact/--no-compact", default=None, help="Keep only the latest row of each key."
            ),
            click.option(
                "--compact-after",
                metavar="TIME",
                help="How long that leaves rows alone after they were appended.",
            ),
            click.option("--tombstones", metavar="TIME", help="How long a row that deletes its key is kept."),
            click.option(
                "--seal-compression",
                type=click.Choice(["none", "lz4", "zstd"]),
                help="How batches are compressed when they are sealed.",
            ),
            click.option(
                "--compatibility",
                type=click.Choice(["backward", "forward", "full", "none"]),
                help="What altering the columns has to leave possible.",
            ),
        )
    ):
        command = option(command)
    return command


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """What was given of those options, as the log takes it."""
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("retention", "retention_bytes", "quota"):
        if given.get(name) == _NONE:
            given[name] = None
    return given


@click.group()
def topic() -> None:
    """Topics: create, list, describe, alter, tail, delete."""


@topic.command()
@click.argument("name")
@click.option(
    "--schema", "columns", metavar="NAME:TYPE,…", help='Columns, as in "at:datetime,price:float64".'
)
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the columns of an NDJSON, CSV or Parquet file.",
)
@click.option(
    "--partitions", type=click.IntRange(min=1), default=1, show_default=True, help="How many partitions."
)
@click.option("--key", multiple=True, metavar="COLUMN", help="Equal keys go to one partition. Repeatable.")
@click.option(
    "--strict-key",
    is_flag=True,
    help="Refuse rows for a partition that their key does not say; workers count on it.",
)
@click.option("--time", metavar="COLUMN", help="The column that holds a row's time.")
@click.option(
    "--compression",
    type=click.Choice(["none", "lz4", "zstd"]),
    default="none",
    show_default=True,
    help="How batches are compressed.",
)
@_keeping
@click.option("--exist-ok", is_flag=True, help="Do nothing where the topic exists as described.")
@log_option
def create(
    name: str,
    columns: str | None,
    like: Path | None,
    partitions: int,
    key: tuple[str, ...],
    strict_key: bool,
    time: str | None,
    compression: str,
    exist_ok: bool,
    place: str | None,
    **keeping: Any,
) -> None:
    """Create a topic.

    Types: int8 … int64, uint8 … uint64, float32, float64, string, boolean, binary, date, time, datetime (UTC,
    in microseconds; datetime[ms], datetime[ns]), duration, decimal(PRECISION,SCALE), and list[TYPE] of any.
    """
    if (columns is None) == (like is None):
        raise click.UsageError(
            'say what the columns are: --schema "at:datetime,price:float64" or --like FILE'
        )
    schema = schema_of(columns, like)
    with open_place(place, create=True) as log:
        made = log.create_topic(
            name,
            schema,
            partitions=partitions,
            key=list(key) or None,
            strict_key=strict_key,
            time=time,
            compression=compression,
            exist_ok=exist_ok,
            **_changes(keeping),
        )
    click.echo(f"topic {made.name}: {len(made.schema)} columns, {_count(made.partitions, 'partition')}")


@topic.command()
@topic_argument
@click.option("--add", metavar="NAME:TYPE,…", help="More columns, which are null in the rows that are there.")
@click.option(
    "--schema", "columns", metavar="NAME:TYPE,…", help="All columns, new ones and wider types among them."
)
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the columns of an NDJSON, CSV or Parquet file.",
)
@_keeping
@log_option
def alter(
    topic: str, add: str | None, columns: str | None, like: Path | None, place: str | None, **keeping: Any
) -> None:
    """Change the columns of a topic, or how it is kept; what is not named stays as it is."""
    from mamba_stream.core.alterations import column_changes

    changes = _changes(keeping)
    if sum(given is not None for given in (add, columns, like)) > 1:
        raise click.UsageError("say which columns it gets by one of --add, --schema and --like")
    if add is not None:
        changes["add"] = schema_of_text(add)
    elif columns is not None or like is not None:
        changes["schema"] = schema_of(columns, like)
    if not changes:
        raise click.UsageError("say what is to change: --add, --retention, --compact, … (see --help)")
    with open_place(place) as log:
        before = log[topic].schema
        found = log.alter_topic(topic, **changes)
        said = [str(change) for change in column_changes(before, found.schema)]
        said += [f"{what} {value}" for what, value in _kept(found.describe().settings).items()]
    click.echo(f"topic {topic}: {', '.join(said)}")


@topic.command(name="list")
@click.option("--internal", is_flag=True, help="Also those that the engine made for itself.")
@output_option
@log_option
def list_topics(internal: bool, output: str, place: str | None) -> None:
    """List the topics."""
    from mamba_stream.cli.printing import print_list

    with open_place(place) as log:
        topics = [log[name] for name in log.topics(internal=internal)]
        rows = [
            {
                "topic": found.name,
                "partitions": found.partitions,
                "rows": _rows(found),
                "key": list(found.key),
                "time": found.time,
                "ended": found.ended,
            }
            for found in topics
        ]
        print_list(rows, output, empty=f"no topics in {log.place}")


@topic.command()
@topic_argument
@output_option
@log_option
def describe(topic: str, output: str, place: str | None) -> None:
    """Describe a topic: columns and what became of them, rows, bytes, times, disorder, key skew."""
    from mamba_stream.cli.printing import print_facts

    with open_place(place) as log:
        found = log[topic]
        columns, facts = found.polars_schema, found.describe()
    skew, parts = facts.key_skew, facts.by_partition
    print_facts(
        {
            "topic": facts.name,
            "columns": {name: type_text(dtype) for name, dtype in columns.items()},
            "key": list(facts.key),
            "strict key": found.strict_key,
            "time": facts.time,
            "compression": facts.compression,
            **_kept(facts.settings),
            "compatibility": facts.settings.compatibility,
            "schemas": {str(version.number): version_words(version) for version in facts.schemas},
            "ended": facts.ended,
            "rows": facts.rows,
            "bytes": facts.bytes,
            "batches": facts.batches,
            "partitions": {
                str(p): {"begin": begin, "end": end, **(asdict(parts[p]) if p in parts else {})}
                for p, (begin, end) in facts.partitions.items()
            },
            "last append": facts.last_append,
            "first time": facts.first_time,
            "last time": facts.last_time,
            "lateness that keeps": {
                f"{quantile:.1%}": str(behind) for quantile, behind in facts.disorder.items()
            },
            "most frequent key": None if skew is None else {"key": str(skew[1]), "share": f"{skew[0]:.1%}"},
        },
        output,
    )


@topic.command()
@topic_argument
@click.option(
    "-n", "--rows", type=click.IntRange(min=0), default=10, show_default=True, help="How many rows."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@output_option
@log_option
def tail(topic: str, rows: int, follow: bool, output: str, place: str | None) -> None:
    """Print the last rows of a topic."""
    import sys

    import polars as pl

    from mamba_stream.cli.printing import RowPrinter
    from mamba_stream.core.batches import frame_from_batch

    with open_place(place) as log:
        found = log[topic]
        ranges = found.offsets()
        ends = {partition: end for partition, (_, end) in ranges.items()}
        start = {partition: max(begin, end - rows) for partition, (begin, end) in ranges.items()}
        printer = RowPrinter(output, sys.stdout)
        # Across partitions, what was appended last is last.
        batches = sorted(
            found.read(start=start, end=ends), key=lambda b: (b.append_time, b.partition, b.offset)
        )
        if batches:
            printer.write(pl.concat([frame_from_batch(batch.data) for batch in batches]).tail(rows))
        if follow:
            for batch in found.read(start=ends, follow=True):
                printer.write(frame_from_batch(batch.data))


@topic.command()
@topic_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@log_option
def delete(topic: str, yes: bool, place: str | None) -> None:
    """Delete a topic with all its rows."""
    with open_place(place) as log:
        rows = _rows(log[topic])
        if not yes:
            click.confirm(f"delete topic {topic} with {rows:,} rows?", abort=True, err=True)
        log.delete_topic(topic)
    click.echo(f"deleted {topic}")


def _kept(settings: TopicSettings) -> dict[str, Any]:
    """How a topic is kept, in words."""
    from datetime import timedelta

    from mamba_stream.core.sizes import Size

    retention, most = settings.retention, settings.retention_bytes
    said: dict[str, Any] = {
        "retention": _NONE if retention is None else str(timedelta(microseconds=retention)),
        "retention bytes": _NONE if most is None else str(Size(most)),
        "quota": _NONE if settings.quota is None else str(Size(settings.quota)),
        "compact": settings.compact,
    }
    if settings.compact:
        said["compact after"] = str(timedelta(microseconds=settings.compact_after))
        said["tombstones"] = str(timedelta(microseconds=settings.tombstones))
    return {**said, "seal compression": settings.seal_compression}


def _rows(topic: Topic) -> int:
    return sum(end - begin for begin, end in topic.offsets().values())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
