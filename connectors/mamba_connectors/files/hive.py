"""Columns whose value is in the names of directories, as in ``day=2013-01-01/carrier=UA/…``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pat

from mamba_stream.core.types import type_name, unsupported
from mamba_stream.errors import SchemaMismatch

NULL: Final = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class HiveColumns:
    """Such columns of a source; none, usually."""

    schema: pa.Schema

    def values_in(self, name: str, path: Path) -> dict[str, pa.Scalar]:
        """Their values for a file.

        Args:
            name: The file's name from the root on.
            path: Where it is, for messages.

        Raises:
            SchemaMismatch: A directory is missing, or its value does not fit.
        """
        found = dict(pairs_in(name))
        values = {}
        for field in self.schema:
            if field.name not in found:
                raise SchemaMismatch(
                    f"file {path} lies in no directory {field.name}=…, and other files of the source do"
                )
            values[field.name] = _parsed(found[field.name], field, path)
        return values


def pairs_in(name: str) -> list[tuple[str, str]]:
    """Columns and values in a file's name."""
    pairs = [part.partition("=") for part in name.split("/")[:-1] if "=" in part]
    return [(unquote(column), value) for column, _, value in pairs]


def types_in(name: str) -> pa.Schema:
    """The columns in a file's name, with types that its values suggest: whole numbers, days, or text."""
    return pa.schema([(column, _guessed(unquote(value))) for column, value in pairs_in(name)])


def _guessed(value: str) -> pa.DataType:
    kinds: list[tuple[pa.DataType, Callable[[str], object]]] = [
        (pa.int64(), int),
        (pa.date32(), date.fromisoformat),
    ]
    for kind, parse in kinds:
        try:
            parse(value)
        except ValueError:
            continue
        return kind
    return pa.large_string()


def _parsed(value: str, field: pa.Field, path: Path) -> pa.Scalar:
    text = None if value == NULL else unquote(value)
    try:
        return pc.cast(pa.array([text], pa.large_string()), field.type)[0]
    except pa.ArrowException:
        raise SchemaMismatch(
            f"file {path}: its directory says {field.name}={value!r}, and the source has {type_name(field.type)} "
            "there: pass schema= with another type"
        ) from None


def directory_of(names: Sequence[str], values: Sequence[Any]) -> str:
    """The directory for rows with these values."""
    parts = []
    for name, value in zip(names, values, strict=True):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        # An empty name, or one of dots, would be another directory.
        shown = NULL if value is None else quote(text, safe=" ,+-_") or quote(NULL)
        parts.append(f"{quote(name, safe='')}={shown}")
    return "/".join(parts)


def check_partition_types(schema: pa.Schema, names: Sequence[str]) -> None:
    """Refuses columns whose values cannot be names of directories.

    Raises:
        UnsupportedType: It names the column.
    """
    for name in names:
        dtype = schema.field(name).type
        fit = (
            pat.is_large_string(dtype) or pat.is_integer(dtype) or pat.is_boolean(dtype) or pat.is_date(dtype)
        )
        if not fit:
            raise unsupported(
                name,
                type_name(dtype),
                "not as a directory's name: partition by a text, a whole number, a bool or a day",
            )
