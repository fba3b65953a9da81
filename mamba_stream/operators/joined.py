"""What rows of two sides give together: which columns, and nulls where one side has no row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl

from mamba_stream.operators.columns import (
    OFFSET,
    ORDINAL,
    ORIGIN,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    TIME,
)
from mamba_stream.operators.pairing import Rows
from mamba_stream.operators.times import as_time

How = Literal["inner", "left", "right", "full", "semi", "anti"]

LEFT: Final = 0
RIGHT: Final = 1
SIDES: Final = ("left", "right")


class JoinSource(msgspec.Struct, frozen=True):
    """One side of a join by time.

    Attributes:
        on: Its key columns.
        time: Its time column.
        shift: Ticks to add to it.
        dtype: Its type.
        types: The types of all its columns.
    """

    on: Sequence[str]
    time: str
    shift: int
    dtype: pl.DataType
    types: Mapping[str, pl.DataType]


class Outcome(msgspec.Struct, frozen=True):
    """The columns of a join's result.

    Attributes:
        columns: For each the side and the name of the column that it is; ``None`` for the time of the later row.
        types: Their types.
    """

    columns: Mapping[str, tuple[int, str] | None]
    types: Mapping[str, pl.DataType]

    def of_side(self, side: int) -> list[str]:
        """The columns of one side that the result has."""
        return list(dict.fromkeys(part[1] for part in self.columns.values() if part and part[0] == side))

    def pairs(self, left: pl.DataFrame, lefts: Rows, right: pl.DataFrame, rights: Rows) -> pl.DataFrame:
        """A row for each pair.

        Args:
            left: Rows of the left side.
            lefts: Which of them.
            right: Rows of the right side.
            rights: Which of those they meet.
        """
        frames = ((left, lefts), (right, rights))
        made: dict[str, pl.Series] = {}
        for side, (frame, rows) in enumerate(frames):
            names = {new: part[1] for new, part in self.columns.items() if part and part[0] == side}
            if names:
                wanted = frame.select(pl.col(old).alias(new) for new, old in names.items())
                made.update({column.name: column for column in wanted[rows]})
        for name, part in self.columns.items():
            if part is None:
                times = [frame.get_column(TIME).to_numpy()[rows] for frame, rows in frames]
                made[name] = self._time(name, pl.Series(name, np.maximum(*times)))
        return pl.DataFrame([made[name] for name in self.columns])

    def alone(self, side: int, frame: pl.DataFrame) -> pl.DataFrame:
        """A row for each row of a side that has met none."""
        columns = []
        for name, part in self.columns.items():
            if part is None:
                columns.append(self._time(name, frame.get_column(TIME)))
            elif part[0] == side:
                columns.append(frame.get_column(part[1]).alias(name))
            else:
                columns.append(pl.Series(name, [None], self.types[name]).new_from_index(0, frame.height))
        return pl.DataFrame(columns)

    def _time(self, name: str, ticks: pl.Series) -> pl.Series:
        frame = ticks.alias(name).to_frame()
        return frame.select(as_time(pl.col(name), self.types[name])).to_series()


def origin_names(side: int) -> dict[str, str]:
    """What the origin of a side's row is called while a pair waits for its place in the order of results."""
    return {name: f"{name}_{SIDES[side]}" for name in ORIGIN}


def both_origins() -> dict[str, pl.DataType]:
    """The columns that say of which rows of both sides a row is; by these results of one time are ordered."""
    return {new: ORIGIN_TYPES[name] for side in (LEFT, RIGHT) for name, new in origin_names(side).items()}


def numbered(rows: pl.DataFrame, columns: Sequence[str], within: str, number: int | None) -> pl.DataFrame:
    """Results, in their order, with an origin of their own: their number among those of one time.

    Args:
        rows: The results.
        columns: The columns to keep.
        within: The column that says which are of one time.
        number: The step's own number; ``None`` if nobody asks for the origin.
    """
    if number is None:
        return rows.select(columns)
    values = {
        SOURCE: pl.lit(number),
        PARTITION: pl.lit(0),
        OFFSET: pl.int_range(pl.len()).over(within),
        ORDINAL: pl.lit(0),
    }
    return rows.select(*columns, *(values[name].cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN))


def both_sides(
    sides: Sequence[tuple[Mapping[str, pl.DataType], Iterable[pl.DataFrame]]], shared: Sequence[str] = ()
) -> pl.DataFrame:
    """The rows that both sides keep, in one frame that says of each on which side it is.

    Args:
        sides: The columns of each side, and frames that have these.
        shared: Columns that are the same of both.
    """
    shown = []
    taken: set[str] = set()
    for word, (schema, frames) in zip(SIDES, sides, strict=True):
        new = {name: f"{name}_right" if name in taken else name for name in schema}
        whole = pl.concat([pl.DataFrame(schema=schema), *frames]).rename(new)
        shown.append(whole.select(pl.lit(word).alias("side"), pl.all()))
        taken.update(set(schema) - set(shared))
    return pl.concat(shown, how="diagonal")
