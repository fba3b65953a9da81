"""From groups that are complete to rows that go on: what every kind of window does at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
import polars as pl

from mamba_stream.core.single import twice, written_out
from mamba_stream.operators.columns import (
    OFFSET,
    ORDER,
    ORDINAL,
    ORIGIN,
    ORIGIN_TYPES,
    PARTITION,
    PREFIX,
    SOURCE,
    visible,
)
from mamba_stream.operators.failures import FAILURES, RowsFailed, watched, worked
from mamba_stream.operators.folding import Folds
from mamba_stream.operators.grouping import grouped_in_order, ordered
from mamba_stream.operators.rowstore import Mask
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import Failed, Made
from mamba_stream.operators.times import as_time

WINDOW_START: Final = "window_start"
WINDOW_END: Final = "window_end"
_PLACE: Final = f"{PREFIX}place"


class Aggregation(Protocol):
    """How aggregates are split; see ``mamba_stream.plan.aggregates``."""

    @property
    def partial_exprs(self) -> Sequence[pl.Expr]: ...
    @property
    def merge_exprs(self) -> Sequence[pl.Expr]: ...
    @property
    def partial_folds(self) -> Folds | None: ...
    @property
    def merge_folds(self) -> Folds | None: ...
    @property
    def final_exprs(self) -> Mapping[str, pl.Expr]: ...
    @property
    def kept(self) -> Mapping[str, pl.Expr]: ...
    @property
    def kept_columns(self) -> Sequence[str]: ...
    @property
    def output_schema(self) -> Mapping[str, pl.DataType]: ...
    @property
    def partial_schema(self) -> Mapping[str, pl.DataType]: ...
    @property
    def needs_order(self) -> bool: ...


class AggregateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What any step that aggregates by key and some kind of window is told by the plan.

    Attributes:
        keys: The columns that rows are grouped by, beside their window, with their types.
        types: The types of all columns that there are.
        time: The time column.
        shift: Ticks to add to it.
        dtype: Its type, which ``window_start`` and ``window_end`` get.
        aggregation: The aggregates, split.
        number: The step's own number, for the origin of the rows it makes.
        with_origin: Whether a later step needs the origin of the rows it makes.
    """

    keys: Mapping[str, pl.DataType]
    types: Mapping[str, pl.DataType]
    time: str
    shift: int
    dtype: pl.DataType
    aggregation: Aggregation
    number: int
    with_origin: bool

    @property
    def ordered(self) -> bool:
        """Whether the order of rows matters to what is kept of them."""
        return self.aggregation.needs_order or bool(self.aggregation.kept)

    @property
    def nested(self) -> bool:
        """Whether partial results are structs or lists."""
        return any(dtype.is_nested() for dtype in self.aggregation.partial_schema.values())


class Finished(msgspec.Struct, frozen=True):
    """What came of groups.

    Attributes:
        rows: A row for each group whose results could be computed.
        failed: The others.
        there: Which of the groups have a row; ``None`` where all do.
    """

    rows: pl.DataFrame
    failed: Sequence[Failed] = ()
    there: Mask | None = None

    @property
    def made(self) -> Made:
        """The same as what a step makes."""
        return Made(self.rows if self.rows.height else None, failed=self.failed)


