"""Which rows have to meet in one place for a step to do its work: those with equal keys, all, or none in particular."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch

import polars as pl

from mamba_stream.core.trees import nodes as parts
from mamba_stream.plan import changelogs as c, joins, neighbours, nodes as n, process
from mamba_stream.plan.carrying import carried, named
from mamba_stream.plan.shapes import Shape

Meeting = tuple[str, ...] | None
"""Columns whose equal values have to meet; none of them for all rows, ``None`` where rows may be anywhere."""


@singledispatch
def meeting_at(node: n.Node, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    """What has to meet at an input of a step."""
    if isinstance(node, n.Stateful):
        raise TypeError(f"nothing is known of which rows meet in {type(node).__name__}")
    return None


@meeting_at.register
def _(node: n.WithTime, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    return None


@meeting_at.register(n.Window)
@meeting_at.register(neighbours.Rolling)
@meeting_at.register(neighbours.Lag)
@meeting_at.register(neighbours.Match)
@meeting_at.register(process.Process)
@meeting_at.register(c.Totals)
def _(
    node: n.Window | neighbours.Rolling | neighbours.Lag | neighbours.Match | process.Process | c.Totals,
    port: int,
    found: Mapping[n.Node, Shape],
) -> Meeting:
    return node.by


@meeting_at.register
def _(node: c.Table, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    return node.key


@meeting_at.register
def _(node: c.Unique, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    return node.keys(found[node.parent].schema)


@meeting_at.register
def _(node: c.TopK, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    return node.per


@meeting_at.register
def _(node: joins.StreamJoin, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    return node.on(port)


@meeting_at.register
def _(node: n.SinkOutput, port: int, found: Mapping[n.Node, Shape]) -> Meeting:
    # One writer: what a sink promises, it promises of that.
    return ()


def takes_whole_windows(node: n.Node, found: Mapping[n.Node, Shape]) -> bool:
    """Whether a step counts on all rows of a window to come together."""
    if isinstance(node, c.TopK):
        return c.of_windows(node, found[node.parent])
    exprs = node.predicates if isinstance(node, n.Filter) else getattr(node, "exprs", ())
    return isinstance(node, n.RowStep) and any(
        part.kind == "Over" for expr in exprs for part in parts(expr).walk()
    )


def orders_anew(node: n.Node) -> bool:
    """Whether a step gives its rows an order of their own, which goes by all that it gives."""
    return isinstance(node, n.Stateful) and (not node.keeps_rows or isinstance(node, joins.StreamJoin))


def key_behind(node: n.Node, key: Sequence[str], found: Mapping[n.Node, Shape]) -> Meeting:
    """The columns that a key's values are in behind a step; ``None`` where they are not all there as they were."""
    names = _carried(node, found)
    return tuple(names[name] for name in key) if names.keys() >= set(key) else None


def _carried(node: n.Node, found: Mapping[n.Node, Shape]) -> Mapping[str, str]:
    """By column of a step's first input, the column of its output that has the same values."""
    after = found[node].schema
    before = found[node.parents[0]].schema if node.parents else after
    there = {name: name for name in after if name in before}
    match node:
        case n.Rename():
            return dict(zip(before, after, strict=True))
        case n.Select():
            return {old: new for expr in node.exprs for old, new in carried(expr, before).items()}
        case n.WithColumns():
            made = pl.DataFrame(schema=before).select(node.exprs).columns
            return {name: name for name in there if name not in made}
        case n.Explode():
            made = named(node.columns, before)
            return {name: name for name in there if name not in made}
        case joins.StreamJoin():
            return there if node.how in ("inner", "left", "semi", "anti") else {}
        case neighbours.Lag():
            return {name: name for name in there if name not in node.results}
        case n.Window() | c.Totals() | neighbours.Rolling() | neighbours.Match():
            return {name: name for name in node.by if name in after}
        case (
            n.Filter()
            | n.Drop()
            | n.Unnest()
            | n.Lookup()
            | n.Inspect()
            | n.Changes()
            | n.Concat()
            | n.WithTime()
            | c.Table()
            | c.Unique()
            | c.TopK()
        ):
            return there
        case _:
            return {}
