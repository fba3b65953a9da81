"""A user's function over batches, with the hidden columns carried past it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.columns import BEHIND, OFFSET, OP, hidden, visible
from mamba_stream.operators.failures import Unsuited
from mamba_stream.operators.fitting import fitted

Function = Callable[[pl.DataFrame], Any]


class MapBatches(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Calls a function with the rows as the user sees them.

    Where the function gives a row for each row, hidden columns stay with their rows. Where it gives more or
    fewer, rows that met different watermarks are given to it in calls of their own, so that what came too late
    stays so; the origin of single rows is then lost, which a step that depends on order cannot do without.

    Attributes:
        function: Takes and gives a ``pl.DataFrame``.
        schema: What it has to give.
        time: The time column, where a later step depends on it; the function must leave it alone.
    """

    function: Function
    schema: Mapping[str, pl.DataType]
    time: str | None

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The function's rows."""
        found = self.carried(frame, self.function(visible(frame)))
        return self.apart(frame) if found is None else found

    def carried(self, frame: pl.DataFrame, given: Any) -> pl.DataFrame | None:
        """The rows that go on, of what the function gave for a frame's; ``None`` where these must be given to it apart.

        Raises:
            SchemaMismatch: It gave what it must not.
        """
        names = hidden(frame)
        result = self._checked(visible(frame), given)
        if not names or result.height == frame.height:
            return result.hstack(frame.select(names)) if names else result
        if OFFSET in names:
            raise Unsuited(
                f"the function gave {result.height} rows for {frame.height}, and a later step depends on the order of "
                "single rows: give one row for each row, and filter before or after it"
            )
        if OP in names:
            raise Unsuited(
                f"the function gave {result.height} rows for {frame.height} of a changelog, and which of them takes "
                "back which earlier row is lost: give one row for each row, and filter before or after it"
            )
        if frame.get_column(BEHIND).n_unique() > 1:
            return None
        return result.with_columns(pl.lit(frame.item(0, BEHIND), dtype=pl.Int64).alias(BEHIND))

    def apart(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The function's rows, called with those together that met one watermark."""
        return pl.concat(self(group) for group in frame.partition_by(BEHIND, maintain_order=True))

    def _checked(self, seen: pl.DataFrame, given: Any) -> pl.DataFrame:
        result = written_out(fitted(given, self.schema))
        if self.time is not None and result.height:
            self._check_time(seen, result)
        return result

    def _check_time(self, seen: pl.DataFrame, result: pl.DataFrame) -> None:
        """Watermarks go by the times that the source read; other ones would be late or early by chance."""
        assert self.time is not None
        before, after = seen.get_column(self.time), result.get_column(self.time)
        same = before.equals(after) if len(before) == len(after) else _within(after, before)
        if not same:
            raise SchemaMismatch(
                f"the function changed the time column {self.time!r}, by which a later window goes: leave it as it is "
                "and put other times into a column of their own"
            )


def _within(after: pl.Series, before: pl.Series) -> bool:
    return after.null_count() == 0 and bool(after.is_in(before.unique().implode()).all())


class Inspect(msgspec.Struct, frozen=True, eq=False):
    """Shows every batch to a function and passes it on as it was."""

    function: Function

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The same rows."""
        self.function(visible(frame))
        return frame
