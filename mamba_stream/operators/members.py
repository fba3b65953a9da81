"""The rows of groups, for what can only be computed over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl

from mamba_stream.core.single import joined
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.rowstore import stacked

PLACE: Final = f"{PREFIX}place"
"""Which of the groups that were asked for a row belongs to."""

_ID: Final = f"{PREFIX}id"
_COUNT: Final = f"{PREFIX}count"


class Members:
    """Rows by the number of their group."""

    def __init__(
        self, keys: Mapping[str, pl.DataType], columns: Mapping[str, pl.DataType], order: Sequence[str]
    ) -> None:
        """No rows.

        Args:
            keys: The columns that tell groups apart.
            columns: What is kept of each row, other than these.
            order: The columns that order the rows of a group.
        """
        self._keys = list(keys)
        self._columns = list(columns)
        self._order = list(order)
        self._rows = KeyedRows(keys, columns)

    @property
    def rows(self) -> int:
        return self._rows.rows

    @property
    def bytes(self) -> int:
        return self._rows.bytes

    def add(self, groups: pl.DataFrame, frame: pl.DataFrame) -> None:
        """Adds rows, one for each of these groups."""
        self._rows.add(groups, frame.select(self._columns))

    def change(self, groups: pl.DataFrame, frame: pl.DataFrame, signs: pl.Series) -> None:
        """Adds rows, and takes away others that are equal to ones that are there.

        Args:
            groups: The group of each row.
            frame: The rows.
            signs: 1 for those that come, -1 for those that go.
        """
        signs = signs.cast(pl.Int64).alias(_COUNT)
        rows = stacked([groups, frame.select(self._columns), signs.to_frame()])
        net = rows.group_by(*self._keys, *self._columns).agg(pl.col(_COUNT).sum())
        gone = net.filter(pl.col(_COUNT) < 0)
        if gone.height:
            self._take_away(gone)
        come = net.filter(pl.col(_COUNT) > 0)
        if come.height:
            come = come[np.repeat(np.arange(come.height), come.get_column(_COUNT).to_numpy())]
            self._rows.add(come.select(self._keys), come.select(self._columns))

    def of(self, groups: pl.DataFrame) -> pl.DataFrame:
        """The rows of distinct groups, with ``PLACE``, in the order of group and row."""
        found = self._rows.matching(groups)
        frame = stacked([pl.DataFrame({PLACE: found.probe}), self._rows.get(found.ids)])
        return frame.sort(PLACE, *self._order, maintain_order=True)

    def forget(self, groups: pl.DataFrame) -> None:
        """Removes all rows of distinct groups."""
        self._rows.remove(self._rows.matching(groups).ids)

    def frame(self) -> pl.DataFrame:
        """All rows with their keys, in the order in which they came."""
        return self._rows.frame()

    def delta(self) -> dict[str, pl.DataFrame]:
        return self._rows.delta()

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return self._rows.snapshot()

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        self._rows.restore(part, frame)

    def _take_away(self, gone: pl.DataFrame) -> None:
        groups = gone.select(self._keys).unique()
        found = self._rows.matching(groups)
        there = stacked(
            [
                groups[found.probe],
                self._rows.get(found.ids),
                pl.DataFrame({_ID: found.ids}),
                pl.DataFrame({_COUNT: np.zeros(len(found.ids), np.int64)}),
            ]
        )
        sought = gone.with_columns(pl.lit(None, dtype=pl.Int64).alias(_ID)).select(there.columns)
        # Grouping, unlike joining, compares values of any type, and nulls and NaN as equal.
        met = pl.concat([there, sought]).group_by(*self._keys, *self._columns)
        ids = met.agg(pl.col(_ID).drop_nulls().head(-pl.col(_COUNT).sum())).get_column(_ID).explode()
        self._rows.remove(ids.drop_nulls().to_numpy())


def places_of(frame: pl.DataFrame, groups: pl.DataFrame) -> pl.Series:
    """Which of distinct groups each row of a frame belongs to."""
    if groups.height == 1:
        return pl.Series(np.zeros(frame.height, np.int64))
    numbered = groups.with_columns(pl.int_range(pl.len()).alias(PLACE))
    keys = groups.columns
    found = joined(
        frame.select(keys),
        numbered,
        left_on=keys,
        right_on=keys,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return found.get_column(PLACE)