class Results:
    """Makes rows of groups whose partial results, and kept rows, are all there."""

    def __init__(self, settings: AggregateSettings, apart: Sequence[str] = (), *, stay: bool = False) -> None:
        """The results of one step.

        Args:
            settings: The step's.
            apart: Columns that tell groups of one key and ``SLOT`` apart, where these two do not.
            stay: Whether the rows of groups stay in the state, whatever comes of them.
        """
        self._set = settings
        self._by = [SLOT, *settings.keys, *apart]
        self._stay = stay

    def of(
        self,
        partials: pl.DataFrame,
        rows: pl.DataFrame | None,
        start: pl.Expr,
        end: pl.Expr,
        *,
        tolerates: bool,
        in_order: bool = False,
    ) -> Finished:
        """The rows, in the order of slot and key.

        Args:
            partials: The partial results, one row for each group; at least one.
            rows: The rows that aggregations need which do not split; each group has some.
            start: Where a group's window starts, in ticks.
            end: Where it ends.
            tolerates: Whether groups over which an expression raises are left out.
            in_order: Whether the partial results are in that order already.

        Raises:
            RowsFailed: They are not to be left out, and this is one.
        """
        bounds = self.bounds(start, end)
        if not in_order:
            partials = ordered(partials, self._by)
        if rows is not None:
            rows = rows.sort(ORDER)
        try:
            origin = self._origin() if self._set.with_origin else []
            with watched(partials, cuttable=True):
                return Finished(self._computed(partials, rows, bounds, origin))
        except FAILURES:
            return self._without_failing(partials, rows, bounds, tolerates=tolerates)

    def _computed(
        self,
        partials: pl.DataFrame,
        rows: pl.DataFrame | None,
        bounds: Sequence[pl.Expr],
        others: Sequence[pl.Expr],
    ) -> pl.DataFrame:
        split, keys = self._set.aggregation, self._set.keys
        if rows is not None:
            # Every group of rows has a group of partials and the other way round: sorted alike, they line up.
            exprs = [expr.alias(name) for name, expr in split.kept.items()]
            seen = written_out(rows.drop(set(ORDER) - set(keys)))
            kept = grouped_in_order(seen, self._by, exprs, single=partials.height == 1)
            partials = partials.hstack(kept.get_columns()[len(self._by) :])
        results = [
            pl.col(name) if name in split.kept else split.final_exprs[name].alias(name)
            for name in split.output_schema
        ]
        shown = twice(partials) if partials.height == 1 else written_out(partials)
        finished = shown.select(*keys, *bounds, *results, *others)
        return written_out(finished.head(partials.height))

    def _without_failing(
        self,
        partials: pl.DataFrame,
        rows: pl.DataFrame | None,
        bounds: Sequence[pl.Expr],
        *,
        tolerates: bool,
    ) -> Finished:
        """The same without the groups over which an expression raises."""
        first_row = np.zeros(partials.height + 1, np.int64)
        if rows is not None:
            rows = rows.sort(self._by, maintain_order=True)
            first_row[1:] = rows.group_by(self._by, maintain_order=True).len().get_column("len").cum_sum()

        def rows_of(groups: pl.DataFrame) -> pl.DataFrame | None:
            first, last = groups.item(0, _PLACE), groups.item(-1, _PLACE)
            return None if rows is None else rows[first_row[first] : first_row[last + 1]]

        def work(groups: pl.DataFrame) -> pl.DataFrame:
            return self._computed(groups.drop(_PLACE), rows_of(groups), bounds, [pl.col(SLOT)])

        def left_out(failed: Failed) -> Failed:
            which = failed.frame.select(*self._set.keys, *bounds)
            mine = None if self._stay else rows_of(failed.frame)
            return Failed(which if mine is None else mine, failed.error, _in_words(which))

        try:
            found, failed = worked(work, partials.with_row_index(_PLACE), tolerates=tolerates)
        except RowsFailed as error:
            raise RowsFailed(left_out(error.failed)) from error.failed.error
        there = np.ones(partials.height, np.bool_)
        for one in failed:
            there[one.frame.get_column(_PLACE).to_numpy()] = False
        shown = pl.concat(found) if found else pl.DataFrame(schema={**self._schema, SLOT: pl.Int64()})
        # The place of a row among those of its slot is known when all are there.
        return Finished(self.with_origin(shown), [left_out(one) for one in failed], there)

    def bounds(self, start: pl.Expr, end: pl.Expr) -> list[pl.Expr]:
        """Where windows start and end, as users see it; given in ticks."""
        ends = ((WINDOW_START, start), (WINDOW_END, end))
        return [as_time(tick, self._set.dtype).alias(name) for name, tick in ends]

    def with_origin(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with ``SLOT`` as they go on: without it, and with an origin where a later step needs that."""
        shown = rows.with_columns(self._origin()) if self._set.with_origin else rows
        return written_out(shown.drop(SLOT))

    @property
    def _schema(self) -> dict[str, pl.DataType]:
        ends = {WINDOW_START: self._set.dtype, WINDOW_END: self._set.dtype}
        return {**self._set.keys, **ends, **self._set.aggregation.output_schema}

    def view(self, made: Iterable[Made]) -> pl.DataFrame:
        """What a step would give now, were time over."""
        open_ = [visible(piece.rows) for piece in made if piece.rows is not None]
        return pl.concat(open_) if open_ else pl.DataFrame(schema=self._schema)

    def _origin(self) -> list[pl.Expr]:
        """Rows that a step makes are ordered by time, key and ordinal: here their place among those of their slot."""
        values = {
            SOURCE: pl.lit(self._set.number),
            PARTITION: pl.lit(0),
            OFFSET: pl.int_range(pl.len()).over(SLOT),
            ORDINAL: pl.lit(0),
        }
        return [values[name].cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN]


def _in_words(window: pl.DataFrame) -> str:
    """A window and its key, of a frame of one row of them; how many they are of one of several."""
    if window.height > 1:
        return f"{window.height:,} windows"
    [row] = window.rows(named=True)
    start, end = row.pop(WINDOW_START), row.pop(WINDOW_END)
    keys = "".join(f", {name}={value!r}" for name, value in row.items())
    return f"the window from {start} to {end}{keys}"
