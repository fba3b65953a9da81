"""Aggregates whose groups are numbers from 0 on: every row is added to the cell of its group, and nothing is looked up.

Where keys are whole numbers that lie close together, a row's group is a place in an array. To add to it takes about a
nanosecond; Polars finds the group in a hash table first, which takes ten times as long. It is for counts, sums, least
and greatest values; what they give is what Polars gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.columns import PREFIX

Cells = npt.NDArray[np.int64]
"""For each row the cell of its group."""

_SUMMED: Final = (pl.Int32, pl.Int64, pl.UInt32, pl.UInt64, pl.Float64, pl.Duration)
_COMPARED: Final = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.Date, pl.Datetime, pl.Duration, pl.Time),
)


@dataclass(frozen=True, slots=True)
class Fold:
    """One aggregate.

    Attributes:
        how: What it makes of the values of a group; it sees no nulls.
        value: The values, row by row; ``None`` counts rows.
        keep: Conditions that a row must meet to be seen.
        nans: Whether NaN is the least and the greatest of all values, and not only where there is no other.
    """

    how: Literal["count", "sum", "least", "greatest"]
    value: pl.Expr | None = None
    keep: tuple[pl.Expr, ...] = ()
    nans: bool = False

    def fits(self, dtype: pl.DataType) -> bool:
        """Whether it can give results of this type."""
        if self.how == "count":
            return dtype == pl.Int64
        return isinstance(dtype, _SUMMED if self.how == "sum" else _COMPARED)

    def over(self, name: str) -> Fold:
        """The aggregate that makes one of several results, which are in the column of this name."""
        return replace(self, how="sum" if self.how == "count" else self.how, value=pl.col(name), keep=())


class Folds:
    """The aggregates of one frame."""

    def __init__(self, folds: Sequence[tuple[str, pl.DataType, Fold]]) -> None:
        """Several aggregates.

        Args:
            folds: Each with the name of the column that it gives, and its type.
        """
        self.folds = folds
        self._computed: list[pl.Expr] = []
        self._read = [
            (self._column(fold.value), self._column(pl.all_horizontal(fold.keep) if fold.keep else None))
            for _, _, fold in folds
        ]

    def _column(self, expr: pl.Expr | None) -> str:
        """The name of the column that an expression is; those that are none yet are computed first."""
        if expr is None:
            return ""
        if expr.meta.is_column():
            return expr.meta.output_name()
        name = f"{PREFIX}fold_{len(self._computed)}"
        self._computed.append(expr.alias(name))
        return name

    def beside(self, name: str, dtype: pl.DataType, fold: Fold) -> Folds:
        """These and another one."""
        return Folds([*self.folds, (name, dtype, fold)])

    def over(self, frame: pl.DataFrame, cells: Cells, number: int) -> tuple[Cells, list[pl.Series]]:
        """Adds up the rows of a frame.

        Args:
            frame: The rows.
            cells: The cell of each.
            number: How many cells there are.

        Returns:
            The cells that have rows, in ascending order, and the results of each.
        """
        rows = np.bincount(cells, minlength=number)
        there = np.flatnonzero(rows)
        frame = frame.with_columns(self._computed) if self._computed else frame
        made = []
        for (name, dtype, fold), (value, keep) in zip(self.folds, self._read, strict=True):
            kept = frame.get_column(keep).fill_null(value=False) if keep else None
            values = frame.get_column(value) if value else kept
            if values is not None and values.null_count():
                some = values.is_not_null()
                kept = some if kept is None else kept & some
            if fold.how == "count" and kept is None:
                made.append(pl.Series(name, rows[there]))
                continue
            assert values is not None
            seen = _Seen(values, cells, number, all=True)
            if kept is not None:
                seen = _Seen(values.filter(kept), cells[kept.to_numpy()], number, all=False)
            made.append(seen.folded(fold, dtype, there).alias(name))
        return there, made


@dataclass(frozen=True, slots=True)
class _Seen:
    """The values that one aggregate sees.

    Attributes:
        values: Those that are not null; whatever, where it counts rows.
        cells: The cell of each.
        number: How many cells there are.
        all: Whether it sees a value of every row.
    """

    values: pl.Series
    cells: Cells
    number: int
    all: bool

    def folded(self, fold: Fold, dtype: pl.DataType, there: Cells) -> pl.Series:
        """The results of the cells that are there."""
        if fold.how == "count":
            return pl.Series(self._counts()[there])
        if fold.how == "sum":
            numbers = self.values.cast(pl.Int64() if isinstance(dtype, pl.Duration) else dtype)
            return pl.Series(self._sums(numbers.to_numpy())[there]).cast(dtype)
        values = self.values.to_physical().to_numpy()
        found = self._extremes(values, greatest=fold.how == "greatest", nans=fold.nans)
        result = pl.Series(found[there]).cast(dtype)
        if self.all:
            return result
        return result.set(pl.Series(self._counts()[there] == 0), None)

    def _counts(self) -> Cells:
        return np.bincount(self.cells, minlength=self.number)

    def _sums(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # What is too large wraps around, as in Polars.
        sums = np.zeros(self.number, values.dtype)
        with np.errstate(all="ignore"):
            np.add.at(sums, self.cells, values)
        return sums

    def _extremes(self, values: npt.NDArray[Any], *, greatest: bool, nans: bool) -> npt.NDArray[Any]:
        of_two = np.maximum if greatest else np.minimum
        if values.dtype.kind != "f":
            limits = np.iinfo(values.dtype)
            found = np.full(self.number, limits.min if greatest else limits.max, values.dtype)
            of_two.at(found, self.cells, values)
            return found
        found = np.full(self.number, -np.inf if greatest else np.inf, values.dtype)
        with np.errstate(all="ignore"):
            of_two.at(found, self.cells, values)
            if not nans and np.isnan(found).any():
                # Such values are rare, and to leave them out takes twice as long.
                found.fill(np.nan)
                (np.fmax if greatest else np.fmin).at(found, self.cells, values)
        return found
