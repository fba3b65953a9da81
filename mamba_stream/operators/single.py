"""A single row counts as two: Polars computes some things otherwise over one row than over many.

It divides a column by a literal through the literal's reciprocal, but a column of one row exactly:
``(pl.col("x") / 49).floor()`` of 49 is 1.0 in a frame of one row and 0.0 in any longer one. Results must not
depend on how rows were cut into frames, so whatever evaluates users' expressions gives it two rows.
"""

from __future__ import annotations

import polars as pl


def twice(frame: pl.DataFrame) -> pl.DataFrame:
    """The one row of a frame, twice."""
    # Joining the frame with itself would leave columns that still count as one value.
    return pl.DataFrame([column.new_from_index(0, 2) for column in frame.get_columns()])
