"""The hidden columns that travel with the rows of a stream, and only where a later step needs them.

``TIME`` is the row's time in ticks, made where rows have to be ordered. ``SOURCE``, ``PARTITION`` and ``OFFSET``
are where a row came from: behind its time, they give the one order of the stream. ``ORDINAL`` tells apart the rows
that a lookup made of one, or that came by several ways to where these unite. ``BEHIND`` is the watermark before the
row, in ticks of the time column; it is null where the row did not lie behind it, and the whole column is absent from
a frame in which no row did. ``OP`` says what a row of a changelog does to the table that it folds to; every frame of a
changelog has it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

PREFIX: Final = "__mamba_"
TIME: Final = "__mamba_time"
SOURCE: Final = "__mamba_source"
PARTITION: Final = "__mamba_partition"
OFFSET: Final = "__mamba_offset"
ORDINAL: Final = "__mamba_ordinal"
BEHIND: Final = "__mamba_behind"
OP: Final = "__mamba_op"

INSERT: Final = 0
UPDATE_BEFORE: Final = 1
UPDATE_AFTER: Final = 2
DELETE: Final = 3
"""What a row of a changelog does, as in the column ``OP`` of type ``OP_TYPE``; odd ones take a row back."""

OP_WORDS: Final = ("+I", "-U", "+U", "-D")
"""The same in words, as users and topics see it."""

OP_TYPE: Final = pl.Int8()

ORIGIN: Final = (SOURCE, PARTITION, OFFSET, ORDINAL)
"""What orders rows of one time."""

ORDER: Final = (TIME, *ORIGIN)
"""What orders the rows of a stream: no two rows are equal in all."""

ORIGIN_TYPES: Final = {SOURCE: pl.Int16(), PARTITION: pl.Int32(), OFFSET: pl.Int64(), ORDINAL: pl.Int64()}
ORDER_TYPES: Final = {TIME: pl.Int64(), **ORIGIN_TYPES}


def hidden(frame: pl.DataFrame) -> list[str]:
    """The hidden columns that a frame has."""
    return [name for name in frame.columns if name.startswith(PREFIX)]


def visible(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as the user sees it."""
    shown = [column for column in frame.get_columns() if not column.name.startswith(PREFIX)]
    if not shown:
        return frame.drop(hidden(frame))
    # Not by a query, which would cost ten times as much.
    return frame if len(shown) == frame.width else pl.DataFrame(shown)


def ticks(column: str, shift: int = 0) -> pl.Expr:
    """A time column as int64, moved by ``shift`` ticks."""
    physical = pl.col(column).to_physical().cast(pl.Int64)
    return physical + shift if shift else physical


def tick_values(frame: pl.DataFrame, column: str) -> pl.Series:
    """The ticks of a frame's time column, in a tenth of the time of a query: where batches are small, it counts."""
    return frame.get_column(column).cast(pl.Int64)


def comes_later(ours: pl.DataFrame, theirs: pl.DataFrame, prefix: str = "") -> NDArray[np.bool_]:
    """Which rows come behind others in the order of the stream, row by row.

    Args:
        ours: Rows with the columns of ``ORDER``.
        theirs: As many others.
        prefix: What stands before the names of these columns in ``theirs``.
    """
    later, equal = np.zeros(ours.height, np.bool_), np.ones(ours.height, np.bool_)
    for name in ORDER:
        one, other = ours.get_column(name).to_numpy(), theirs.get_column(f"{prefix}{name}").to_numpy()
        later |= equal & (one > other)
        equal &= one == other
    return later
