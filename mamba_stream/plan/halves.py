"""Which steps may be done in two halves: rows reduced to partial results before an exchange, and merged behind it."""

from __future__ import annotations

import polars as pl

from mamba_stream.operators.running import ALL
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.window_late import AFTER
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.changelogs import Totals, split_totals
from mamba_stream.plan.windows import windows_of

Halved = n.Window | Totals
"""What may be done in halves."""


def in_halves(node: n.Node, analysis: Analysis) -> bool:
    """Whether a step can be: all its aggregates decompose, and nobody asks for its late rows.

    Which rows came too late after silence shows where windows are closed, and there are no rows any more. Nor are there
    where totals count different values, which they keep apart, or where keys without rows are let go of.
    """
    if isinstance(node, Totals):
        split = split_totals(node, analysis.shapes[node.parent])
        return node.ttl is None and not split.kept and not split.distinct
    return (
        isinstance(node, n.Window)
        and node.spec.kind in ("tumbling", "hopping", "cumulative")
        and node.changing is None
        and not analysis.splits[node].kept
        and not any(isinstance(late, n.LateRows) and late.parent is node for late in analysis.nodes)
    )


def partials_schema(node: Halved, analysis: Analysis) -> pl.Schema:
    """The columns of a step's partial results, as its state has them: of windows the pane, key, and what they hold."""
    before = analysis.shapes[node.parent]
    keys: dict[str, pl.DataType] = {name: before.schema[name] for name in node.by}
    if isinstance(node, Totals):
        return pl.Schema({**(keys or {ALL: pl.Int8()}), **split_totals(node, before).partial_schema})
    overlaps = windows_of(node.spec, before.time_type).overlaps
    return pl.Schema(
        {
            SLOT: pl.Int64(),
            **({AFTER: pl.Int64()} if overlaps else {}),
            **keys,
            **analysis.splits[node].partial_schema,
        }
    )
