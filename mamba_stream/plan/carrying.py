"""Which columns are meant, and which are given on as they are, so that a time column is followed through renaming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from mamba_stream.core.trees import Node, nodes


def carried(expr: pl.Expr, schema: pl.Schema) -> dict[str, str]:
    """Columns whose values an expression gives on as they are, with the names that they get."""
    tree, name = nodes(expr), ""
    while tree.kind in ("Alias", "TemporalExpr.ConvertTimeZone"):
        # In another time zone it is the same moment.
        name = name or (_alias(tree) if tree.kind == "Alias" else "")
        tree = tree.children[0]
    if tree.kind == "Column":
        return {tree.params: name or tree.params}
    if tree.kind == "Selector":
        return {column: column for column in pl.DataFrame(schema=schema).select(expr).columns}
    return {}


def named(columns: Sequence[Any], schema: pl.Schema) -> list[str]:
    """The columns that names and selectors mean."""
    return pl.DataFrame(schema=schema).select(*columns).columns


def _alias(tree: Node) -> str:
    return str(tree.params["name"] if isinstance(tree.params, dict) else tree.params)
