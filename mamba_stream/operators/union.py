"""One of several streams on its way to where they unite."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import polars as pl

from mamba_stream.operators.changes import with_op
from mamba_stream.operators.columns import ORDINAL, hidden


class Union(msgspec.Struct, frozen=True):
    """Brings the rows of one stream into the form of all.

    Attributes:
        columns: The columns that go on, in the order of the first stream.
        number: Which of the streams this is.
        streams: How many there are.
        changes: Whether one of them is a changelog, and so their union.
    """

    columns: Sequence[str]
    number: int
    streams: int
    changes: bool = False

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows; what came by two ways from one row is told apart by the way."""
        united = frame.select(*self.columns, *hidden(frame))
        if self.changes:
            united = with_op(united)
        if ORDINAL not in united.columns:
            return united
        return united.with_columns(pl.col(ORDINAL) * self.streams + self.number)
