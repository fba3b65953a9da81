"""Aggregations split into partial results, their merge, and what is read off them in the end.

``split`` takes each aggregation apart at its aggregates. Below one, everything must be row-wise, but for
filters right under it; above, there may be row-wise functions of aggregates and plain values. Such
aggregations are computed from partial results, merged in any order and grouping; the others keep the rows of
their group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import polars as pl
from msgspec.structs import replace

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.trees import Node, NotUnderstood, columns, has_selector, inputs, nodes, short
from mamba_stream.errors import ColumnNotFound, ExpressionRefused
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.folding import Folds
from mamba_stream.plan.partials import Distinct, Partial, Partials, State
from mamba_stream.plan.rebuild import rebuild
from mamba_stream.plan.refusing import first_line
from mamba_stream.plan.rowwise import check_aggregate, check_row_wise
from mamba_stream.plan.splits import AGGREGATES, Aggregate, KeepsRows, count_rows, split_aggregate

_KEY = f"{PREFIX}key"


class AggregatePlan(msgspec.Struct, frozen=True):
    """What to compute for a set of aggregations, and when.

    Over the rows of one batch: ``group_by(keys).agg(partial_exprs)``. Over any number of such frames, one
    below the other: ``group_by(keys).agg(merge_exprs)``, as often and in whatever grouping; a single frame
    needs no merge. In the end: ``select(keys, **final_exprs)``. The expressions in ``kept`` are for the rows
    themselves: sorted by the order columns, then ``group_by(keys, maintain_order=True).agg(**kept)``, over a
    frame of the keys and ``kept_columns`` only, since selectors in them would see any other column.

    Attributes:
        partial_exprs: Aggregates over rows, named after the private columns that they make.
        merge_exprs: Aggregates over those columns, with the same names and types.
        partial_folds: The same as ``partial_exprs``; ``None`` where not all of them can be folded.
        merge_folds: The same as ``merge_exprs``.
        final_exprs: For each aggregation that splits, a row-wise expression over merged columns.
        kept: The aggregations that need the rows.
        kept_columns: The columns that those read.
        output_schema: Names and types of all results, as Polars gives them, in the order asked for.
        partial_schema: Names and types of the private columns.
        distinct: Counts of different values, which whoever runs the plan keeps beside the partial results, as
            columns of int64 with their names; of windows there are none.
        needs_order: Whether ``partial_exprs`` read the order columns.
        layout: What identifies the state's columns, for msgpack: equal layouts fit, others do not.
        kinds: For each aggregation "partial", "partial holding values" or "keeps rows".
    """

    partial_exprs: list[pl.Expr]
    merge_exprs: list[pl.Expr]
    partial_folds: Folds | None
    merge_folds: Folds | None
    final_exprs: dict[str, pl.Expr]
    kept: dict[str, pl.Expr]
    kept_columns: tuple[str, ...]
    output_schema: pl.Schema
    partial_schema: pl.Schema
    distinct: tuple[Distinct, ...]
    needs_order: bool
    layout: dict[str, Any]
    kinds: dict[str, str]

    def describe(self) -> dict[str, str]:
        """For each aggregation "partial", "partial holding values" or "keeps rows"."""
        return dict(self.kinds)


class _Recent(msgspec.Struct, frozen=True):
    """A plan that was made; while the expressions are kept here, their identities are theirs alone."""

    exprs: tuple[pl.Expr, ...]
    schema: pl.Schema
    plan: AggregatePlan


_MOST_RECENT: Final = 256
_recent: dict[tuple[object, ...], _Recent] = {}


def split(
    aggregations: Mapping[str, pl.Expr],
    input_schema: pl.Schema,
    order: tuple[str, ...],
    state: State = "window",
) -> AggregatePlan:
    """Splits aggregations into partial results where that gives what Polars gives over all rows at once.

    Args:
        aggregations: Expressions by the name of their result, as for ``group_by().agg()``.
        input_schema: The columns of the rows. The order columns may be among them, and then their types are
            right in ``partial_schema``; expressions do not see them.
        order: Columns whose values, compared one after the other, order the rows; no two rows have the same.
        state: What the partial results are for.

    Raises:
        ExpressionRefused: An expression cannot be used here, or Polars refuses it for this schema.
        ColumnNotFound: An expression reads a column that is not there.
    """
    # The shapes, the order, the state and the operator of a step all ask for it, and it takes tens of milliseconds.
    key = (*(part for name, expr in aggregations.items() for part in (name, id(expr))), order, state)
    known = _recent.get(key)
    if known is None or list(known.schema.items()) != list(input_schema.items()):
        plan = _split(aggregations, input_schema, order, state)
        if len(_recent) >= _MOST_RECENT:
            _recent.clear()
        known = _recent[key] = _Recent(tuple(aggregations.values()), input_schema, plan)
    return known.plan


def _split(
    aggregations: Mapping[str, pl.Expr], input_schema: pl.Schema, order: tuple[str, ...], state: State
) -> AggregatePlan:
    visible = pl.Schema({name: dtype for name, dtype in input_schema.items() if name not in order})
    outputs = {name: _checked(name, expr, visible) for name, expr in aggregations.items()}
    typed = pl.Schema({**visible, **{name: input_schema.get(name, pl.Int64()) for name in order}})

    partials = Partials(order, state)
    count_rows(partials)
    finals: dict[str, pl.Expr] = {}
    kinds: dict[str, str] = {}
    for name, expr in aggregations.items():
        own = Partials(order, state)
        try:
            final = _Split(visible, own).value(expr)
            _check_types(final, outputs[name], own, typed)
        except (KeepsRows, NotUnderstood, ExpressionRefused, RecursionError):
            kinds[name] = "keeps rows"
            continue
        finals[name] = final
        partials.update(own)
        holds = own.distinct or any(partial.holds_values for partial in own.columns())
        kinds[name] = "partial holding values" if holds else "partial"

    kept = {name: expr for name, expr in aggregations.items() if name not in finals}
    read = frozenset[str]().union(*(columns(expr, visible) for expr in kept.values()))
    kept_columns = tuple(name for name in visible if name in read)
    held = partials.columns()
    schema = _aggregated([partial.over_rows for partial in held], typed)
    return AggregatePlan(
        partial_exprs=[partial.over_rows for partial in held],
        merge_exprs=[partial.merged for partial in held],
        partial_folds=_folds(held, schema),
        merge_folds=_folds([replace(one, fold=one.fold and one.fold.over(one.name)) for one in held], schema),
        final_exprs=finals,
        kept=kept,
        kept_columns=kept_columns,
        output_schema=pl.Schema(outputs),
        partial_schema=schema,
        distinct=tuple(partials.distinct.values()),
        needs_order=any(partial.kind in ("first", "last") for partial in held),
        layout={
            "format": 1,
            "partials": {name: str(dtype) for name, dtype in sorted(schema.items())},
            "kept": {name: str(visible[name]) for name in sorted(kept_columns)},
            "keeps_rows": bool(kept),
            **({"distinct": sorted(partials.distinct)} if partials.distinct else {}),
        },
        kinds=kinds,
    )


def _folds(partials: Sequence[Partial], schema: pl.Schema) -> Folds | None:
    """The folds of partial results, if all have one that gives their types."""
    folds = [
        (one.name, schema[one.name], one.fold)
        for one in partials
        if one.fold is not None and one.fold.fits(schema[one.name])
    ]
    return Folds(folds) if len(folds) == len(partials) else None


def _checked(name: str, expr: pl.Expr, schema: pl.Schema) -> pl.DataType:
    """The type of an aggregation's result, after everything that can be said against it."""
    verb = f"agg({name}=...)"
    check_aggregate(expr, verb=verb)
    missing = sorted(columns(expr) - set(schema))
    if missing:
        raise ColumnNotFound(
            f"{verb}: {short(expr)} reads {missing[0]!r}, which is not a column here"
            f"{did_you_mean(missing[0], schema.names())} (columns: {', '.join(schema.names())})"
        )
    try:
        result = _aggregated([expr.alias(name)], schema)
    except pl.exceptions.PolarsError as error:
        raise ExpressionRefused(f"{verb}: {short(expr)}: {first_line(error)}") from error
    if list(result) != [name]:
        raise ExpressionRefused(f"{verb}: {short(expr)} gives {len(result)} columns: name each of its own")
    _try(expr, schema, verb)
    return result[name]


