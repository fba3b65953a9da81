"""How many different values there are in each group: one row for each pair of group and value.

A set for each group would be written anew with every value that comes; of pairs, only those that are new are written.
Several counts of the same values under different conditions share the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import twice
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.grouping import grouped
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.members import PLACE

VALUE: Final = f"{PREFIX}value"

Groups = NDArray[np.int64]

_GROUP: Final = f"{PREFIX}group"
_SIGN: Final = f"{PREFIX}sign"
_WORTH_SWEEPING: Final = 65_536


class DistinctValues:
    """Which values each group has, under several conditions."""

    def __init__(
        self, value: pl.Expr, dtype: pl.DataType, counts: Mapping[str, pl.Expr | None], *, table: bool
    ) -> None:
        """No values.

        Args:
            value: The values, row by row.
            dtype: Their type.
            counts: By name, the condition under which a row's value counts; ``None`` is always.
            table: Whether rows are taken away again: then it is counted how many rows have each value.
        """
        self._value = value
        self._counts = dict(counts)
        self._counted = table
        kept: pl.DataType = pl.Int64() if table else pl.Boolean()
        self._pairs = KeyedTable({_GROUP: pl.Int64(), VALUE: dtype}, dict.fromkeys(counts, kept))
        self._dead = 0

    @property
    def rows(self) -> int:
        return self._pairs.rows

    @property
    def bytes(self) -> int:
        return self._pairs.bytes

    def take(self, pairs: pl.DataFrame, groups: Groups) -> dict[str, NDArray[np.int64]]:
        """Takes rows in.

        Args:
            pairs: What :meth:`reduced` made of them.
            groups: The numbers of the groups.

        Returns:
            By name, by how much the count of each group changed.
        """
        at = pairs.get_column(PLACE).to_numpy()
        keys = pairs.select(pl.Series(_GROUP, groups[at]), VALUE)
        slots = self._pairs.slots(keys, insert=True)
        before = self._pairs.get(slots)
        now, changes = {}, {}
        touched, left = np.zeros(len(slots), np.bool_), np.zeros(len(slots), np.bool_)
        for name in self._counts:
            old = before.get_column(name).fill_null(0 if self._counted else False).to_numpy()
            new = pairs.get_column(name).to_numpy()
            new = old + new if self._counted else old | new
            touched |= new != old
            left |= new != 0
            step = (new > 0).astype(np.int8) - (old > 0).astype(np.int8)
            changes[name] = np.bincount(at, weights=step, minlength=len(groups)).astype(np.int64)
            now[name] = new
        write = touched & left
        self._pairs.put(slots[write], pl.DataFrame(now).filter(write))
        self._pairs.remove(slots[~left])
        return changes

    def forget(self, groups: Groups, values: int) -> None:
        """Groups are gone for good; their pairs go when there are enough of them.

        Args:
            groups: The groups that are left.
            values: How many values those had that are gone.
        """
        self._dead += values
        if 2 * self._dead <= self._pairs.rows + _WORTH_SWEEPING:
            return
        self._dead = 0
        pairs = self._pairs.frame().get_column(_GROUP)
        gone = self._pairs.frame().filter(~pairs.is_in(pl.Series(groups))).select(_GROUP, VALUE)
        self._pairs.remove(self._pairs.slots(gone))

    def reduced(self, frame: pl.DataFrame, places: pl.Series, signs: pl.Series | None) -> pl.DataFrame:
        """One row for each group and value of a batch; nothing is taken in yet, since the values may raise.

        Args:
            frame: The rows.
            places: Which of the groups each row belongs to.
            signs: 1 for rows that come, -1 for those that go; ``None`` where all come.
        """
        conditions = [
            (pl.lit(value=True) if condition is None else condition.fill_null(value=False)).alias(name)
            for name, condition in self._counts.items()
        ]
        shown = (twice(frame) if frame.height == 1 else frame).select(self._value.alias(VALUE), *conditions)
        added = [places.alias(PLACE), *([] if signs is None else [signs.cast(pl.Int64).alias(_SIGN)])]
        rows = shown.head(frame.height).with_columns(added)
        if all(condition is not None for condition in self._counts.values()):
            rows = rows.filter(pl.any_horizontal(*self._counts))
        if signs is None:
            return grouped(rows, [PLACE, VALUE], [pl.col(name).any() for name in self._counts])
        sums = [(pl.col(name).cast(pl.Int64) * pl.col(_SIGN)).sum().alias(name) for name in self._counts]
        return grouped(rows, [PLACE, VALUE], sums)

    def delta(self) -> dict[str, pl.DataFrame]:
        return self._pairs.delta()

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return self._pairs.snapshot()

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        self._pairs.restore(part, frame)
