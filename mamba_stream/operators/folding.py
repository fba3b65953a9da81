"""Aggregates whose groups are numbers from 0 on: every row is added to the cell of its group, and nothing is looked up.

Where keys are whole numbers that lie close together, a row's group is a place in an array. To add to it takes about a
nanosecond; Polars finds the group in a hash table first, which takes ten times as long. It is for counts, sums, least
and greatest values; what they give is what Polars gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec.structs import replace

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import PREFIX

Cells = npt.NDArray[np.int64]
"""For each row the cell of its group."""

_SUMMED: Final = (pl.Int32, pl.Int64, pl.UInt32, pl.UInt64, pl.Float64, pl.Duration)
_COMPARED: Final = (
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
    *(pl.Float32, pl.Float64, pl.Date, pl.Datetime, pl.Duration, pl.Time),
)


class Fold(msgspec.Struct, frozen=True):
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
        self._columns = [
            _Read(
                name,
                dtype,
                fold,
                self._column(fold.value),
                self._column(pl.all_horizontal(fold.keep) if fold.keep else None),
            )
            for name, dtype, fold in folds
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

    def adding(self, number: int) -> Adding:
        """So many empty cells, to add rows to."""
        return Adding(self._columns, self._computed, number)


class Adding:
    """Cells that rows are being added to, a frame at a time."""

    def __init__(self, columns: Sequence[_Read], computed: Sequence[pl.Expr], number: int) -> None:
        self._computed = computed
        self._number = number
        self._rows = np.zeros(number, np.int64)
        self._columns = [_Column(read, number) for read in columns]

    def add(self, frame: pl.DataFrame, cells: Cells) -> None:
        """Adds the rows of a frame.

        Args:
            frame: The rows.
            cells: The cell of each.
        """
        if self._computed:
            frame = written_out(frame).with_columns(self._computed)
        self._rows += np.bincount(cells, minlength=self._number)
        for column in self._columns:
            column.add(frame, cells)

    def results(self) -> tuple[Cells, list[pl.Series]]:
        """The cells that have rows, in ascending order, and the results of each."""
        there = np.flatnonzero(self._rows)
        rows = self._rows[there]
        return there, [column.result(there, rows) for column in self._columns]


class _Read(msgspec.Struct, frozen=True):
    """A fold, and the columns that it reads.

    Attributes:
        name: Of the column that it gives.
        dtype: The type of that.
        fold: The aggregate.
        value: The column with its values; empty where it counts rows.
        keep: The column that says which rows it sees; empty where it sees all.
    """

    name: str
    dtype: pl.DataType
    fold: Fold
    value: str
    keep: str


class _Column:
    """What one fold has added up.

    Of a group's rows, those that it does not see are counted apart, and so are those with NaN where that is no value to
    compare with: what a group lacks is known in the end, and most groups lack nothing.
    """

    def __init__(self, read: _Read, number: int) -> None:
        self._read = read
        self._number = number
        self._unseen: Cells | None = None
        self._nans: Cells | None = None
        self._made: npt.NDArray[Any] | None = None

    def add(self, frame: pl.DataFrame, cells: Cells) -> None:
        read, how = self._read, self._read.fold.how
        kept = frame.get_column(read.keep).fill_null(value=False) if read.keep else None
        values = frame.get_column(read.value) if read.value else None
        if values is not None and values.null_count():
            some = values.is_not_null()
            kept = some if kept is None else kept & some
        if kept is not None:
            mask = kept.to_numpy()
            self._unseen = self._counted(self._unseen, cells[~mask])
            cells = cells[mask]
            values = None if values is None else values.filter(kept)
        if values is None or how == "count":
            return
        if how == "sum":
            dtype = pl.Int64() if isinstance(read.dtype, pl.Duration) else read.dtype
            self._add(values.cast(dtype).to_numpy(), cells)
        else:
            self._compare(values.to_physical().to_numpy(), cells)

    def _counted(self, before: Cells | None, cells: Cells) -> Cells:
        found = np.bincount(cells, minlength=self._number)
        return found if before is None else before + found

    def _add(self, values: npt.NDArray[Any], cells: Cells) -> None:
        if self._made is None:
            self._made = np.zeros(self._number, values.dtype)
        # What is too large wraps around, as in Polars.
        with np.errstate(all="ignore"):
            np.add.at(self._made, cells, values)

    def _compare(self, values: npt.NDArray[Any], cells: Cells) -> None:
        greatest = self._read.fold.how == "greatest"
        if values.dtype.kind == "f" and not self._read.fold.nans and len(values) and np.isnan(values.max()):
            numbers = ~np.isnan(values)
            self._nans = self._counted(self._nans, cells[~numbers])
            values, cells = values[numbers], cells[numbers]
        if self._made is None:
            self._made = np.full(self._number, _farthest(values.dtype, least=greatest), values.dtype)
        with np.errstate(all="ignore"):
            (np.maximum if greatest else np.minimum).at(self._made, cells, values)

    def result(self, there: Cells, rows: Cells) -> pl.Series:
        """The results of the cells that are there, which have so many rows."""
        read = self._read
        seen = rows if self._unseen is None else rows - self._unseen[there]
        if read.fold.how == "count":
            return pl.Series(read.name, seen)
        assert self._made is not None
        made = self._made[there]
        if self._nans is not None:
            made[self._nans[there] == seen] = np.nan
        result = pl.Series(read.name, made)
        if self._unseen is not None and read.fold.how != "sum":
            # Before the cast: what stands in a cell without values is no time of day.
            result = result.set(pl.Series(seen == 0), None)
        return result.cast(read.dtype)


def _farthest(dtype: np.dtype[Any], *, least: bool) -> Any:
    """The least or the greatest value of a type."""
    if dtype.kind == "f":
        return -np.inf if least else np.inf
    limits = np.iinfo(dtype)
    return limits.min if least else limits.max