def _try(expr: pl.Expr, schema: pl.Schema, verb: str) -> None:
    """Refuses what Polars refuses for a type only when it runs, such as the truth of texts.

    Errors that values give are left for rows that really give them: these are made up.
    """
    rows = pl.DataFrame([pl.Series(name, [None, _example(dtype)], dtype) for name, dtype in schema.items()])
    try:
        rows.with_columns(pl.lit(0).alias(_KEY)).group_by(_KEY).agg(expr.alias("result"))
    except (pl.exceptions.InvalidOperationError, pl.exceptions.SchemaError) as error:
        if isinstance(error, pl.exceptions.SchemaError) or "not supported" in str(error):
            raise ExpressionRefused(f"{verb}: {short(expr)}: {first_line(error)}") from error
    except pl.exceptions.PolarsError:
        return


def _example(dtype: pl.DataType) -> Any:
    """Some value of a type; null of types that hold others."""
    if dtype.is_numeric():
        return 1
    if dtype.is_temporal():
        return pl.Series([1]).cast(dtype).item()
    return {pl.String: "a", pl.Binary: b"a", pl.Boolean: True}.get(type(dtype))


def _aggregated(exprs: Sequence[pl.Expr], schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """Names and types of aggregations over rows of a schema."""
    frame = pl.LazyFrame(schema={_KEY: pl.Int8, **schema})
    found = frame.group_by(_KEY).agg(exprs).collect_schema()
    return pl.Schema({name: dtype for name, dtype in found.items() if name != _KEY})


def _check_types(final: pl.Expr, output: pl.DataType, partials: Partials, schema: pl.Schema) -> None:
    """Raises KeepsRows unless partials, merged ones and result have the types that they must have."""
    held = partials.columns()
    try:
        first = _aggregated([partial.over_rows for partial in held], schema)
        merged = _aggregated([partial.merged for partial in held], first)
        counted = {name: pl.Int64() for name in partials.distinct}
        result = (
            pl.LazyFrame(schema={**merged, **counted})
            .select(final.alias("result"))
            .collect_schema()["result"]
        )
    except pl.exceptions.PolarsError as error:
        raise KeepsRows(first_line(error)) from error
    if merged != first or result != output:
        raise KeepsRows(f"{first} merges to {merged} and gives {result}, not {output}")


class _Split(msgspec.Struct, frozen=True):
    """Takes one aggregation apart; ``partials`` collects the columns that it needs."""

    schema: pl.Schema
    partials: Partials

    def value(self, expr: pl.Expr) -> pl.Expr:
        """The expression over merged partial results.

        Raises:
            KeepsRows: It does not split.
            NotUnderstood: It cannot be put together again over partial results.
            ExpressionRefused: Something below an aggregate is not row-wise.
        """
        node = nodes(expr)
        if node.kind in AGGREGATES:
            return split_aggregate(self._aggregate(expr, node), self.partials)
        if node.kind == "Len":
            return count_rows(self.partials)
        if node.kind in ("Alias", "RenameAlias", "KeepName"):
            # The result is named by the keyword.
            return self.value(inputs(expr, node)[0])
        if node.kind == "Literal":
            if "Series" in node.params or "List" in node.params.get("Scalar", {}):
                raise KeepsRows("a literal of several values")
            return expr
        if not node.children:
            raise KeepsRows(node.kind)
        own = inputs(expr, node)
        return rebuild(node, own, [self.value(one) for one in own])

    def _aggregate(self, expr: pl.Expr, node: Node) -> Aggregate:
        value = below = inputs(expr, node)[0]
        at = node.children[0]
        keep: list[pl.Expr] = []
        drops: list[str] = []
        while at.kind in ("DropNulls", "DropNans", "Alias"):
            drops.append(at.kind)
            value, at = inputs(value, at)[0], at.children[0]
        if at.kind == "Filter":
            # Under it nothing else may drop rows: the condition would not fit what is left.
            value, condition = inputs(value, at)
            self._check_row(condition, at.children[1])
            keep.append(condition)
            at = at.children[0]
        self._check_row(value, at)
        conditions = {"DropNulls": value.is_not_null(), "DropNans": value.is_not_nan().fill_null(True)}
        keep.extend(conditions[kind] for kind in drops if kind in conditions)
        dtype = pl.LazyFrame(schema=self.schema).select(value.alias("value")).collect_schema()["value"]
        return Aggregate(node, expr, below, value, tuple(keep), dtype)

    def _check_row(self, expr: pl.Expr, node: Node) -> None:
        if has_selector(expr) or not any(part.kind == "Column" for part in node.walk()):
            # A selector would see the order columns too; a literal is one value, however many rows there are.
            raise KeepsRows("no plain columns")
        if any(part.kind == "Hash" for part in node.walk()):
            # Another version of Polars hashes differently, and partial results outlive versions.
            raise KeepsRows("hashes")
        check_row_wise(expr, verb="agg", schema=self.schema)
