"""A predicate as a Polars expression, built anew by us: nothing that was received is ever deserialised."""

from __future__ import annotations

import polars as pl
from polars import selectors

from mamba_stream.core.predicates import literals
from mamba_stream.core.predicates.forms import Column, Literal, Operator, Predicate, Values
from mamba_stream.core.predicates.operators import OPERATORS


def to_expr(predicate: Predicate) -> pl.Expr:
    """The expression that a predicate stands for; it must be one that ``decode`` or ``from_expr`` gave.

    >>> str(to_expr(Operator("gt", (Column("price"), Literal(("Int",), 3)))))
    '[(col("price")) > (dyn int: 3)]'
    """
    match predicate:
        case Column():
            return _column(predicate.name)
        case Literal():
            return literals.literal(predicate.dtype, predicate.value)
        case Values():
            return literals.values(predicate.dtype, predicate.values)
        case Operator():
            return OPERATORS[predicate.name].write(*map(to_expr, predicate.inputs), **predicate.options)


def _column(name: str) -> pl.Expr:
    # pl.col takes these for patterns, which stand for any number of columns.
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        return selectors.by_name(name).as_expr()
    return pl.col(name)
