"""Which columns of its input a step reads, and which its rows have: what nobody needs is never read.

The rules are per kind of node; verbs in modules of their own register theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

import polars as pl

from mamba_stream.core.trees import columns
from mamba_stream.plan import nodes as n
from mamba_stream.plan.carrying import named
from mamba_stream.plan.shapes import Shape
from mamba_stream.plan.verbs import present_after

Shapes = Mapping[n.Node, Shape]


@singledispatch
def columns_read(node: n.Node, port: int, found: Shapes, need: set[str]) -> set[str]:
    """The columns of one of its inputs that a node reads, for those of its own that are needed; all, unless known.

    Args:
        node: The node.
        port: Which input.
        found: The shapes of all nodes.
        need: The columns of the node that a later one needs.
    """
    return set(found[node.parents[port]].schema)


@columns_read.register
def _(node: n.Filter, port: int, found: Shapes, need: set[str]) -> set[str]:
    return need | columns_of(node.predicates, found[node.parent])


@columns_read.register
def _(node: n.Select, port: int, found: Shapes, need: set[str]) -> set[str]:
    return columns_of(node.exprs, found[node.parent])


@columns_read.register
def _(node: n.WithColumns, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    return {name for name in need if name in before.schema} | columns_of(node.exprs, before)


@columns_read.register
def _(node: n.Rename, port: int, found: Shapes, need: set[str]) -> set[str]:
    pairs = zip(found[node.parent].schema, found[node].schema, strict=True)
    return {old for old, new in pairs if new in need}


@columns_read.register(n.Drop)
@columns_read.register(n.Cast)
@columns_read.register(n.Concat)
def _(node: n.Node, port: int, found: Shapes, need: set[str]) -> set[str]:
    return {name for name in need if name in found[node.parents[port]].schema}


@columns_read.register(n.Explode)
@columns_read.register(n.Unnest)
def _(node: n.Explode | n.Unnest, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent].schema
    return {name for name in need if name in before} | set(named(node.columns, before))


@columns_read.register
def _(node: n.Lookup, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    # A column of the table gets its suffix only where the stream has one of its name.
    same = {name for name in node.table.columns if name in before.schema}
    return {name for name in need if name in before.schema} | same | set(node.left_on)


@columns_read.register
def _(node: n.Window, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    assert before.time is not None
    return {*node.by, before.time} | columns_of(tuple(node.aggregates.values()), before)


@columns_read.register
def _(node: n.WithTime, port: int, found: Shapes, need: set[str]) -> set[str]:
    return need | {node.time}


@columns_read.register
def _(node: n.LateRows, port: int, found: Shapes, need: set[str]) -> set[str]:
    return set()


def columns_of(exprs: Sequence[pl.Expr], before: Shape) -> set[str]:
    """The columns that expressions read."""
    return set().union(*(columns(expr, before.schema) for expr in exprs))


@singledispatch
def present_columns(
    node: n.Node, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    """The columns that a node's frames have, in order; those of its schema, unless known.

    Args:
        node: The node.
        found: The shapes of all nodes.
        present: The columns of the frames of the nodes before it.
        needed: The columns of the node that a later one needs.
    """
    return found[node].schema.names()


@present_columns.register(n.Source)
@present_columns.register(n.Concat)
def _(
    node: n.Node, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    return list(needed)


@present_columns.register(n.Filter)
@present_columns.register(n.Select)
@present_columns.register(n.WithColumns)
@present_columns.register(n.Drop)
@present_columns.register(n.Rename)
@present_columns.register(n.Cast)
@present_columns.register(n.Explode)
@present_columns.register(n.Unnest)
def _(
    node: n.RowStep, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    return present_after(node, found[node.parent], found[node], present[node.parent])


@present_columns.register
def _(
    node: n.Lookup, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    absent = set(found[node.parent].schema) - set(present[node.parent])
    return [name for name in found[node].schema if name not in absent]


@present_columns.register(n.Inspect)
@present_columns.register(n.WithTime)
def _(
    node: n.Inspect | n.WithTime,
    found: Shapes,
    present: Mapping[n.Node, Sequence[str]],
    needed: Sequence[str],
) -> Sequence[str]:
    return present[node.parent]
