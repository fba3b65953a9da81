"""Arguments as Polars takes them: expressions, names, lists of either, and keywords that name results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.errors import PipelineRefused

_SINGLE = (str, bytes, Mapping, pl.Expr, pl.Series, pl.DataFrame, pl.LazyFrame)
"""What can be iterated over, and is one argument all the same."""


def expressions(positional: Iterable[Any], named: dict[str, Any], *, verb: str) -> tuple[pl.Expr, ...]:
    """The expressions that ``select`` and ``with_columns`` are given; a str is a column.

    Raises:
        PipelineRefused: There are none.
    """
    exprs = [_expression(value) for value in flat(positional)]
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
    for value in flat(positional):
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
    return () if value is None else tuple(_name(item, what) for item in flat([value]))


def schema(given: Any, *, verb: str) -> pl.Schema:
    """Columns and their types, as Polars takes them.

    Raises:
        PipelineRefused: They are none.
    """
    try:
        return pl.Schema(given)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise PipelineRefused(
            f"{verb}: schema={given!r:.80} is no schema, such as {{'x': pl.Int64}}: {error}"
        ) from error


def seconds(length: str | timedelta | None, *, what: str) -> float | None:
    """How long something may take, if there is an end to that.

    Raises:
        InvalidInput: It is no length of time, or none that anything could take.
    """
    return None if length is None else duration_us(length, what=what, zero=False) / 1e6


def single_results(positional: Iterable[Any], named: dict[str, Any], *, verb: str) -> dict[str, pl.Expr]:
    """Expressions by the name of their result, each of one column.

    Raises:
        PipelineRefused: One has no single name, or two have the same.
    """
    found: dict[str, pl.Expr] = {}
    for expr in expressions(positional, named, verb=verb):
        result = expr.meta.output_name(raise_if_undetermined=False)
        if result is None or expr.meta.has_multiple_outputs():
            raise PipelineRefused(f"{verb}: {expr!s:.80} has no single name: write {verb}(name=...)")
        if result in found:
            raise PipelineRefused(f"{verb}: two results are called {result!r}: name one with .alias(...)")
        found[result] = expr
    return found


def _name(item: Any, what: str) -> str:
    if isinstance(item, pl.Expr) and item.meta.is_column():
        return item.meta.output_name()
    if not isinstance(item, str):
        raise PipelineRefused(
            f"{what} takes names of columns, not {str(item)!r:.80}: make a column of it with .with_columns() before"
        )
    return item


def flat(values: Iterable[Any]) -> list[Any]:
    """Values, and what is in those that are lists, generators and the like."""
    found: list[Any] = []
    for value in values:
        several = isinstance(value, Iterable) and not isinstance(value, _SINGLE)
        found.extend(value if several else [value])
    return found


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
