"""Verbs whose results change: running totals, tables. Their nodes, and what is known and refused of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import polars as pl
from msgspec.structs import replace

from mamba_stream.core.durations import duration_in
from mamba_stream.core.trees import fingerprint
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.best import RANK_TYPE
from mamba_stream.operators.changes import OP_COLUMN, OP_WORD_TYPE
from mamba_stream.operators.columns import ORDER, ORDER_TYPES
from mamba_stream.plan import nodes as n
from mamba_stream.plan.aggregates import AggregatePlan, split
from mamba_stream.plan.analysis import Analysis, in_order
from mamba_stream.plan.columns import Shapes, columns_of, columns_read, present_columns
from mamba_stream.plan.explain import remarks_on, words_of
from mamba_stream.plan.layouts import described_state
from mamba_stream.plan.refusing import check_columns, refuse_engine_names
from mamba_stream.plan.shapes import Changelog, Shape, need_time, shape_of
from mamba_stream.plan.words import in_units

KEEPS_TIME = (
    "a key that comes back after longer than ttl begins anew, and when it was let go depends on the watermark"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class KeyColumns(n.WithColumns):
    """The keys of a ``group_by`` that are expressions, as columns."""

    @property
    def verb(self) -> str:
        return "group_by"


@dataclass(frozen=True, eq=False, kw_only=True)
class Totals(n.Stateful, n.Step):
    """Aggregates by key over all rows so far.

    Attributes:
        by: The keys; there may be none.
        aggregates: Expressions by the name of their result.
        ttl: How long a key without rows is kept, in microseconds of the stream's time.
    """

    takes_changes: ClassVar[bool] = True
    by_time: ClassVar[bool] = False

    by: tuple[str, ...]
    aggregates: Mapping[str, pl.Expr]
    ttl: int | None

    @property
    def verb(self) -> str:
        return "group_by"


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(n.Stateful, n.Step):
    """The latest row of each key.

    Attributes:
        key: The columns whose values tell rows apart.
        called: What the user called.
    """

    takes_changes: ClassVar[bool] = True
    by_time: ClassVar[bool] = False

    key: tuple[str, ...]
    called: str = "table"

    @property
    def verb(self) -> str:
        return self.called


@dataclass(frozen=True, eq=False, kw_only=True)
class Unique(n.Stateful, n.Step):
    """The first row of each key.

    Attributes:
        subset: The key; empty where it is all columns.
        within: How long after a row that was kept others of its key are left out, in microseconds; ``None`` is for
            ever.
    """

    keeps_rows: ClassVar[bool] = True

    subset: tuple[str, ...]
    within: int | None

    @property
    def verb(self) -> str:
        return "unique"

    def keys(self, schema: pl.Schema) -> tuple[str, ...]:
        """The key columns."""
        return self.subset or tuple(schema.names())


@dataclass(frozen=True, eq=False, kw_only=True)
class UniqueOnArrival(Unique):
    """The first row of each key to arrive."""

    by_time: ClassVar[bool] = False


@dataclass(frozen=True, eq=False, kw_only=True)
class TopK(n.Stateful, n.Step):
    """The best rows of each group.

    Attributes:
        k: How many.
        by: The columns that rows are compared by.
        reverse: For each whether its least values are the best.
        per: The columns that tell groups apart; without any, all rows are one group.
        rank: A column to add, with the rank of each row from 1 on.
    """

    takes_changes: ClassVar[bool] = True
    by_time: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = True
    takes_sides: ClassVar[bool] = True

    k: int
    by: tuple[str, ...]
    reverse: tuple[bool, ...]
    per: tuple[str, ...]
    rank: str | None

    @property
    def verb(self) -> str:
        return "top_k"


def of_windows(node: TopK, before: Shape) -> bool:
    """Whether every frame holds all rows of its groups, since they are of windows that come whole."""
    return before.start is not None and before.start in node.per


def is_log(node: Table, before: Shape) -> bool:
    """Whether a table is made of rows that say themselves in ``_op`` what they do."""
    return node.called == "table" and before.changelog is None and OP_COLUMN in before.schema


def split_totals(node: Totals, before: Shape) -> AggregatePlan:
    """How running totals over rows of this shape aggregate."""
    schema = pl.Schema({**before.schema, **ORDER_TYPES})
    return split(node.aggregates, schema, ORDER, "running" if before.changelog is None else "table")


def check_keys(keys: Sequence[str], schema: pl.Schema, verb: str) -> None:
    """Refuses keys that are no columns, or of a type whose values cannot be told apart."""
    check_columns(keys, schema)
    if twice := next((key for key in keys if list(keys).count(key) > 1), None):
        raise PipelineRefused(f"{verb}: {twice!r} is a key twice")
    for key in keys:
        dtype = schema[key]
        if (dtype.is_nested() and not isinstance(dtype, pl.Struct)) or dtype == pl.Object:
            raise PipelineRefused(f"{verb}: column {key!r} of type {dtype} cannot be a key")


def check_ttl(ttl: int | None, before: Shape, verb: str) -> None:
    """Refuses a time to live that the stream's time cannot measure."""
    if ttl is not None:
        time = need_time(before, f"{verb}(ttl=)")
        duration_in(ttl, before.schema[time], what="ttl")


