"""What may be done with a Polars expression on a stream: the checks, and what can be read off its tree."""

from __future__ import annotations

import polars as pl

from mamba_stream.core.timebounds import time_bounds
from mamba_stream.core.trees import columns, fingerprint, has_selector, nodes, output_name, short, tree
from mamba_stream.errors import ExpressionRefused
from mamba_stream.plan.rowwise import check_repeatable, check_row_wise

__all__ = [
    "check_aggregate",
    "check_row_wise",
    "columns",
    "fingerprint",
    "has_selector",
    "output_name",
    "time_bounds",
    "tree",
]


def check_aggregate(expr: pl.Expr, *, verb: str) -> None:
    """Refuses an expression that cannot be evaluated over the rows of a window, or not the same way twice.

    Whatever Polars allows in ``group_by().agg()`` is allowed, except Python functions and randomness. What
    does not reduce its rows to one value (``pl.col("x")``, ``.unique()``) gives a list, as in Polars.

    Args:
        expr: The expression.
        verb: The verb that it was given to, for the message.

    Raises:
        ExpressionRefused: With the piece that is not allowed and what to use instead.
    """
    root = nodes(expr)
    check_repeatable(root, expr, verb=verb)
    for part in root.walk():
        if part.kind == "Selector" and "ByIndex" in str(part.params):
            raise ExpressionRefused(
                f"{verb}: {short(expr)} picks a column by its position, which depends on what else is kept:"
                " name the column"
            )
