"""Results that are computed anew over all rows of the groups that a batch touched, and groups that have none by now.

Over the rows of a group an expression may raise, and not any more once others have come or gone. Until then the group
has no result: so what there is in the end depends on the rows alone, however they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import PREFIX
from mamba_stream.operators.distinct import Groups
from mamba_stream.operators.failures import worked
from mamba_stream.operators.grouping import grouped_in_order
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.members import PLACE, Members
from mamba_stream.operators.rowstore import Mask
from mamba_stream.operators.step import Failed

GROUP: Final = f"{PREFIX}group"
"""A number that a key has for as long as it is there, and no other ever gets."""

_ALL: Final = "all rows"


class Read(msgspec.Struct, frozen=True):
    """What there is of groups by now.

    Attributes:
        rows: Their results.
        there: Which of the groups have some.
        errors: What was raised over others, by the place of the group.
    """

    rows: pl.DataFrame
    there: Mask
    errors: Mapping[int, BaseException]


class Evaluated:
    """The rows of groups, and the expressions that are evaluated over them."""

    def __init__(
        self,
        exprs: Mapping[str, pl.Expr],
        types: Mapping[str, pl.DataType],
        columns: Mapping[str, pl.DataType],
        order: Mapping[str, pl.DataType],
    ) -> None:
        """No rows.

        Args:
            exprs: What is evaluated, by the name of the column for it.
            types: The types of these columns.
            columns: The columns that the expressions see.
            order: Columns that order the rows of a group.
        """
        self._exprs = [expr.alias(name) for name, expr in exprs.items()]
        self._types = dict(types)
        self._columns = list(columns)
        self.members: Final = Members({GROUP: pl.Int64()}, {**columns, **order}, list(order))
        self.failing: Final = KeyedTable({GROUP: pl.Int64()}, {})

    def computed(self, groups: Groups) -> Mask:
        """Which groups had results when they were asked for last."""
        if not self.failing.rows:
            return np.ones(len(groups), np.bool_)
        return ~self.failing.present(self.failing.slots(pl.DataFrame({GROUP: groups})))

    def take(self, frame: pl.DataFrame, groups: Groups, signs: pl.Series | None) -> None:
        """Takes rows in.

        Args:
            frame: The rows.
            groups: The group of each.
            signs: 1 for rows that come, -1 for those that go; ``None`` where all come.
        """
        of = pl.DataFrame({GROUP: groups})
        if signs is None:
            self.members.add(of, frame)
        else:
            self.members.change(of, frame, signs)

    def of(self, groups: Groups, *, tolerates: bool) -> Read:
        """The results of distinct groups, nulls for those that have none.

        Raises:
            RowsFailed: An expression raises over a group, and is not tolerated; the rows have ``PLACE``.
        """
        all_ = pl.DataFrame({GROUP: groups, PLACE: np.arange(len(groups))})
        rows = written_out(self.members.of(all_.select(GROUP)).select(PLACE, *self._columns))
        there = np.ones(len(groups), np.bool_)
        errors: dict[int, BaseException] = {}
        if not rows.height:
            return Read(pl.DataFrame(schema=self._types).clear(len(groups)), there, errors)

        def evaluated(piece: pl.DataFrame) -> pl.DataFrame:
            places = piece.get_column(PLACE)
            alone = places[0] == places[-1]
            return grouped_in_order(piece, [PLACE], self._exprs, single=alone)

        found, failed = worked(evaluated, rows, tolerates=tolerates, whole=PLACE)
        for one in failed:
            errors.update(dict.fromkeys(one.frame.get_column(PLACE).unique().to_list(), one.error))
        there[list(errors)] = False
        self._note(groups, there)
        kept = pl.concat(found) if found else pl.DataFrame(schema={PLACE: pl.Int64(), **self._types})
        if kept.height < len(groups):
            kept = all_.select(PLACE).join(kept, on=PLACE, how="left", maintain_order="left")
        return Read(kept.drop(PLACE), there, errors)

    def _note(self, groups: Groups, there: Mask) -> None:
        if self.failing.rows:
            again = self.failing.slots(pl.DataFrame({GROUP: groups[there]}))
            self.failing.remove(again[again >= 0])
        if not there.all():
            slots = self.failing.slots(pl.DataFrame({GROUP: groups[~there]}), insert=True)
            self.failing.put(slots, pl.DataFrame())

    def forget(self, groups: pl.DataFrame) -> None:
        """Groups are gone, with their rows."""
        self.members.forget(groups)
        slots = self.failing.slots(groups)
        self.failing.remove(slots[slots >= 0])


def over_key(row: pl.DataFrame, error: BaseException) -> Failed:
    """A key that has no result, of a frame with its row."""
    if not row.columns:
        return Failed(pl.DataFrame({"key": [_ALL]}), error, _ALL)
    words = ", ".join(f"{name}={value!r}" for name, value in row.row(0, named=True).items())
    return Failed(row, error, f"the rows of {words}")
