"""Frames from text, as they are drawn in a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from mamba_stream.errors import InvalidInput

_TIMES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M")


def table(text: str, schema: Mapping[str, Any] | None = None) -> pl.DataFrame:
    """A frame from a table in text: a header, and a row in each line, with ``|`` between columns.

    Rulers (``---|---``) and empty lines are skipped, blanks around values too; an empty value, ``null`` and ``-`` are
    null. What looks like whole numbers is ``Int64``, like numbers ``Float64``, like true and false ``Boolean``,
    like times ``Datetime("us")``, like dates ``Date``; all else is ``String``.

    Args:
        text: The table.
        schema: Types of some or all columns, by name.

    Raises:
        InvalidInput: A line has more or fewer columns than the header, or a value does not fit its type.

    Example:
        >>> table('''
        ...     ts                  | user | amount
        ...     2024-01-01 10:00:00 | ann  | 3
        ...     2024-01-01 10:00:05 |      | 4
        ... ''').rows()[1]
        (datetime.datetime(2024, 1, 1, 10, 0, 5), None, 4)
    """
    lines = [line.strip().strip("|") for line in text.splitlines()]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line and set(line) - set("|-+: ")]
    if not rows:
        raise InvalidInput("table: there is no header")
    names = rows[0]
    for row in rows[1:]:
        if len(row) != len(names):
            raise InvalidInput(
                f"table: {len(row)} columns in {' | '.join(row)!r}, and {len(names)} in the header"
            )
    given = dict(schema or {})
    if unknown := [name for name in given if name not in names]:
        raise InvalidInput(f"table: schema= has {unknown[0]!r}, and the columns are {', '.join(names)}")
    columns = [
        _column(name, [_value(row[place]) for row in rows[1:]], given.get(name))
        for place, name in enumerate(names)
    ]
    return pl.DataFrame(columns)


def _value(cell: str) -> str | None:
    return None if cell in ("", "null", "-") else cell


def _column(name: str, values: list[str | None], dtype: Any) -> pl.Series:
    text = pl.Series(name, values, pl.String)
    if dtype is None:
        return _guessed(text)
    wanted: pl.DataType = pl.Schema({name: dtype})[name]
    try:
        if isinstance(wanted, pl.Datetime):
            return _times(text).cast(wanted)
        if isinstance(wanted, pl.Boolean):
            return text.str.to_lowercase().replace_strict(
                {"true": True, "false": False}, return_dtype=pl.Boolean
            )
        return text.str.to_date() if isinstance(wanted, pl.Date) else text.cast(wanted)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"table: column {name!r} is not {wanted}: {error}") from error


def _guessed(text: pl.Series) -> pl.Series:
    """The values as what they all look like."""
    if text.null_count() == text.len():
        return text
    for attempt in (_whole, _number, _truth, _times, _date):
        try:
            return attempt(text)
        except pl.exceptions.PolarsError:
            continue
    return text


def _whole(text: pl.Series) -> pl.Series:
    return text.cast(pl.Int64)


def _number(text: pl.Series) -> pl.Series:
    return text.cast(pl.Float64)


def _truth(text: pl.Series) -> pl.Series:
    return text.str.to_lowercase().replace_strict({"true": True, "false": False}, return_dtype=pl.Boolean)


def _date(text: pl.Series) -> pl.Series:
    return text.str.to_date("%Y-%m-%d")


def _times(text: pl.Series) -> pl.Series:
    """The values as times, if all are written as times."""
    for shape in _TIMES:
        try:
            return text.str.to_datetime(shape, time_unit="us")
        except pl.exceptions.PolarsError:
            continue
    raise pl.exceptions.InvalidOperationError(f"not all of {text.to_list()[:3]} are times")
