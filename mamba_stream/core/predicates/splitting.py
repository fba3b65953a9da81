"""What of a filter can travel, and what is left for whoever gets the rows."""

from __future__ import annotations

from functools import reduce

import polars as pl

from mamba_stream.core.predicates.checking import check
from mamba_stream.core.predicates.forms import Operator, Predicate
from mamba_stream.core.predicates.reading import conjuncts, from_expr
from mamba_stream.core.predicates.travelling import encode
from mamba_stream.errors import ExpressionRefused, InvalidInput


def split(expr: pl.Expr, schema: pl.Schema) -> tuple[Predicate | None, pl.Expr | None]:
    """The part of a filter that can travel, and the rest of it, which is to be applied to the rows that come.

    A row is kept by the filter exactly if it is kept by both.

    Args:
        expr: A filter that looks at single rows only, as those that Polars hands to a scan do.
        schema: The columns of the rows. What could not be asked of them does not travel, so that the error is
            Polars' own, where the filter is applied.

    Returns:
        The two parts; None for one in which there is nothing.
    """
    whole = _travels(expr, schema)
    if whole is not None:
        return whole, None
    try:
        parts = list(conjuncts(expr))
    except ExpressionRefused:
        return None, expr
    wanted: list[Predicate] = []
    rest: list[pl.Expr] = []
    for part in parts:
        found = _travels(part, schema) if len(parts) > 1 else None
        if found is not None and _fits([*wanted, found]):
            wanted.append(found)
        else:
            rest.append(part)
    return _together(wanted) if wanted else None, reduce(pl.Expr.and_, rest) if rest else None


def _travels(expr: pl.Expr, schema: pl.Schema) -> Predicate | None:
    found = from_expr(expr)
    if found is None or not _fits([found]):
        return None
    try:
        check(found, schema)
    except InvalidInput:
        return None
    return found


def _fits(wanted: list[Predicate]) -> bool:
    try:
        encode(_together(wanted))
    except InvalidInput:
        return False
    return True


def _together(wanted: list[Predicate]) -> Predicate:
    return wanted[0] if len(wanted) == 1 else Operator("and", tuple(wanted))
