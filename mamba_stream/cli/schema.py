"""``mamba-stream schema``: the columns of a topic, what became of them, and what would be taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.columns import schema_of, type_text, version_words
from mamba_stream.cli.options import log_option, open_place, output_option, topic_argument

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from mamba_stream.core.alterations import SchemaVersion
    from mamba_stream.log import Topic

_file = click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
_columns = click.option(
    "--schema", "columns", metavar="NAME:TYPE,…", help='Columns, as in "at:datetime,price:float64".'
)


@click.group()
def schema() -> None:
    """Columns of topics: show, diff, check."""


@schema.command()
@topic_argument
@click.option("--version", "number", type=click.IntRange(min=1), help="As they were; now, if left out.")
@output_option
@log_option
def show(topic: str, number: int | None, output: str, place: str | None) -> None:
    """Show the columns of a topic, and all the schemas that it has had."""
    from mamba_stream.cli.printing import print_facts

    with open_place(place) as log:
        found = log[topic]
        versions = found.schemas()
        shown = versions[-1] if number is None else _version(found, versions, number)
        print_facts(
            {
                "topic": topic,
                "version": shown.number,
                "since": shown.since,
                "columns": _types(shown.schema),
                "key": list(found.key),
                "time": found.time,
                "compatibility": found.compatibility,
                "versions": {str(one.number): version_words(one) for one in versions},
            },
            output,
        )


@schema.command()
@topic_argument
@_file
@_columns
@click.option(
    "--from", "before", type=click.IntRange(min=1), help="The version to begin with; the one before the last."
)
@click.option(
    "--to", "after", type=click.IntRange(min=1), help="The version to end with; the last, if left out."
)
@output_option
@log_option
def diff(
    topic: str,
    file: Path | None,
    columns: str | None,
    before: int | None,
    after: int | None,
    output: str,
    place: str | None,
) -> None:
    """Show what is different between two versions of a topic's columns, or between a topic and FILE.

    FILE is NDJSON, CSV or Parquet.
    """
    from mamba_stream.cli.printing import print_list
    from mamba_stream.core.alterations import column_changes

    other = _given(file, columns, needed=False)
    if other is not None and (before is not None or after is not None):
        raise click.UsageError("--from and --to are about versions of the topic: without FILE and --schema")
    with open_place(place) as log:
        found = log[topic]
        versions = found.schemas()
        if other is not None:
            changes = column_changes(found.schema, other)
        else:
            last = versions[-1] if after is None else _version(found, versions, after)
            first = _version(found, versions, max(last.number - 1, 1) if before is None else before)
            changes = column_changes(first.schema, last.schema)
    rows = [{"column": change.name, "before": change.before, "after": change.after} for change in changes]
    print_list(rows, output, empty="no difference")


@schema.command()
@topic_argument
@_file
@_columns
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["append", "alter"]),
    default="append",
    show_default=True,
    help="What decides the exit code.",
)
@output_option
@log_option
def check(
    topic: str, file: Path | None, columns: str | None, purpose: str, output: str, place: str | None
) -> int:
    """Say whether rows of FILE could be appended to a topic, and whether it could be altered to their columns.

    FILE is NDJSON, CSV or Parquet. Nothing is changed. Exits with 1 where what was asked for is refused.
    """
    from mamba_stream.cli.printing import print_facts

    wanted = _given(file, columns, needed=True)
    assert wanted is not None
    with open_place(place) as log:
        found = log[topic]
        refused = {
            "append": found.difference(wanted) if file is None else _refusal(lambda: _append(found, file)),
            "alter": _refusal(lambda: found.altered(wanted)),
        }
    facts: dict[str, Any] = {"topic": topic}
    for what, why in refused.items():
        facts |= {what: not why, **({f"{what} refused": why} if why else {})}
    print_facts(facts, output)
    return FAILED if refused[purpose] else 0


def _version(topic: Topic, versions: tuple[SchemaVersion, ...], number: int) -> SchemaVersion:
    if number > len(versions):
        raise click.UsageError(f"topic {topic.name!r} has no version {number}: it has 1 to {len(versions)}")
    return versions[number - 1]


def _given(file: Path | None, columns: str | None, *, needed: bool) -> pa.Schema | None:
    """The columns that the command line says."""
    from mamba_stream.core.schemas import canonical_schema

    given = (file is not None) + (columns is not None)
    if given > 1 or (needed and not given):
        raise click.UsageError('say what the columns are: FILE, or --schema "at:datetime,price:float64"')
    return canonical_schema(schema_of(columns, file)) if given else None


def _append(topic: Topic, file: Path) -> None:
    """Does with a file's rows what is done before they are appended, value by value."""
    from mamba_stream.cli.incoming import form_of, incoming

    with file.open("rb") as source:
        for batch in incoming(source, form_of(file, None)).batches(topic.schema):
            topic.check(batch)


def _refusal(attempt: Callable[[], object]) -> str:
    from mamba_stream.errors import InvalidInput

    try:
        attempt()
    except InvalidInput as error:
        return str(error)
    return ""


def _types(schema: pa.Schema) -> dict[str, str]:
    from mamba_stream.core.schemas import polars_schema

    return {name: type_text(dtype) for name, dtype in polars_schema(schema).items()}
