"""A single row counts as two: Polars computes some things otherwise over one row than over many.

It divides a column by a literal through the literal's reciprocal, but a column of one row exactly:
``(pl.col("x") / 49).floor()`` of 49 is 1.0 in a frame of one row and 0.0 in any longer one. Results must not
depend on how rows were cut into frames, so whatever evaluates users' expressions gives it two rows. Where a column lies
in several chunks it computes chunk by chunk, and a filter may leave a single row in one: users' expressions see rows in
one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

SAME: Final = "__mamba_same"
"""A second key, of one value, of rows that are joined by a single column of floats."""


def twice(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a frame, twice."""
    if frame.height != 1:
        return pl.concat([frame, frame])
    # Joining one row with itself would leave columns that still count as one value.
    return pl.DataFrame([column.new_from_index(0, 2) for column in frame.get_columns()])


def written_out(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame in one chunk, with columns of one repeated value written out.

    Polars keeps as a single value, however many rows there are, what ``pl.lit(49)`` makes, what a join takes from a
    table of one row, and what comes of concatenating frames of one row; and computes with it as with a single row.
    """
    return pl.DataFrame(frame.rechunk().get_columns())


def joins_one_float(schema: Mapping[str, pl.DataType], on: Sequence[str]) -> bool:
    """Whether rows are joined by a single column of floats.

    Then NaN meets no NaN where Polars joins a frame of one row, or a column that it keeps as a single value, and meets
    it in any other; by two columns it always does. So whoever joins gives such rows ``SAME`` as a second key.
    """
    return len(on) == 1 and schema[on[0]].is_float()


def joined(
    left: pl.DataFrame, right: pl.DataFrame, *, left_on: Sequence[str], right_on: Sequence[str], **how: Any
) -> pl.DataFrame:
    """``left.join(right, ...)``, in which NaN meets NaN however few rows there are."""
    left_on, right_on = list(left_on), list(right_on)
    if not joins_one_float(left.schema, left_on):
        return left.join(right, left_on=left_on, right_on=right_on, **how)
    same = pl.lit(value=True).alias(SAME)
    found = left.with_columns(same).join(
        right.with_columns(same), left_on=[*left_on, SAME], right_on=[*right_on, SAME], **how
    )
    return found.drop(SAME)
