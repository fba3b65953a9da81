"""Columns of partial results: what to compute over a batch's rows, and how two such results make one.

Equal columns are shared between aggregations: a mean and a sum of the same values need one sum. A column is
named after what it holds, so that a name never stands for something else in stored state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import msgspec
import polars as pl

from mamba_stream.core.trees import fingerprint
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.folding import Fold

#: The number of rows of the group, which every partial carries. It stands beside keys of any name of a user's.
ROWS = f"{PREFIX}rows"


State = Literal["window", "running", "table"]
"""For what partial results are made: ``window``, which is merged once and forgotten; ``running`` totals, which are read
off again and again and must not hold lists that grow; totals of a ``table``, from which rows are taken away again."""


class Distinct(msgspec.Struct, frozen=True):
    """A count of different values, which are kept apart from the partial results.

    Attributes:
        name: The column with the count among the merged partial results.
        value: The row-wise expression whose values are counted.
        keep: Conditions that a row must meet.
    """

    name: str
    value: pl.Expr
    keep: tuple[pl.Expr, ...]


class Partial(msgspec.Struct, frozen=True):
    """One column of partial results.

    Attributes:
        name: Its name, made from what it holds.
        kind: What it holds, in a word.
        over_rows: The aggregate over a group's rows in one batch.
        merged: The aggregate over a group's partial results, of the same type.
        holds_values: Whether it grows with the number of rows or distinct values.
        fold: The same as ``over_rows``, where it can be made by adding row after row to the cell of its group.
    """

    name: str
    kind: str
    over_rows: pl.Expr
    merged: pl.Expr
    holds_values: bool = False
    fold: Fold | None = None


class Ends(msgspec.Struct):
    """The values that all firsts, or all lasts, under one condition hold beside their row's order."""

    first: bool
    keep: tuple[pl.Expr, ...]
    values: dict[str, pl.Expr] = msgspec.field(default_factory=dict)

    def partial(self, name: str, order: tuple[str, ...]) -> Partial:
        """One struct for all of them, so that the row is looked for once."""
        values = [value.alias(place) for place, value in sorted(self.values.items())]
        row, by = pl.struct(*values, pl.struct(order).alias("order")), pl.struct(order)
        if self.keep:
            condition = pl.all_horizontal(self.keep)
            row, by = row.filter(condition), by.filter(condition)
        held = pl.col(name)
        return Partial(
            name,
            "first" if self.first else "last",
            self._pick(row, by).alias(name),
            self._pick(held, held.struct.field("order")).alias(name),
        )

    def _pick(self, rows: pl.Expr, by: pl.Expr) -> pl.Expr:
        return rows.min_by(by) if self.first else rows.max_by(by)


class Partials(msgspec.Struct):
    """The columns of partial results that a set of aggregations needs, each of them once."""

    order: tuple[str, ...]
    state: State = "window"
    distinct: dict[str, Distinct] = msgspec.field(default_factory=dict)
    _columns: dict[str, Partial] = msgspec.field(default_factory=dict)
    _ends: dict[str, Ends] = msgspec.field(default_factory=dict)

    def add(
        self,
        kind: str,
        over_rows: pl.Expr,
        merge: Callable[[pl.Expr], pl.Expr],
        *,
        holds_values: bool = False,
        name: str | None = None,
        fold: Fold | None = None,
    ) -> pl.Expr:
        """The merged column of a partial result, which is added if it is not there."""
        name = name or private_name(kind, over_rows)
        merged = merge(pl.col(name)).alias(name)
        partial = Partial(name, kind, over_rows.alias(name), merged, holds_values, fold)
        self._columns.setdefault(name, partial)
        return pl.col(name)

    def add_end(self, value: pl.Expr, *, first: bool, keep: tuple[pl.Expr, ...]) -> pl.Expr:
        """The merged value of the first or last row that meets all conditions."""
        name = private_name("first" if first else "last", pl.struct(pl.lit(0), *keep))
        place = private_name("value", value)
        self._ends.setdefault(name, Ends(first, keep)).values[place] = value
        return pl.col(name).struct.field(place)

    def add_distinct(self, value: pl.Expr, keep: tuple[pl.Expr, ...]) -> pl.Expr:
        """The number of different values among the rows that meet all conditions."""
        name = private_name("distinct", pl.struct(value, *keep))
        self.distinct.setdefault(name, Distinct(name, value, keep))
        return pl.col(name)

    def update(self, other: Partials) -> None:
        """Adds what another set of aggregations needs."""
        self.distinct.update(other.distinct)
        self._columns.update(other._columns)
        for name, ends in other._ends.items():
            self._ends.setdefault(name, Ends(ends.first, ends.keep)).values.update(ends.values)

    def columns(self) -> list[Partial]:
        """All columns, in the order in which they were asked for."""
        ends = [ends.partial(name, self.order) for name, ends in self._ends.items()]
        return [*self._columns.values(), *ends]


def private_name(kind: str, held: pl.Expr) -> str:
    """A name for a column that holds this."""
    digest = hashlib.blake2b(f"{kind} {fingerprint(held)}".encode(), digest_size=8).hexdigest()
    return f"{PREFIX}{kind}_{digest}"
