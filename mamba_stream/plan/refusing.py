"""Refusing a step: with the verb and the user's line, and with what would be there instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import polars as pl

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import ColumnNotFound, InvalidInput, PipelineRefused
from mamba_stream.operators.columns import PREFIX
from mamba_stream.plan import nodes as n


@contextmanager
def refusing(node: n.Node) -> Iterator[None]:
    """Adds the verb and the user's line to what is refused, and gives Polars' errors names of ours."""
    where = f"({node.verb} at {node.place})"
    try:
        yield
    except PipelineRefused as error:
        if str(error).endswith(where):
            raise
        raise type(error)(f"{error} {where}") from error.__cause__
    except pl.exceptions.ColumnNotFoundError as error:
        raise ColumnNotFound(f"{first_line(error)} {where}") from error
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            kind = PipelineRefused if type(error) is InvalidInput else type(error)
            raise (error if str(error).endswith(where) else kind(f"{error} {where}")) from error.__cause__
        raise PipelineRefused(f"{node.verb}: {first_line(error)} {where}") from error


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that Polars may add."""
    return str(error).strip().partition("\n")[0]


def columns_are(name: str, schema: pl.Schema) -> str:
    names = schema.names()
    listed = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
    return f"{did_you_mean(name, names)}; there are {listed}"


def check_columns(names: Sequence[str], schema: pl.Schema) -> None:
    """Refuses names that are not columns."""
    for name in names:
        if name not in schema:
            raise ColumnNotFound(f"no column {name!r}{columns_are(name, schema)}")


def refuse_engine_names(names: Iterable[str]) -> None:
    """Refuses columns that would hide those that the engine adds."""
    if name := next((name for name in names if name.startswith(PREFIX)), None):
        raise PipelineRefused(f"column {name!r}: names that begin with {PREFIX!r} are the engine's own")
