"""Whether what a user's function gives is what it said it would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from mamba_stream.errors import SchemaMismatch


def fitted(result: Any, schema: Mapping[str, pl.DataType], *, what: str = "schema=") -> pl.DataFrame:
    """The frame that a function gave, with the columns in the order of the schema; an untyped null fits any type.

    Args:
        result: What the function gave.
        schema: What it has to give.
        what: The argument that says so, for the message.

    Raises:
        SchemaMismatch: It is no frame, or its columns are others.
    """
    if not isinstance(result, pl.DataFrame):
        raise SchemaMismatch(f"the function gave {type(result).__name__}: it must give a pl.DataFrame")
    have, want = dict(result.schema), dict(schema)
    if have == want and list(have) == list(want):
        return result
    for name, dtype in want.items():
        if name not in have:
            raise SchemaMismatch(f"the function's frame lacks column {name!r}, which {what} has")
        if have[name] not in (dtype, pl.Null()):
            raise SchemaMismatch(f"the function gave {have[name]} in column {name!r}: {what} says {dtype}")
    if extra := [name for name in have if name not in want]:
        raise SchemaMismatch(f"the function gave column {extra[0]!r}, which {what} does not have")
    return result.select(pl.col(name).cast(dtype) for name, dtype in want.items())
