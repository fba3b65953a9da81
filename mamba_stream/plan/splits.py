"""How each aggregate splits into partial results that can be merged in any order.

For every aggregate here it is known what to compute over one batch's rows of a group, how two or more such
results make one, and how the aggregate's value is read off the merged ones. The types are those that Polars
gives the aggregate itself; ``plan/aggregates.py`` checks that they come out, and keeps the rows where they do
not.

What surprises:

- Float sums are kept in 64 bits, of 32-bit floats too, so that batching shows as little as possible.
- A mean of integers is the sum of them as 64-bit floats, as in Polars: an integer sum would wrap around.
- A mean of durations sums them exactly (as decimals). Polars sums them as floats, and may be a tick off where
  the sum exceeds 2**53 ticks. Dates and times of day keep rows: their sums always exceed it.
- The variance is merged from counts, sums and variances (Chan, Golub, LeVeque 1979), which stays stable where
  the sum of squares does not.
- First and last hold their row's order beside the value, so that the order of merging does not matter.
  Polars' ``min`` of a struct gives nulls instead of an error; ``min_by`` compares structs rightly. It costs
  twice what ``first`` costs over rows that are sorted already, and less than sorting them.
- From a table, whose rows are taken away again, counts and sums subtract; means are made of exact sums where values are
  whole, and of float sums that leave out NaN and infinities, which are counted beside them: once added to a sum, they
  could not be taken away. All else keeps the rows, the variance too: of what is left of a sum of squares after an
  outlier was taken away, no digit may be right.
- Quantiles hold a list of all values, n_unique of the distinct ones. Against keeping rows (16 batches of
  65,536 rows, 100 and 5,000 keys; Polars 2.1, two cores), making the lists costs what any group_by costs (0.9
  and 1.8 ms a batch), the last merge and the quantile 3 and 12 ms against 15 and 20 ms for concatenating and
  grouping rows, n_unique of integers 2 and 19 ms against 17 and 25 ms. Exploding the frame and grouping again
  costs as much as keeping rows: the lists are joined inside of the group_by.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import polars as pl

from mamba_stream.core.trees import Node
from mamba_stream.operators.folding import Fold
from mamba_stream.plan.partials import ROWS, Partials

_COUNT = pl.get_index_type()
_HALF = 1 << 32
_SUMMED_AS_INT64 = (pl.Int8, pl.Int16, pl.UInt8, pl.UInt16)
_INTEGERS = (*_SUMMED_AS_INT64, pl.Int32, pl.Int64, pl.UInt32, pl.UInt64)
_FLOATS = (pl.Float32, pl.Float64)
_TIMES = (pl.Date, pl.Datetime, pl.Duration, pl.Time)
_PLAIN = (*_INTEGERS, *_FLOATS, *_TIMES, pl.Boolean, pl.Decimal, pl.String, pl.Binary)


class KeepsRows(Exception):
    """The aggregate does not split: the rows have to be kept for it."""


class Aggregate(msgspec.Struct, frozen=True):
    """An aggregate over row-wise values.

    Attributes:
        node: The aggregate's node.
        expr: The same as an expression.
        below: What it aggregates, filters included.
        value: The row-wise expression under the filters.
        keep: Conditions that a row must meet to be seen.
        dtype: The type of the values.
    """

    node: Node
    expr: pl.Expr
    below: pl.Expr
    value: pl.Expr
    keep: tuple[pl.Expr, ...]
    dtype: pl.DataType

    def require(self, *dtypes: type[pl.DataType]) -> None:
        """Raises KeepsRows unless the values are of one of these types."""
        if not isinstance(self.dtype, dtypes):
            raise KeepsRows(f"{self.node.kind} of {self.dtype}")


def split_aggregate(one: Aggregate, partials: Partials) -> pl.Expr:
    """The aggregate's value, read off merged partial results.

    Args:
        one: An aggregate whose kind is among ``AGGREGATES``.
        partials: Where the columns that it needs are added.

    Raises:
        KeepsRows: It does not split for values of this type.
    """
    return _SPLITS[one.node.kind](one, partials)


def count_rows(partials: Partials) -> pl.Expr:
    """The number of rows in the group, with the type of ``pl.len()``."""
    rows = partials.add("rows", pl.len().cast(pl.Int64), pl.Expr.sum, name=ROWS, fold=Fold("count"))
    return rows.cast(_COUNT)


def _count(one: Aggregate, partials: Partials) -> pl.Expr:
    if one.node.params["include_nulls"] and not one.keep:
        return count_rows(partials)
    fold = Fold("count", None if one.node.params["include_nulls"] else one.value, one.keep)
    return partials.add("count", one.expr.cast(pl.Int64), pl.Expr.sum, fold=fold).cast(_COUNT)


def _null_count(one: Aggregate, partials: Partials) -> pl.Expr:
    return partials.add("nulls", one.expr.cast(pl.Int64), pl.Expr.sum).cast(_COUNT)


def _values_counted(one: Aggregate, partials: Partials) -> pl.Expr:
    fold = Fold("count", one.value, one.keep)
    return partials.add("count", one.below.count().cast(pl.Int64), pl.Expr.sum, fold=fold)


def _exact_sum(one: Aggregate, partials: Partials) -> pl.Expr:
    total = one.below.sum()
    total = total.cast(pl.Int64) if one.dtype == pl.Boolean else total
    return partials.add("sum", total, pl.Expr.sum, fold=Fold("sum", one.value, one.keep))


def _float_sum(one: Aggregate, partials: Partials) -> pl.Expr:
    """The sum in 64-bit floats, of which means and variances are made."""
    if partials.state == "table":
        return _subtractable_sum(one, partials)
    if isinstance(one.dtype, (pl.Boolean, *_SUMMED_AS_INT64)):
        # Exact as an integer, and shared with a sum that the user asks for.
        return _exact_sum(one, partials).cast(pl.Float64)
    values = one.below if one.dtype == pl.Float64 else one.below.cast(pl.Float64)
    return partials.add("sum", values.sum(), pl.Expr.sum, fold=Fold("sum", one.value, one.keep))


def _subtractable_sum(one: Aggregate, partials: Partials) -> pl.Expr:
    """The same of a table, whose rows are taken away again."""
    if isinstance(one.dtype, _FLOATS):
        values = one.below.cast(pl.Float64)
        finite = partials.add("finite", values.filter(values.is_finite()).sum(), pl.Expr.sum)
        nan, up, down = (
            partials.add(kind, condition.sum().cast(pl.Int64), pl.Expr.sum) > 0
            for kind, condition in (
                ("nans", values.is_nan()),
                ("infinities", values == float("inf")),
                ("depths", values == float("-inf")),
            )
        )
        return (
            pl.when(nan | (up & down))
            .then(float("nan"))
            .when(up)
            .then(float("inf"))
            .when(down)
            .then(float("-inf"))
            .otherwise(finite)
        )
    if isinstance(one.dtype, (pl.Int64, pl.UInt64)):
        high, low = (
            partials.add(kind, half.cast(pl.Int64).sum(), pl.Expr.sum)
            for kind, half in (("high", one.below // _HALF), ("low", one.below % _HALF))
        )
        return high.cast(pl.Float64) * float(_HALF) + low.cast(pl.Float64)
    if isinstance(one.dtype, (pl.Int32, pl.UInt32)):
        return partials.add("sum", one.below.cast(pl.Int64).sum(), pl.Expr.sum).cast(pl.Float64)
    return _exact_sum(one, partials).cast(pl.Float64)


def _sum(one: Aggregate, partials: Partials) -> pl.Expr:
    one.require(*_INTEGERS, *_FLOATS, pl.Boolean, pl.Decimal, pl.Duration)
    if isinstance(one.dtype, _FLOATS):
        return _float_sum(one, partials).cast(one.dtype)
    total = _exact_sum(one, partials)
    return total.cast(_COUNT) if one.dtype == pl.Boolean else total


def _mean(one: Aggregate, partials: Partials) -> pl.Expr:
    one.require(*_INTEGERS, *_FLOATS, pl.Boolean, pl.Decimal, pl.Duration)
    count = _values_counted(one, partials)
    if isinstance(one.dtype, pl.Duration):
        ticks = one.below.cast(pl.Int64).cast(pl.Decimal(38, 0))
        total = partials.add("sum", ticks.sum(), pl.Expr.sum).cast(pl.Float64)
        return pl.when(count > 0).then(total / count).cast(pl.Int64).cast(one.dtype)
    mean = pl.when(count > 0).then(_float_sum(one, partials) / count)
    return mean.cast(pl.Float32) if one.dtype == pl.Float32 else mean


def _variance(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    one.require(*_INTEGERS, *_FLOATS, pl.Decimal)
    count, total = _values_counted(one, partials), _float_sum(one, partials)
    values = one.below.cast(pl.Float64) if one.dtype == pl.Float32 else one.below

    def merge(column: pl.Expr) -> pl.Expr:
        overall = total.sum() / count.sum()
        squares = (column + (total / count - overall) ** 2) * count
        return squares.filter(count > 0).sum() / count.sum()

    spread = partials.add("variance", values.var(ddof=0), merge)
    ddof: int = one.node.params[0]
    variance = pl.when(count > ddof).then(spread * count / (count - ddof))
    result = variance.sqrt() if one.node.kind == "Agg.Std" else variance
    return result.cast(pl.Float32) if one.dtype == pl.Float32 else result


def _least(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    one.require(*_PLAIN)
    name = "min" if one.node.kind == "Agg.Min" else "max"
    method = f"nan_{name}" if one.node.params["propagate_nans"] else name
    nans = bool(one.node.params["propagate_nans"])
    fold = Fold("least" if name == "min" else "greatest", one.value, one.keep, nans)
    return partials.add(name, one.expr, lambda column: getattr(column, method)(), fold=fold)


def _truth(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    one.require(pl.Boolean)
    ignore: bool = one.node.params["ignore_nulls"]
    name = "any" if one.node.kind == "Boolean.Any" else "all"
    return partials.add(name, one.expr, lambda column: getattr(column, name)(ignore_nulls=ignore))


def _has_nulls(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    return partials.add("any", one.expr, pl.Expr.any)


def _product(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    # Of floats, what overflows on the way depends on the order of factors.
    one.require(*_INTEGERS)
    return partials.add("product", one.expr, pl.Expr.product)


def _bits(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    one.require(*_INTEGERS, pl.Boolean)
    name = "bitwise_" + one.node.kind.rpartition(".")[2].lower()
    return partials.add(name, one.expr, lambda column: getattr(column, name)())


def _end(one: Aggregate, partials: Partials) -> pl.Expr:
    _only_added(partials)
    one.require(*_PLAIN)
    keep = (*one.keep, one.value.is_not_null()) if one.node.kind.endswith("NonNull") else one.keep
    return partials.add_end(one.value, first=one.node.kind.startswith("Agg.First"), keep=keep)


def _quantile(one: Aggregate, partials: Partials) -> pl.Expr:
    if partials.state != "window":
        raise KeepsRows("lists that grow would be written anew with every change")
    one.require(*_INTEGERS, *_FLOATS, *_TIMES, pl.Boolean, pl.Decimal)
    held = partials.add("values", one.below.implode(), lambda column: column.explode(), holds_values=True)
    if one.node.kind == "Agg.Median":
        return held.list.agg(pl.element().median())
    given = one.node.children[1]
    plain = given.params.get("Dyn") if given.kind == "Literal" else None
    fraction = next(iter(plain.values()), None) if isinstance(plain, dict) else None
    if fraction is None:
        raise KeepsRows("quantile of a computed fraction")
    return held.list.agg(pl.element().quantile(fraction, interpolation=one.node.params["method"].lower()))


def _distinct(one: Aggregate, partials: Partials) -> pl.Expr:
    one.require(*_PLAIN)
    if partials.state != "window":
        return partials.add_distinct(one.value, one.keep).cast(_COUNT)
    held = partials.add(
        "distinct", one.below.unique(), lambda column: column.explode().unique(), holds_values=True
    )
    return held.list.len().cast(_COUNT)


def _only_added(partials: Partials) -> None:
    """Raises KeepsRows where rows are taken away again: the partial result does not say what was before them."""
    if partials.state == "table":
        raise KeepsRows("rows are taken away again")


_SPLITS: dict[str, Callable[[Aggregate, Partials], pl.Expr]] = {
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

#: Kinds that reduce a group's values to one and split, where the type of the values allows it.
AGGREGATES = frozenset(_SPLITS)
