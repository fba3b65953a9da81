"""Row verbs of a plan as verbs over frames, for the columns that are really there after pruning."""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from mamba_stream.core.trees import has_selector
from mamba_stream.operators.rows import (
    Converted,
    Dropped,
    Exploded,
    Extended,
    Filtered,
    Renamed,
    RowVerb,
    Selected,
    Unnested,
)
from mamba_stream.plan import nodes as n
from mamba_stream.plan.carrying import named
from mamba_stream.plan.shapes import Shape


def row_verb(node: n.RowStep, before: Shape, after: Shape, present: Collection[str]) -> RowVerb:
    """What a verb does to a frame that has only ``present`` of the columns of ``before``."""
    match node:
        case n.Filter():
            return Filtered(node.predicates, any(map(has_selector, node.predicates)))
        case n.Select():
            return Selected(node.exprs, any(map(has_selector, node.exprs)))
        case n.WithColumns():
            return Extended(node.exprs, any(map(has_selector, node.exprs)))
        case n.Drop():
            return Dropped([name for name in before.schema if name not in after.schema and name in present])
        case n.Rename():
            pairs = zip(before.schema, after.schema, strict=True)
            return Renamed({old: new for old, new in pairs if old != new and old in present})
        case n.Cast():
            types = after.schema.items()
            changed = {
                name: dtype for name, dtype in types if name in present and dtype != before.schema[name]
            }
            return Converted(changed, node.strict)
        case n.Explode():
            lists = {name: before.schema[name] for name in named(node.columns, before.schema)}
            return Exploded(lists, empty_as_null=node.empty_as_null, keep_nulls=node.keep_nulls)
        case n.Unnest():
            return Unnested(named(node.columns, before.schema), node.separator)


def present_after(node: n.RowStep, before: Shape, after: Shape, present: Collection[str]) -> list[str]:
    """The columns that are there after the verb, in order."""
    match node:
        case n.Rename():
            return [new for old, new in zip(before.schema, after.schema, strict=True) if old in present]
        case n.Select():
            return after.schema.names()
        case n.WithColumns():
            made = pl.DataFrame(schema=before.schema).select(node.exprs).columns
            return [name for name in after.schema if name in present or name in made]
        case n.Unnest():
            return [name for name in after.schema if name in present or name not in before.schema]
        case _:
            return [name for name in after.schema if name in present]
