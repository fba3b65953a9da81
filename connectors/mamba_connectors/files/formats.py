"""What the formats have in common: their names, their endings, and what reading a file of one looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pyarrow as pa

from mamba_stream.core.casting import cast, first_misfit
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.schemas import describe_difference
from mamba_stream.core.types import type_name
from mamba_stream.errors import InvalidInput, SchemaMismatch

Format = Literal["parquet", "ipc", "csv", "ndjson"]
ENDINGS: Final[dict[str, Format]] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".arrows": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "ndjson",
}
FORMATS: Final[tuple[Format, ...]] = ("parquet", "ipc", "csv", "ndjson")
COMPRESSED: Final = (".gz", ".bz2", ".xz", ".zst")


class FileReader(Protocol):
    """A file that is being read."""

    @property
    def at(self) -> Any:
        """Where: numbers that mean something to the format."""
        ...

    @property
    def at_end(self) -> bool:
        """Whether all its rows were read."""
        ...

    def read(self, max_rows: int) -> pa.RecordBatch:
        """The rows that come next; none at the end, or where what came next held none."""
        ...

    def close(self) -> None: ...


def format_of(name: str) -> Format | None:
    """The format that a file's name ends in."""
    path = Path(name)
    if path.suffix in COMPRESSED:
        path = path.with_suffix("")
    return ENDINGS.get(path.suffix)


def checked_format(given: object) -> Format:
    """The format that the user asked for.

    Raises:
        InvalidInput: There is none such.
    """
    for name in FORMATS:
        if given == name:
            return name
    hint = did_you_mean(given, FORMATS) if isinstance(given, str) else ""
    raise InvalidInput(f"format={given!r:.80}: choose one of {', '.join(map(repr, FORMATS))}{hint}")


def check_columns(have: pa.Schema, want: pa.Schema, path: Path) -> None:
    """Refuses a file whose columns are not those of the source.

    Raises:
        SchemaMismatch: It names the file, the columns and their types.
    """
    if difference := describe_difference(have, want, whose="the source has"):
        raise SchemaMismatch(
            f"file {path}: {difference}. The source's columns are those of its first file unless schema= says otherwise"
        )


def fitted(batch: pa.RecordBatch, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    """The rows in the source's types, once :func:`check_columns` found that they fit.

    Raises:
        SchemaMismatch: A value does not.
    """
    columns = []
    for field in schema:
        column = batch.column(batch.schema.get_field_index(field.name))
        try:
            columns.append(cast(column, field.type))
        except pa.ArrowInvalid:
            row = first_misfit(column, field.type)
            raise SchemaMismatch(
                f"file {path}: column {field.name!r} ({type_name(field.type)}): "
                f"{column[row]!s:.80} of {type_name(column.type)} does not fit"
            ) from None
    return pa.RecordBatch.from_arrays(columns, schema=schema)
