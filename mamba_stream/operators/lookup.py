"""Each row meets the rows of a table that stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import polars as pl

from mamba_stream.core.single import joined, written_out
from mamba_stream.operators.columns import OFFSET, ORDINAL, ORIGIN_TYPES, PARTITION, SOURCE

How = Literal["inner", "left", "semi", "anti"]


class Lookup(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A join with a table on the right; rows keep their order and their origin.

    Attributes:
        table: The right side.
        left_on: Columns of the stream.
        right_on: Columns of the table.
        how: As in Polars.
        suffix: For columns of the table that the stream has too.
        multiplies: Whether a row may meet several rows of the table.
    """

    table: pl.DataFrame
    left_on: Sequence[str]
    right_on: Sequence[str]
    how: How
    suffix: str
    multiplies: bool = False

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        found = joined(
            frame,
            self.table,
            left_on=self.left_on,
            right_on=self.right_on,
            how=self.how,
            suffix=self.suffix,
            maintain_order="left_right",
        )
        if self.multiplies and ORDINAL in frame.columns:
            place = pl.int_range(pl.len()).over(SOURCE, PARTITION, OFFSET, ORDINAL)
            width = max(self.table.height, 1)
            ordinal = pl.col(ORDINAL).cast(pl.Int64) * width + place
            found = found.with_columns(ordinal.cast(ORIGIN_TYPES[ORDINAL]).alias(ORDINAL))
        return written_out(found)
