"""From groups that are complete to rows that go on: what every kind of window does at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import polars as pl

from mamba_stream.operators.columns import (
    OFFSET,
    ORDER,
    ORDINAL,
    ORIGIN,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    visible,
)
from mamba_stream.operators.grouping import grouped_in_order, ordered
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.single import twice, written_out
from mamba_stream.operators.step import Made
from mamba_stream.operators.times import as_time

WINDOW_START: Final = "window_start"
WINDOW_END: Final = "window_end"


class Aggregation(Protocol):
    """How aggregates are split; see ``mamba_stream.plan.aggregates``."""

    @property
    def partial_exprs(self) -> Sequence[pl.Expr]: ...
    @property
    def merge_exprs(self) -> Sequence[pl.Expr]: ...
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


@dataclass(frozen=True, kw_only=True)
class AggregateSettings:
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


class Results:
    """Makes rows of groups whose partial results, and kept rows, are all there."""

    def __init__(self, settings: AggregateSettings, apart: Sequence[str] = ()) -> None:
        """The results of one step.

        Args:
            settings: The step's.
            apart: Columns that tell groups of one key and ``SLOT`` apart, where these two do not.
        """
        self._set = settings
        self._by = [SLOT, *settings.keys, *apart]

    def of(
        self, partials: pl.DataFrame, rows: pl.DataFrame | None, start: pl.Expr, end: pl.Expr
    ) -> pl.DataFrame:
        """The rows, in the order of slot and key.

        Args:
            partials: The partial results, one row for each group; at least one.
            rows: The rows that aggregations need which do not split; each group has some.
            start: Where a group's window starts, in ticks.
            end: Where it ends.
        """
        split, keys = self._set.aggregation, self._set.keys
        partials = ordered(partials, self._by)
        if rows is not None:
            # Every group of rows has a group of partials and the other way round: sorted alike, they line up.
            exprs = [expr.alias(name) for name, expr in split.kept.items()]
            rows = written_out(rows.sort(ORDER).drop(set(ORDER) - set(keys)))
            kept = grouped_in_order(rows, self._by, exprs, single=partials.height == 1)
            partials = partials.hstack(kept.get_columns()[len(self._by) :])
        results = [
            pl.col(name) if name in split.kept else split.final_exprs[name].alias(name)
            for name in split.output_schema
        ]
        shown = twice(partials) if partials.height == 1 else written_out(partials)
        finished = shown.select(
            *keys,
            as_time(start, self._set.dtype).alias(WINDOW_START),
            as_time(end, self._set.dtype).alias(WINDOW_END),
            *results,
            *(self._origin() if self._set.with_origin else ()),
        )
        return written_out(finished.head(partials.height))

    def view(self, made: Iterable[Made]) -> pl.DataFrame:
        """What a step would give now, were time over."""
        open_ = [visible(piece.rows) for piece in made if piece.rows is not None]
        if open_:
            return pl.concat(open_)
        ends = {WINDOW_START: self._set.dtype, WINDOW_END: self._set.dtype}
        return pl.DataFrame(schema={**self._set.keys, **ends, **self._set.aggregation.output_schema})

    def _origin(self) -> list[pl.Expr]:
        """Rows that a step makes are ordered by time, key and ordinal: here their place among those of their slot."""
        values = {
            SOURCE: pl.lit(self._set.number),
            PARTITION: pl.lit(0),
            OFFSET: pl.int_range(pl.len()).over(SLOT),
            ORDINAL: pl.lit(0),
        }
        return [values[name].cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN]
