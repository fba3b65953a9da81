"""Aggregates over the time before each row: over the rows of its key in ``(t - period, t]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import ORDER, ORIGIN, PREFIX, TIME, visible
from mamba_stream.operators.history import History
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.passing import PassingStep, Timing
from mamba_stream.operators.step import Made

_FRESH: Final = f"{PREFIX}fresh"
_PLACE: Final = f"{PREFIX}place"
_GROUP: Final = f"{PREFIX}group"
_ROOM: Final = 1 << 62


class RollingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a rolling step is told by the plan.

    Attributes:
        timing: Its time.
        by: The key's columns.
        period: How far back a row looks, in ticks.
        exprs: The aggregates by the name of their result.
        columns: The columns of the rows that are kept, those that the aggregates read among them.
        given: The columns of the rows that come out, beside the results.
    """

    timing: Timing
    by: Sequence[str]
    period: int
    exprs: Mapping[str, pl.Expr]
    columns: Sequence[str]
    given: Sequence[str]


class RollingStep(PassingStep):
    """Each row comes out, once time has passed it, with what the rows before it amount to."""

    def __init__(self, settings: RollingSettings) -> None:
        self._set = settings
        # A row sees those of its time that come behind it.
        self.together = (TIME, *settings.by)
        self._history = History()
        super().__init__(settings.timing, settings.columns, history=self._history)

    def passed(self, rows: pl.DataFrame) -> Made:
        """The rows with their results, in their order."""
        fresh = rows.with_columns(pl.lit(True).alias(_FRESH))
        together = self._history.behind(fresh, self._set.by) if self._history.rows else fresh
        results = self._results(together)
        self._history.add(rows)
        return Made(written_out(results.select(*self._set.given, *self._set.exprs, *ORIGIN)))

    def _results(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The fresh rows with their results, in the order of the stream."""
        if rows.height == 1:
            # A row that is alone would be computed otherwise than beside another one.
            pair = pl.concat([rows, rows.with_columns((pl.col(TIME) + self._set.period).alias(TIME))])
            return self._rolled(pair.with_columns(pl.int_range(pl.len()).alias(_GROUP))).head(1)
        by = list(self._set.by)
        if by:
            rows = rows.sort(by, maintain_order=True)
        group = pl.struct(by).rle_id().cast(pl.Int64) if by else pl.lit(0, dtype=pl.Int64)
        found = self._rolled(rows.with_columns(group.alias(_GROUP)))
        return found.filter(pl.col(_FRESH)).sort(ORDER)

    def _rolled(self, rows: pl.DataFrame) -> pl.DataFrame:
        """All rows with their results; they lie sorted by the number of their key, and then in their order.

        The keys lie side by side on one axis, further apart than any row looks: then it is one rolling query in the
        order of the rows.
        """
        first, last = rows.select(pl.col(TIME).min(), pl.col(TIME).max().alias("last")).row(0)
        width = last - first + self._set.period + 1
        exprs = [expr.alias(name) for name, expr in self._set.exprs.items()]
        if width * (rows.item(-1, _GROUP) + 1) < _ROOM:
            place = pl.col(_GROUP) * width + (pl.col(TIME) - first)
            rows = rows.with_columns(place.alias(_PLACE).set_sorted())
            results = rows.rolling(_PLACE, period=f"{self._set.period}i").agg(exprs)
        else:
            results = rows.rolling(TIME, period=f"{self._set.period}i", group_by=_GROUP).agg(exprs)
        shown = [name for name in rows.columns if name not in self._set.exprs]
        return rows.select(shown).hstack(results.select(*self._set.exprs))

    def forget(self, watermark: int) -> None:
        """Rows that no later row looks back at."""
        self._history.drop(max(watermark, NEVER + self._set.period + 1) - self._set.period + 1)

    def view(self) -> pl.DataFrame:
        """The rows that are looked back at."""
        frame = self._history.frame()
        return pl.DataFrame() if frame is None else visible(frame)
