"""Columns as the command line writes them: ``name:type,name:type``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import polars as pl

    from mamba_stream.core.alterations import SchemaVersion


_DIGITS = 38
"""Of a decimal, at most."""


def schema_of(columns: str | None, like: Path | None) -> Any:
    """The columns that were written down, or those of an NDJSON, CSV or Parquet file."""
    if like is None:
        return schema_of_text(columns or "")
    from mamba_stream.cli.incoming import form_of, incoming

    with like.open("rb") as source:
        return incoming(source, form_of(like, None)).guess()


def schema_of_text(text: str) -> dict[str, pl.DataType]:
    """Columns from ``name:type,name:type``.

    Raises:
        click.UsageError: It is not of that form, or names a type that there is none of.
    """
    schema: dict[str, pl.DataType] = {}
    for part in re.split(r",(?![^(\[]*[)\]])", text):
        name, colon, kind = part.strip().rpartition(":")
        if not colon or not name:
            raise click.UsageError(f"--schema: {part.strip()!r} is not NAME:TYPE")
        if name in schema:
            raise click.UsageError(f"--schema: column {name!r} stands there twice")
        schema[name] = _type_of_text(kind.strip().lower())
    return schema


def _type_of_text(kind: str) -> pl.DataType:
    import polars as pl

    from mamba_stream.core.names import did_you_mean

    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return pl.List(_type_of_text(inner[1]))
    if numbers := re.fullmatch(r"decimal\((\d+), ?(\d+)\)", kind):
        precision, scale = int(numbers[1]), int(numbers[2])
        if not 1 <= precision <= _DIGITS or scale > precision:
            raise click.UsageError(
                f"--schema: {kind!r}: a decimal has 1 to {_DIGITS} digits, and no more of them behind its point"
            )
        return pl.Decimal(precision, scale)
    known: dict[str, pl.DataType] = {
        **{
            f"{sign}int{bits}": getattr(pl, f"{sign.upper()}Int{bits}")()
            for sign in ("", "u")
            for bits in (8, 16, 32, 64)
        },
        **{f"datetime[{unit}]": pl.Datetime(unit, "UTC") for unit in ("ms", "us", "ns")},
        **{f"duration[{unit}]": pl.Duration(unit) for unit in ("ms", "us", "ns")},
        "float32": pl.Float32(),
        "float64": pl.Float64(),
        "float": pl.Float64(),
        "int": pl.Int64(),
        "string": pl.String(),
        "str": pl.String(),
        "boolean": pl.Boolean(),
        "bool": pl.Boolean(),
        "binary": pl.Binary(),
        "date": pl.Date(),
        "time": pl.Time(),
        "datetime": pl.Datetime("us", "UTC"),
        "duration": pl.Duration("us"),
    }
    if kind not in known:
        raise click.UsageError(f"--schema: no type {kind!r}{did_you_mean(kind, known)}; see --help")
    return known[kind]


def type_text(dtype: Any) -> str:
    """A type as ``--schema`` takes it, where it does."""
    import polars as pl

    match dtype:
        case pl.Datetime():
            return f"datetime[{dtype.time_unit}]" + (
                "" if dtype.time_zone == "UTC" else f" {dtype.time_zone or 'naive'}"
            )
        case pl.Duration():
            return f"duration[{dtype.time_unit}]"
        case pl.List():
            return f"list[{type_text(dtype.inner)}]"
        case pl.Decimal():
            return f"decimal({dtype.precision},{dtype.scale})"
        case _:
            return str(dtype).lower()


def version_words(version: SchemaVersion) -> str:
    """When a version came, and what it changed."""
    changes = "; ".join(map(str, version.changes)) if version.changes else "created"
    return f"{version.since:%Y-%m-%d %H:%M:%S} UTC: {changes}"
