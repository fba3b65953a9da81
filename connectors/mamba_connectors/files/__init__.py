"""Files in and out: Parquet, Arrow IPC, CSV, NDJSON.

    >>> from mamba_connectors import files
    >>> files.sink("out", format="parquet", partition_by="origin").name
    'files out'

In: globs and directories, once or watched, exactly once. A file counts when it is complete: its name does not end in
``.tmp``, ``.part`` or the like, does not begin with a dot or an underscore, and it was not written to for ``settle``.

Out: files appear whole, with the checkpoint that covers their rows, exactly once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from mamba_connectors.files.formats import ENDINGS, Format, checked_format, format_of
from mamba_connectors.files.hive import HiveColumns, types_in
from mamba_connectors.files.listing import Found, Listing, checked_patterns
from mamba_connectors.files.reading import FileSource, Manner, schema_in
from mamba_connectors.files.text import Dialect, check_text_types
from mamba_connectors.files.writing import FileSink, Roll, byte_count, check_place
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import ConnectorFailed, InvalidInput

__all__ = ["FileSink", "FileSource", "sink", "source"]


def source(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    format: Literal["parquet", "ipc", "csv", "ndjson"] | None = None,  # noqa: A002 - as in the sink, and as users say
    watch: bool = False,
    partitions: Literal["all", "files"] = "all",
    schema: Any = None,
    schema_overrides: Any = None,
    hive: bool | Sequence[str] = False,
    separator: str | None = None,
    header: bool = True,
    settle: str | timedelta | None = None,
    every: str | timedelta = "500ms",
    changed: Literal["fail", "ignore"] = "fail",
    name: str | None = None,
    clock: Clock | None = None,
) -> FileSource:
    """Files as a source; every row comes exactly once, whatever crashes.

    A position in a file is a byte or a row, so that going on costs no second reading, except in packed CSV and NDJSON,
    which are unpacked again up to there. Files that were read are remembered by 12 bytes each for as long as they are
    there, so that what comes later is read wherever its name would have stood.

    Args:
        paths: A glob (``"in/*.parquet"``; ``**`` goes through directories), a file, a directory, or a list of them.
        format: ``"parquet"``, ``"ipc"`` (Arrow files and streams), ``"csv"`` or ``"ndjson"``; else by the names'
            endings. CSV and NDJSON may be packed (``.gz .bz2 .xz .zst``).
        watch: Goes on with files that come later, until the run is stopped.
        partitions: ``"all"`` reads one file after the other, in the order of their names, as one partition: time goes
            on from file to file. ``"files"`` makes each file a partition with a time of its own, read side by side:
            for files that cover the same times, up to some hundreds.
        schema: The columns and their types. Left out, those of the first file: what it declares, or, of CSV and
            NDJSON, what its first 20,000 records suggest.
        schema_overrides: Types of some columns, in place of those that the first file suggests.
        hive: Directories named ``column=value`` are columns; which, the first file tells, or a list of their names.
        separator: Between the fields of CSV; ``","``, or a tab for ``.tsv``.
        header: Whether a CSV file's first line names its columns, which may have another order than in other files.
        settle: How long a file must not have been written to before it counts; two seconds where files are watched.
        every: How often to look for new files.
        changed: What to do where a file changed after it was read: ``"fail"``, or ``"ignore"`` it.
        name: What progress and messages call the source; ``files`` and the first pattern.
        clock: Tells the time.

    Raises:
        InvalidInput: An argument cannot be right, or nothing says what the columns are.
        ConnectorFailed: The first file cannot be read.
    """
    patterns = checked_patterns(paths)
    if partitions not in {"all", "files"}:
        raise InvalidInput(f"partitions={partitions!r:.80}: choose 'all' or 'files'")
    if changed not in {"fail", "ignore"}:
        raise InvalidInput(f"changed={changed!r:.80}: choose 'fail' or 'ignore'")
    if separator is not None and len(str(separator).encode()) != 1:
        raise InvalidInput(f"separator={separator!r:.80}: one ASCII character")
    ticking = clock or SystemClock()
    patience = settle if settle is not None else ("2s" if watch else "0s")
    listing = Listing(patterns, settle_us=duration_us(patience, what="settle"), clock=ticking)
    first = next(iter(Listing(patterns, settle_us=0, clock=ticking).files()), None)
    form = checked_format(format) if format is not None else _format_of(patterns, first)
    tabs = form == "csv" and separator is None and any(".tsv" in pattern for pattern in patterns)
    dialect = Dialect("\t" if tabs else separator or ",", header)
    whole, hive_schema = _schemas(patterns, first, form, dialect, schema, schema_overrides, hive=hive)
    if form in {"csv", "ndjson"}:
        check_text_types(whole, form)
    columns = (*whole.names, *hive_schema.names)
    return FileSource(
        name=name or f"files {patterns[0]}{' …' if len(patterns) > 1 else ''}",
        bounded=not watch,
        listing=listing,
        manner=Manner(form, dialect, whole, HiveColumns(hive_schema), changed, columns),
        each=partitions == "files",
        every=duration_us(every, what="every") / 1_000_000,
        clock=ticking,
    )


def sink(
    directory: str | os.PathLike[str],
    *,
    format: Literal["parquet", "ipc", "csv", "ndjson"] = "parquet",  # noqa: A002 - as in the source
    partition_by: str | Sequence[str] = (),
    roll_rows: int | None = None,
    roll_bytes: int | str = "128MB",
    roll_after: str | timedelta = "1m",
    compression: str | None = None,
    staging: str | os.PathLike[str] | None = None,
    name: str | None = None,
    clock: Clock | None = None,
) -> FileSink:
    """Files as a sink; every row is in exactly one file, whatever crashes.

    Rows are written to a staging directory first. When one of the limits is reached, or the run ends, a file appears,
    whole, as soon as the checkpoint that covers its rows is durable. Its name has the job's name and the number of the
    checkpoint, so that no other is ever called so. Files may be moved away as soon as they appear.

    Args:
        directory: Where files go; made if missing.
        format: ``"parquet"``, ``"ipc"``, ``"csv"`` or ``"ndjson"`` (where NaN and infinite become null).
        partition_by: Columns that become directories, ``column=value``, and are left out of the files.
        roll_rows: A file has at most so many rows.
        roll_bytes: A file is closed when it has so many bytes, such as ``"128MB"``.
        roll_after: Rows wait at most so long for more, to share a file with.
        compression: Of Parquet ``"zstd"`` unless told otherwise; of CSV and NDJSON ``"gzip"`` or ``"zstd"``.
        staging: Where files are written; a hidden directory beside ``directory``. On the same file system.
        name: What messages call the sink.
        clock: Tells the time.

    Raises:
        InvalidInput: An argument cannot be right.
    """
    form = checked_format(format)
    columns = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
    if roll_rows is not None and (not is_whole(roll_rows) or roll_rows < 1):
        raise InvalidInput(f"roll_rows={roll_rows!r:.80}: a number of rows from 1")
    place = check_place(directory)
    roll = Roll(roll_rows, byte_count(roll_bytes), duration_us(roll_after, what="roll_after"))
    beside = place.parent / f".{place.name}.staging" if staging is None else Path(os.path.abspath(staging))  # noqa: PTH100
    return FileSink(
        name=name or f"files {place.name}",
        directory=place,
        staging=beside,
        form=form,
        partition_by=columns,
        roll=roll,
        compression=compression,
        clock=clock or SystemClock(),
    )


def _format_of(patterns: Sequence[str], first: Found | None) -> Format:
    for name in [*patterns, *([first.name] if first is not None else [])]:
        if (form := format_of(name)) is not None:
            return form
    raise InvalidInput(
        f"no format for {patterns[0]!r}: names end in none of {' '.join(ENDINGS)}; pass format='parquet', say"
    )


def _schemas(
    patterns: Sequence[str],
    first: Found | None,
    form: Format,
    dialect: Dialect,
    given: Any,
    overrides: Any,
    *,
    hive: bool | Sequence[str],
) -> tuple[pa.Schema, pa.Schema]:
    """The columns in the files, and those in the names of their directories."""
    if given is not None:
        whole = canonical_schema(given)
        named = _hive_names(patterns, first, whole, hive)
        return (
            pa.schema([field for field in whole if field.name not in named]),
            pa.schema([whole.field(name) for name in named]),
        )
    if first is None:
        raise InvalidInput(
            f"nothing lies at {patterns[0]!r} yet, and so nothing says what the columns are: pass schema="
        )
    whole = canonical_schema(schema_in(first.path, form, dialect))
    in_name = types_in(first.name) if hive else pa.schema([])
    wanted = {} if overrides is None else {field.name: field.type for field in canonical_schema(overrides)}
    known = {*whole.names, *in_name.names}
    if unknown := next((name for name in wanted if name not in known), None):
        raise InvalidInput(
            f"schema_overrides: file {first.path} has no column {unknown!r}; it has {sorted(known)}"
        )
    if twice := next((name for name in in_name.names if name in whole.names), None):
        raise ConnectorFailed(
            f"file {first.path} has column {twice!r} itself, and lies in a directory {twice}=…"
        )
    return (
        pa.schema([(field.name, wanted.get(field.name, field.type)) for field in whole]),
        pa.schema([(field.name, wanted.get(field.name, field.type)) for field in in_name]),
    )


def _hive_names(
    patterns: Sequence[str], first: Found | None, whole: pa.Schema, hive: bool | Sequence[str]
) -> list[str]:
    """Which of the columns are in the names of directories."""
    if isinstance(hive, bool):
        if hive and first is None:
            raise InvalidInput(
                f"hive=True takes columns from the name of the first file, and none lies at {patterns[0]!r} yet: "
                "pass hive=['column']"
            )
        named = types_in(first.name).names if hive and first is not None else []
        return [name for name in named if name in whole.names]
    if unknown := next((name for name in hive if name not in whole.names), None):
        hint = did_you_mean(unknown, whole.names)
        raise InvalidInput(f"hive names column {unknown!r}, which schema= does not have{hint}")
    return list(hive)
