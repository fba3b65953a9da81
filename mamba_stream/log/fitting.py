"""Rows that were written with one schema of a topic, as they are in another: a column that was not there is null.

A reader has the columns that its topic had when it was opened. Batches of an earlier schema get nulls and wider types;
those of a later one lose what the reader does not know, and a value that its narrower type does not hold is refused.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.core.alterations import widens
from mamba_stream.core.casting import cast, first_misfit, holds_arrays
from mamba_stream.core.types import type_name

_LONGEST_SHOWN: Final = 80


class Misfit(Exception):
    """A value that a column's type does not hold. The caller knows topic, partition and offset.

    Attributes:
        row: The row of the batch.
        words: The column, the value and the types.
    """

    def __init__(self, row: int, words: str) -> None:
        super().__init__(words)
        self.row = row
        self.words = words


class Fitting:
    """Turns batches with some columns of one schema into batches of another.

    Args:
        stored: The schema that the batches were written with.
        wanted: The columns that are wanted.

    Attributes:
        columns: The numbers of the stored columns that are to be read, in this order.
    """

    def __init__(self, stored: pa.Schema, wanted: pa.Schema) -> None:
        self._wanted = wanted
        found = [stored.get_field_index(name) for name in wanted.names]
        self.columns = tuple(number for number in found if number >= 0)
        # Where each wanted column lies among those that are read; -1 for nowhere.
        self._places = [self.columns.index(number) if number >= 0 else -1 for number in found]
        self._nulls: dict[int, pa.Array] = {}

    def fitted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch of :attr:`columns` with the wanted ones.

        Raises:
            Misfit: A type does not hold a value.
        """
        rows = batch.num_rows
        columns = [
            self._missing(number, rows) if place < 0 else _converted(batch.column(place), field)
            for number, (place, field) in enumerate(zip(self._places, self._wanted, strict=True))
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._wanted)

    def nulls(self, rows: int) -> pa.RecordBatch:
        """So many rows that have none of the wanted columns."""
        if not len(self._wanted):
            # A batch that is made of no columns would have no rows.
            return pa.RecordBatch.from_arrays([pa.nulls(rows)], ["rows"]).select([])
        columns = [self._missing(number, rows) for number in range(len(self._wanted))]
        return pa.RecordBatch.from_arrays(columns, schema=self._wanted)

    def _missing(self, number: int, rows: int) -> pa.Array:
        """Nulls point into one array, which is made anew when a batch has more rows."""
        dtype = self._wanted.field(number).type
        if holds_arrays(dtype):
            # Polars takes no slices of these.
            return pa.nulls(rows, dtype)
        known = self._nulls.get(number)
        if known is None or len(known) < rows:
            known = self._nulls[number] = pa.nulls(rows, dtype)
        return known[:rows]


def _converted(column: pa.Array, field: pa.Field) -> pa.Array:
    want = field.type
    if column.type == want:
        return column
    if pat.is_null(want):
        valid = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        if len(valid):
            raise _misfit(column, int(valid[0]), field)
        return pa.nulls(len(column), want)
    try:
        made = cast(column, want)
    except pa.ArrowInvalid:
        raise _misfit(column, first_misfit(column, want), field) from None
    if not widens(column.type, want):
        # Arrow rounds where a float becomes a smaller one, and a time a date, without a word.
        before = pl.Series(column)
        kept = pl.Series(made).cast(before.dtype, strict=False).eq_missing(before)
        if not kept.all():
            raise _misfit(column, int((~kept).arg_max() or 0), field)
    return made


def _misfit(column: pa.Array, row: int, field: pa.Field) -> Misfit:
    try:
        shown = str(column[row])
    except (OverflowError, ValueError):  # a time that Python cannot say
        shown = str(column[row].value)
    types = f"{type_name(column.type)} is not in {type_name(field.type)}"
    return Misfit(row, f"column {field.name!r}: {shown:.{_LONGEST_SHOWN}} of {types}")
