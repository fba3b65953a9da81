"""Arguments as Polars takes them: expressions, names, lists of either, and keywords that name results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from mamba_stream.errors import PipelineRefused


def expressions(positional: Iterable[Any], named: dict[str, Any], *, verb: str) -> tuple[pl.Expr, ...]:
    """The expressions that ``select`` and ``with_columns`` are given; a str is a column.

    Raises:
        PipelineRefused: There are none.
    """
    exprs = [_expression(value) for value in _flat(positional)]
    exprs += [_expression(value).alias(name) for name, value in named.items()]
    if not exprs:
        raise PipelineRefused(f"{verb} needs at least one expression")
    return tuple(exprs)


def predicates(positional: Iterable[Any], constraints: dict[str, Any]) -> tuple[pl.Expr, ...]:
    """The conditions that ``filter`` is given; ``name=value`` means equality, a str is a column.

    Raises:
        PipelineRefused: There are none, or one is no expression.
    """
    found = []
    for value in _flat(positional):
        if isinstance(value, bool) or not isinstance(value, pl.Expr | str):
            raise PipelineRefused(f"filter takes expressions such as pl.col('x') > 3, not {value!r:.80}")
        found.append(_expression(value))
    found += [pl.col(name).eq(value) for name, value in constraints.items()]
    if not found:
        raise PipelineRefused("filter needs at least one predicate")
    return tuple(found)


def names(value: Any, *, what: str) -> tuple[str, ...]:
    """Column names, given as one or several.

    Raises:
        PipelineRefused: Something is no name.
    """
    if value is None:
        return ()
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(_name(item, what) for item in values)


def _name(item: Any, what: str) -> str:
    if isinstance(item, pl.Expr) and item.meta.is_column():
        return item.meta.output_name()
    if not isinstance(item, str):
        raise PipelineRefused(
            f"{what} takes names of columns, not {str(item)!r:.80}: make a column of it with .with_columns() before"
        )
    return item


def _flat(values: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for value in values:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            flat.extend(value)
        else:
            flat.append(value)
    return flat


def _expression(value: Any) -> pl.Expr:
    if isinstance(value, pl.Expr):
        return value
    if isinstance(value, str):
        return pl.col(value)
    if isinstance(value, pl.Series | pl.DataFrame | pl.LazyFrame):
        raise PipelineRefused(
            f"a {type(value).__name__} has as many rows as it has, whatever the batch: use .join(frame, on=...)"
        )
    return pl.lit(value)