@shape_of.register
def _(node: KeyColumns, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    made = pl.DataFrame(schema=shape.schema).select(node.exprs).columns
    if same := next((name for name in made if name in shape.schema), None):
        raise PipelineRefused(
            f"group_by: the key {same!r} has the name of a column that is there: give it another with .alias(...)"
        )
    after: Shape = shape_of.dispatch(n.WithColumns)(node, parents)
    return after


@shape_of.register
def _(node: Totals, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_keys(node.by, shape.schema, "group_by")
    check_ttl(node.ttl, shape, "group_by")
    if twice := next((name for name in node.aggregates if name in node.by), None):
        raise PipelineRefused(f"group_by: the result would have two columns {twice!r}: rename one")
    refuse_engine_names(node.aggregates)
    outputs = split_totals(node, shape).output_schema
    keys = {name: shape.schema[name] for name in node.by}
    lost = f"the running totals of the group_by at {node.place} change with every row and have no time of their own"
    return Shape(pl.Schema({**keys, **outputs}), lost=lost, changelog=Changelog(node.by))


@shape_of.register
def _(node: Table, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if not node.key:
        raise PipelineRefused(f"{node.verb} needs a key: name the columns that tell rows apart")
    check_keys(node.key, shape.schema, node.verb)
    if shape.changelog is not None:
        if set(shape.changelog.key) != set(node.key):
            known = f"by {', '.join(shape.changelog.key)}" if shape.changelog.key else "without a key"
            raise PipelineRefused(
                f"{node.verb} by {', '.join(node.key)} of a table {known}: which of several rows is the latest, a "
                f"table does not say. Use .group_by({', '.join(map(repr, node.key))}).agg(...), or make this table "
                "of the rows that the other is made of"
            )
        return replace(shape, changelog=Changelog(node.key))
    schema = dict(shape.schema)
    if is_log(node, shape):
        if (dtype := schema.pop(OP_COLUMN)) != OP_WORD_TYPE:
            raise PipelineRefused(
                f"{node.verb} takes {OP_COLUMN!r} for what a row does, and it is {dtype}: rename it"
            )
        if OP_COLUMN in node.key:
            raise PipelineRefused(f"{node.verb}: {OP_COLUMN!r} says what a row does, and cannot be its key")
    return replace(shape, schema=pl.Schema(schema), start=None, changelog=Changelog(node.key))


@columns_read.register
def _(node: Table, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    order = OP_COLUMN if is_log(node, before) else before.time
    return {name for name in (*need, *node.key, order) if name is not None and name in before.schema}


@present_columns.register
def _(
    node: Table, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    return list(needed)


@in_order.register
def _(node: Table, found: Shapes) -> bool:
    before = found[node.parent]
    return before.changelog is None and not is_log(node, before)


@described_state.register
def _(step: Table, analysis: Analysis) -> dict[str, Any]:
    before, after = analysis.shapes[step.parent], analysis.shapes[step]
    return {
        "key": list(step.key),
        "columns": {name: str(after.schema[name]) for name in analysis.needed[step]},
        "of": "table" if before.changelog else "log" if is_log(step, before) else "rows",
        "time": [str(before.time_type), before.shift] if before.time is not None else None,
    }


@words_of.register
def _(node: Table) -> str:
    return f"the latest row by {', '.join(node.key)}"


@remarks_on.register
def _(node: Table, shapes: Shapes) -> list[str]:
    log = node.parent in shapes and is_log(node, shapes[node.parent])
    return [*([f"told by {OP_COLUMN}, in the order of the topic"] if log else []), f"named {node.name!r}"]


@shape_of.register
def _(node: Unique, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_keys(node.keys(shape.schema), shape.schema, "unique")
    if node.by_time:
        need_time(shape, 'unique, which waits until time says which row is first (order="arrival" does not),')
    if node.within is not None:
        time = need_time(shape, "unique(within=)")
        duration_in(node.within, shape.schema[time], what="within")
    return replace(shape, start=None)


@columns_read.register
def _(node: Unique, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    return {*need, *node.keys(before.schema), *([] if before.time is None else [before.time])}


@present_columns.register
def _(
    node: Unique, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    return present[node.parent]


@in_order.register
def _(node: Unique, found: Shapes) -> bool:
    return node.by_time


@described_state.register
def _(step: Unique, analysis: Analysis) -> dict[str, Any]:
    before = analysis.shapes[step.parent]
    waiting = {name: str(before.schema[name]) for name in analysis.present[step.parent]}
    return {
        "key": {name: str(before.schema[name]) for name in step.keys(before.schema)},
        "within": step.within,
        "waiting": waiting if step.by_time else None,
        "time": [str(before.time_type), before.shift] if before.time is not None else None,
    }


@words_of.register
def _(node: Unique) -> str:
    bound = "" if node.within is None else f" within {in_units(timedelta(microseconds=node.within))}"
    return f"the first row by {', '.join(node.subset) or 'all columns'}{bound}"


@remarks_on.register
def _(node: Unique, shapes: Shapes) -> list[str]:
    arrival = ["first to arrive: which one it is depends on the batches"] if not node.by_time else []
    kept = ["keeps its keys for ever: within= would let go of them"] if node.within is None else []
    return [*arrival, *kept, f"named {node.name!r}"]


@shape_of.register
def _(node: TopK, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_columns(node.by, shape.schema)
    check_keys(node.per, shape.schema, "top_k")
    for name in node.by:
        if shape.schema[name].is_nested() or shape.schema[name] == pl.Object:
            raise PipelineRefused(
                f"top_k: column {name!r} of type {shape.schema[name]} has no greatest values"
            )
    schema = dict(shape.schema)
    if node.rank is not None:
        if node.rank in schema:
            raise PipelineRefused(
                f"top_k(rank={node.rank!r}): there is a column of this name: choose another"
            )
        refuse_engine_names([node.rank])
        schema[node.rank] = RANK_TYPE
    if of_windows(node, shape):
        return replace(shape, schema=pl.Schema(schema))
    if node.rank is not None:
        key = (*node.per, node.rank)
    elif node.k == 1:
        key = node.per
    else:
        key = shape.changelog.key if shape.changelog else ()
    lost = f"the best rows that the top_k at {node.place} gives are the best so far, whatever their time"
    return Shape(pl.Schema(schema), lost=lost, changelog=Changelog(key))


@columns_read.register
def _(node: TopK, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    return {
        name
        for name in (*need, *node.by, *node.per, before.time)
        if name is not None and name in before.schema
    }


@present_columns.register
def _(
    node: TopK, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    if of_windows(node, found[node.parent]):
        return [*present[node.parent], *([] if node.rank is None else [node.rank])]
    return list(needed)


@in_order.register
def _(node: TopK, found: Shapes) -> bool:
    before = found[node.parent]
    return before.changelog is None and not of_windows(node, before)


@described_state.register
def _(step: TopK, analysis: Analysis) -> dict[str, Any]:
    before = analysis.shapes[step.parent]
    return {
        "best": [step.k, list(step.by), list(step.reverse), list(step.per), step.rank],
        "columns": {
            name: str(before.schema[name])
            for name in (*analysis.needed[step], *step.by)
            if name in before.schema
        },
        "of": "windows" if of_windows(step, before) else "table" if before.changelog else "rows",
        **({"ties": "by the rows of both sides"} if step.parent in analysis.by_sides else {}),
        "time": [str(before.time_type), before.shift] if before.time is not None else None,
    }


@words_of.register
def _(node: TopK) -> str:
    by = ", ".join(f"{name}{' reversed' * back}" for name, back in zip(node.by, node.reverse, strict=True))
    return f"the {node.k} best by {by}{' per ' + ', '.join(node.per) if node.per else ''}"


@remarks_on.register
def _(node: TopK, shapes: Shapes) -> list[str]:
    named = f"named {node.name!r}"
    if node.parent not in shapes:
        return [named]
    before = shapes[node.parent]
    if of_windows(node, before):
        return ["of whole windows: each comes once", named]
    return [
        "of a table, all of whose rows are kept" if before.changelog else "keeps the best rows so far",
        named,
    ]


@columns_read.register
def _(node: Totals, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    read = {*node.by} | columns_of(tuple(node.aggregates.values()), before)
    if before.time is not None and (node.ttl is not None or in_order(node, found)):
        read.add(before.time)
    return read


@in_order.register
def _(node: Totals, found: Shapes) -> bool:
    before = found[node.parent]
    plan = split_totals(node, before)
    return before.changelog is None and (plan.needs_order or bool(plan.kept))


@described_state.register
def _(step: Totals, analysis: Analysis) -> dict[str, Any]:
    before = analysis.shapes[step.parent]
    return {
        "keys": {name: str(before.schema[name]) for name in step.by},
        "aggregates": {name: fingerprint(expr) for name, expr in step.aggregates.items()},
        "state": split_totals(step, before).layout,
        "time": [str(before.time_type), before.shift] if before.time is not None else None,
        "ttl": step.ttl is not None,
        "table": None if before.changelog is None else list(before.changelog.key),
    }


@words_of.register
def _(node: Totals) -> str:
    return f"by {', '.join(node.by)}" if node.by else "all rows"


@remarks_on.register
def _(node: Totals, shapes: Shapes) -> list[str]:
    if node.parent not in shapes:
        return [
            *ttl_remarks(node.ttl),
            f"named {node.name!r}; how it aggregates shows once the topic is known",
        ]
    described = split_totals(node, shapes[node.parent]).describe()
    width = max(map(len, described))
    lines = [f"{name:<{width}}  {how}" for name, how in described.items()]
    return [*lines, *ttl_remarks(node.ttl), f"named {node.name!r}"]


def ttl_remarks(ttl: int | None) -> list[str]:
    """What is worth knowing of a time to live."""
    if ttl is None:
        return []
    length = in_units(timedelta(microseconds=ttl))
    return [f"lets go of a key {length} after its last row: {KEEPS_TIME}"]
