"""A side of a join on which no two rows have one key: what that allows, and what becomes of it where it is not so.

A row of the other side is done with once it has met its one row. So it need not be kept; and where a filter behind the
join leaves the one row out, it is enough to remember its key, and that whoever has the key is done with, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import polars as pl

from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.failures import FAILURES
from mamba_stream.operators.joined import How
from mamba_stream.operators.joinside import JoinSide
from mamba_stream.operators.pairing import Keyed, Rows
from mamba_stream.operators.rows import Extended, RowSteps
from mamba_stream.operators.rowstore import Mask

_WANTED: Final = f"{PREFIX}wanted"
_MOST_SHOWN: Final = 3


class Wanted(msgspec.Struct, frozen=True):
    """What a filter behind a join asks of one side's rows alone.

    Attributes:
        predicates: Its predicates, over columns of the result.
        names: For each column that they read the name that it has on the side.
    """

    predicates: Sequence[pl.Expr]
    names: Mapping[str, str]

    def of(self, frame: pl.DataFrame) -> Mask | None:
        """Which rows of the side may come through the filter; ``None`` where all may."""
        seen = pl.DataFrame([frame.get_column(old).alias(new) for new, old in self.names.items()])
        asked = pl.all_horizontal(self.predicates).fill_null(value=False).alias(_WANTED)
        try:
            found = RowSteps([Extended([asked])])(seen).get_column(_WANTED)
        except FAILURES:
            # Whether the filter ever sees the row over which it raises depends on what this meets.
            return None
        return None if found.all() else found.to_numpy()


def leaves_once_met(side: int, how: How, unique: Sequence[bool], changes: Sequence[bool]) -> bool:
    """Whether rows of a side have met all that there will ever be for them when they have met one row.

    Args:
        side: Left or right.
        how: The join.
        unique: Of which sides all rows have different keys.
        changes: Which of the sides are changelogs.
    """
    other = 1 - side
    # Who gives rows of the other side that met none has to know for ever whether there was one here.
    gives_others = how in ("semi", "anti", "full", ("left", "right")[other])
    return unique[other] and not unique[side] and not any(changes) and not gives_others


def check_unique(batch: Keyed, runs: Sequence[Keyed], on: Sequence[str], words: str) -> None:
    """Refuses rows with a key that others of their side have.

    Args:
        batch: The keys of rows that come.
        runs: Those of the rows that are there.
        on: The key columns.
        words: How the user said that there are none.

    Raises:
        ValueError: There are such rows.
    """
    again = [_repeated(batch), *(run.meets(batch)[0] for run in runs)]
    rows = np.unique(np.concatenate(again))
    if not len(rows):
        return
    shown = batch.keys[rows[:_MOST_SHOWN]].rows()
    keys = "; ".join(
        ", ".join(f"{name} = {value!r}" for name, value in zip(on, key, strict=True)) for key in shown
    )
    more = "" if len(rows) <= _MOST_SHOWN else f" and {len(rows) - _MOST_SHOWN:,} more"
    raise ValueError(
        f"{words}, and there is another row with {keys}{more}: take the first of each key with .unique() before the "
        "join, or leave validate= out, with which all rows of both sides are kept"
    )


def _repeated(batch: Keyed) -> Rows:
    """The rows of a batch whose key an earlier one of it has."""
    if batch.exact and bool((batch.codes[1:] > batch.codes[:-1]).all()):
        return np.empty(0, np.int64)
    _, rows, of = batch.distinct()
    first = np.unique(of, return_index=True)[1]
    return np.delete(rows, first)


class LeftOut:
    """The keys of a side's rows that a filter behind the join leaves out."""

    def __init__(self, on: Sequence[str]) -> None:
        """None so far.

        Args:
            on: The side's key columns.
        """
        self._on = list(on)
        self.side = JoinSide(on)

    def add(self, frame: pl.DataFrame) -> None:
        """Takes the keys of rows; those that hold null meet nothing anyway."""
        self.side.add(frame.select(self._on).drop_nulls())

    def mark(self, batch: Keyed, met: Mask) -> None:
        """Says of the rows of a batch that have such a key that they have met what there is for them."""
        for run in self.side.runs():
            met[run.keys.meets(batch)[0]] = True
