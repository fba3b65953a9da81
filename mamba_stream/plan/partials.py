"""How each aggregate splits into partial results that can be merged in any order.

For every aggregate here three expressions are known: what to compute over one batch's rows of a group, how two
or more such results make one, and how the aggregate's value is read off the merged ones. The types are those
that Polars gives the aggregate itself; ``plan/aggregates.py`` checks that they come out, and lets the rows be
kept where they do not.

What surprises:

- Float sums are kept in 64 bits, of 32-bit floats too, so that batching shows as little as possible.
- A mean of integers is the sum of them as 64-bit floats, as in Polars: an integer sum would wrap around.
- A mean of durations sums them exactly (as decimals). Polars sums them as floats and may be a tick off where
  the sum exceeds 2**53 ticks.
- The variance is merged from counts, sums and squared distances from the mean (Chan, Golub, LeVeque 1979),
  which stays stable where the sum of squares does not.
- First and last hold their row's order beside the value, so that the order of merging does not matter.
  Polars' ``min`` of a struct gives nulls instead of an error; ``min_by`` compares structs rightly.
- Quantiles hold a list of all values, n_unique of the distinct ones. Against keeping rows (16 batches of 65,536
  rows, 100 and 5,000 keys; Polars 2.1, two cores), making the lists costs what any group_by costs (0.9 and 1.8 ms
  a batch), the last merge and the quantile 3 and 12 ms against 15 and 20 ms for concatenating and grouping rows,
  n_unique of integers 2 and 19 ms against 17 and 25 ms. Exploding the frame and grouping again costs as much as
  keeping rows: the lists are joined inside of the group_by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl

from mamba_stream.plan.trees import Node, fingerprint

#: The number of rows of the group, which every partial carries.
ROWS = "_rows"

_INDEX = pl.get_index_type()
_SUMS_TO_INT64 = (pl.Int8, pl.Int16, pl.UInt8, pl.UInt16)
_INTEGERS = (*_SUMS_TO_INT64, pl.Int32, pl.Int64, pl.UInt32, pl.UInt64)
_FLOATS = (pl.Float32, pl.Float64)
_TIMES = (pl.Date, pl.Datetime, pl.Duration, pl.Time)
_PLAIN = (*_INTEGERS, *_FLOATS, *_TIMES, pl.Boolean, pl.Decimal, pl.String, pl.Binary)


class KeepsRows(Exception):
    """The aggregate does not split: the rows have to be kept for it."""


@dataclass(frozen=True, slots=True)
class Child:
    """What stands below an aggregate.

    Attributes:
        expr: The expression itself, filters included.
        value: The row-wise expression under the filters.
        keep: Conditions that a row must meet to be seen.
        dtype: The type of the values.
    """

    expr: pl.Expr
    value: pl.Expr
    keep: tuple[pl.Expr, ...]
    dtype: pl.DataType


@dataclass(frozen=True, slots=True)
class Partial:
    """One column of partial results.

    Attributes:
        name: Its name, made from what it holds, so that equal partials are one column.
        kind: What it holds, in a word.
        over_rows: The aggregate over a group's rows in one batch.
        merged: The aggregate over a group's partial results, of the same type.
        holds_values: Whether it grows with the number of rows or distinct values.
    """

    name: str
    kind: str
    over_rows: pl.Expr
    merged: pl.Expr
    holds_values: bool = False


@dataclass(slots=True)
class Partials:
    """The columns of partial results that a set of aggregations needs, each of them once."""

    order: tuple[str, ...]
    columns: dict[str, Partial] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        over_rows: pl.Expr,
        merge: Callable[[pl.Expr], pl.Expr],
        *,
        holds_values: bool = False,
        name: str | None = None,
    ) -> pl.Expr:
        """The merged column of a partial result, which is added if it is not there."""
        name = name or _private_name(kind, over_rows)
        self.columns.setdefault(
            name,
            Partial(name, kind, over_rows.alias(name), merge(pl.col(name)).alias(name), holds_values),
        )
        return pl.col(name)


def split_aggregate(node: Node, expr: pl.Expr, child: Child | None, partials: Partials) -> pl.Expr:
    """The aggregate's value, read off merged partial results.

    Args:
        node: The aggregate.
        expr: The same as an expression.
        child: What it aggregates; None for ``pl.len()``.
        partials: Where the columns that it needs are added.

    Raises:
        KeepsRows: It does not split, or not for values of this type.
    """
    if child is None:
        if node.kind != "Len":
            raise KeepsRows(node.kind)
        return count_rows(partials).cast(_INDEX)
    how = _SPLITS.get(node.kind)
    if how is None:
        raise KeepsRows(node.kind)
    return how(node, expr, child, partials)


def count_rows(partials: Partials) -> pl.Expr:
    """The number of rows in the group."""
    return partials.add("rows", pl.len().cast(pl.Int64), pl.Expr.sum, name=ROWS)


def _private_name(kind: str, over_rows: pl.Expr) -> str:
    digest = hashlib.blake2b(f"{kind} {fingerprint(over_rows)}".encode(), digest_size=8).hexdigest()
    return f"_{kind}_{digest}"


def _require(child: Child, *dtypes: type[pl.DataType]) -> None:
    if not isinstance(child.dtype, dtypes):
        raise KeepsRows(str(child.dtype))


def _count(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    if node.params["include_nulls"] and not child.keep:
        return count_rows(partials).cast(_INDEX)
    return partials.add("count", expr.cast(pl.Int64), pl.Expr.sum).cast(_INDEX)


def _null_count(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    return partials.add("nulls", expr.cast(pl.Int64), pl.Expr.sum).cast(_INDEX)


def _values_counted(child: Child, partials: Partials) -> pl.Expr:
    return partials.add("count", child.expr.count().cast(pl.Int64), pl.Expr.sum)


def _float_sum(child: Child, partials: Partials) -> pl.Expr:
    """The sum in 64-bit floats, of which means and variances are made."""
    if isinstance(child.dtype, (pl.Boolean, *_SUMS_TO_INT64)):
        # Exact as an integer, and shared with a sum that the user asks for.
        return _exact_sum(child.expr.sum(), child, partials).cast(pl.Float64)
    values = child.expr if isinstance(child.dtype, pl.Float64) else child.expr.cast(pl.Float64)
    return partials.add("sum", values.sum(), pl.Expr.sum)


def _exact_sum(expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    if isinstance(child.dtype, pl.Boolean):
        return partials.add("sum", expr.cast(pl.Int64), pl.Expr.sum)
    return partials.add("sum", expr, pl.Expr.sum)


def _sum(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_INTEGERS, *_FLOATS, pl.Boolean, pl.Decimal, pl.Duration)
    if isinstance(child.dtype, _FLOATS):
        return _float_sum(child, partials).cast(child.dtype)
    total = _exact_sum(expr, child, partials)
    return total.cast(_INDEX) if isinstance(child.dtype, pl.Boolean) else total


def _mean(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_INTEGERS, *_FLOATS, pl.Boolean, pl.Decimal, pl.Duration)
    count = _values_counted(child, partials)
    if isinstance(child.dtype, pl.Duration):
        ticks = child.expr.cast(pl.Int64).cast(pl.Decimal(38, 0))
        total = partials.add("sum", ticks.sum(), pl.Expr.sum).cast(pl.Float64)
    else:
        total = _float_sum(child, partials)
    mean = pl.when(count > 0).then(total / count)
    if isinstance(child.dtype, pl.Duration):
        return mean.cast(pl.Int64).cast(child.dtype)
    return mean.cast(pl.Float32) if isinstance(child.dtype, pl.Float32) else mean


def _variance(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_INTEGERS, *_FLOATS, pl.Decimal)
    count, total = _values_counted(child, partials), _float_sum(child, partials)
    values = child.expr if isinstance(child.dtype, pl.Float64) else child.expr.cast(pl.Float64)
    # An infinite or NaN sum makes the distances NaN, as in Polars, also where a batch has but one value.
    squares = (values.var(ddof=0) * values.count()).fill_null(0.0) + values.sum() * 0.0

    def merge(column: pl.Expr) -> pl.Expr:
        mean = (total / count).fill_nan(0.0)
        overall = total.sum() / count.sum()
        between = (count * (mean - overall) ** 2).filter(count > 0)
        return column.sum() + between.sum()

    distances = partials.add("squares", squares, merge)
    ddof: int = node.params[0]
    variance = pl.when(count > ddof).then(distances / (count - ddof))
    result = variance.sqrt() if node.kind == "Agg.Std" else variance
    return result.cast(pl.Float32) if isinstance(child.dtype, pl.Float32) else result


def _least(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_PLAIN)
    name = "min" if node.kind == "Agg.Min" else "max"
    method = f"nan_{name}" if node.params["propagate_nans"] else name
    return partials.add(name, expr, lambda column: getattr(column, method)())


def _truth(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, pl.Boolean)
    ignore: bool = node.params["ignore_nulls"]
    name = "any" if node.kind == "Boolean.Any" else "all"
    return partials.add(name, expr, lambda column: getattr(column, name)(ignore_nulls=ignore))


def _has_nulls(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    return partials.add("any", expr, pl.Expr.any)


def _product(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    # Of floats, what overflows on the way depends on the order of factors.
    _require(child, *_INTEGERS)
    return partials.add("product", expr, pl.Expr.product)


def _bits(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_INTEGERS, pl.Boolean)
    name = "bitwise_" + node.kind.rpartition(".")[2].lower()
    return partials.add(name, expr, lambda column: getattr(column, name)())


def _end(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    """First and last: the value with the least or greatest order, held together with that order."""
    _require(child, *_PLAIN)
    keep = list(child.keep)
    if node.kind.endswith("NonNull"):
        keep.append(child.value.is_not_null())
    row = pl.struct(child.value.alias("value"), pl.struct(partials.order).alias("order"))
    order = pl.struct(partials.order)
    if keep:
        condition = pl.all_horizontal(keep)
        row, order = row.filter(condition), order.filter(condition)
    first = node.kind.startswith("Agg.First")

    def pick(rows: pl.Expr, by: pl.Expr) -> pl.Expr:
        return rows.min_by(by) if first else rows.max_by(by)

    held = partials.add(
        "first" if first else "last",
        pick(row, order),
        lambda column: pick(column, column.struct.field("order")),
    )
    return held.struct.field("value")


def _quantile(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_INTEGERS, *_FLOATS, pl.Boolean, pl.Decimal, pl.Duration, pl.Date, pl.Datetime, pl.Time)
    held = partials.add("values", child.expr.implode(), lambda column: column.explode(), holds_values=True)
    if node.kind == "Agg.Median":
        return held.list.agg(pl.element().median())
    fraction = node.children[1]
    value = fraction.params.get("Dyn", {}).get("Float") if fraction.kind == "Literal" else None
    if value is None:
        raise KeepsRows("quantile of a computed fraction")
    return held.list.agg(pl.element().quantile(value, interpolation=node.params["method"].lower()))


def _distinct(node: Node, expr: pl.Expr, child: Child, partials: Partials) -> pl.Expr:
    _require(child, *_PLAIN)
    held = partials.add(
        "distinct", child.expr.unique(), lambda column: column.explode().unique(), holds_values=True
    )
    return held.list.len().cast(_INDEX)


_SPLITS: dict[str, Callable[[Node, pl.Expr, Child, Partials], pl.Expr]] = {
    "Agg.Count": _count,
    "NullCount": _null_count,
    "Agg.Sum": _sum,
    "Agg.Mean": _mean,
    "Agg.Var": _variance,
    "Agg.Std": _variance,
    "Agg.Min": _least,
    "Agg.Max": _least,
    "Agg.First": _end,
    "Agg.FirstNonNull": _end,
    "Agg.Last": _end,
    "Agg.LastNonNull": _end,
    "Agg.Median": _quantile,
    "Quantile": _quantile,
    "Agg.NUnique": _distinct,
    "Boolean.Any": _truth,
    "Boolean.All": _truth,
    "Boolean.HasNulls": _has_nulls,
    "Product": _product,
    "Bitwise.And": _bits,
    "Bitwise.Or": _bits,
    "Bitwise.Xor": _bits,
}

#: Kinds that reduce a group to one value and split, where the types allow it.
AGGREGATES = frozenset(_SPLITS) | {"Len"}
