"""Which rows come too late for all of their windows, and which windows the others still go into."""

from __future__ import annotations

from typing import Any, Final, Protocol

import polars as pl

from mamba_stream.operators.columns import BEHIND, tick_values, ticks
from mamba_stream.operators.grid import Windows
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.results import AggregateSettings
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import LATE_BY, LATE_REASON, Late
from mamba_stream.operators.times import as_duration

AFTER: Final = "__mamba_after"
"""Of overlapping windows: a row is in those of its windows that end after this; the others were closed before it."""

_NO_LATER = FOREVER // 2


class WindowSettings(AggregateSettings, frozen=True, kw_only=True):
    """What a window step is told by the plan.

    Attributes:
        windows: Which windows a time falls into.
        corrections: For so many ticks behind its end, a window still takes rows.
    """

    windows: Windows
    corrections: int = 0


class Placing(Protocol):
    """What has to be known of a step to judge its rows; see ``WindowSettings``."""

    @property
    def windows(self) -> Windows: ...
    @property
    def time(self) -> str: ...
    @property
    def shift(self) -> int: ...
    @property
    def dtype(self) -> pl.DataType: ...
    @property
    def corrections(self) -> int: ...


class Punctual:
    """Judges rows for one step."""

    def __init__(self, settings: Placing) -> None:
        self._set = settings
        self._windows = settings.windows
        self._time = ticks(settings.time, settings.shift)

    def placed(self, frame: pl.DataFrame, closed: int) -> tuple[pl.DataFrame, Late | None]:
        """The rows on time with their pane in ``SLOT``, and with ``AFTER`` where windows overlap; and the late ones.

        Args:
            frame: Rows, with ``BEHIND`` where some lay behind the watermark of their partition.
            closed: The windows that end at or before this take no rows any more, whatever a row's own watermark.
        """
        late = None
        if not self.is_on_time(frame, closed):
            frame, late = self._without_late(frame, closed)
        if not frame.height:
            return frame, late
        frame = frame.with_columns(self._windows.pane_of(self._time).alias(SLOT))
        if self._windows.overlaps:
            frame = frame.with_columns(self._lost(frame).alias(AFTER))
        return frame, late

    def is_on_time(self, frame: pl.DataFrame, closed: int) -> bool:
        """Whether no row lies behind the watermark, nor has all of its windows closed."""
        return BEHIND not in frame.columns and not self._reaches(frame, closed)

    def _reaches(self, frame: pl.DataFrame, closed: int) -> bool:
        if closed == NEVER or frame.height == 0:
            return False
        return self._windows.last_end(self.first(frame)) <= closed

    def first(self, frame: pl.DataFrame) -> int:
        """The earliest time of rows, of which there are some."""
        first: Any = tick_values(frame, self._set.time).min()
        return int(first) + self._set.shift

    def is_plain(self, frame: pl.DataFrame, first: int, closed: int) -> bool:
        """Whether no row can be late, for any of its windows: none lies behind, and none is before what is closed."""
        return BEHIND not in frame.columns and (closed == NEVER or self._windows.first_end(first) > closed)

    def _without_late(self, frame: pl.DataFrame, closed: int) -> tuple[pl.DataFrame, Late | None]:
        """Splits off what is late; tells the other rows which of their windows still take them."""
        behind = pl.lit(NEVER, dtype=pl.Int64)
        if BEHIND in frame.columns:
            behind = pl.col(BEHIND).fill_null(NEVER)
            if self._set.corrections:
                behind = pl.max_horizontal(behind, NEVER + self._set.corrections) - self._set.corrections
        end = self._windows.last_end_of(self._time)
        frame = frame.with_columns(behind.alias(AFTER), end.alias(SLOT))
        too_late = (pl.col(SLOT) <= pl.col(AFTER)) | (pl.col(SLOT) <= closed)
        late = frame.filter(too_late)
        if late.height == 0:
            return frame, None
        return frame.filter(~too_late), self._as_late(late, closed)

    def _lost(self, frame: pl.DataFrame) -> pl.Expr:
        """The end of the last of a row's windows that it came too late for.

        Rows that met different watermarks but may still go into the same windows must not differ: there would be as
        many partial results as rows.
        """
        never = pl.lit(NEVER, dtype=pl.Int64)
        if AFTER not in frame.columns:
            return never
        reached = self._windows.end_reached(pl.col(AFTER))
        return pl.when(pl.col(AFTER) > pl.col(SLOT), reached > pl.col(SLOT)).then(reached).otherwise(never)

    def _as_late(self, rows: pl.DataFrame, closed: int) -> Late:
        by_watermark = pl.col(SLOT) <= pl.col(AFTER)
        met = pl.when(by_watermark).then(pl.col(AFTER)).otherwise(closed)
        # Closed for good: no lateness would have kept the row, so the number stays readable.
        by = pl.min_horizontal(met, pl.col(SLOT) + _NO_LATER) - pl.col(SLOT) + 1
        reason = pl.when(by_watermark).then(pl.lit("watermark")).otherwise(pl.lit("idle"))
        rows = rows.with_columns(by.alias(SLOT), reason.alias(LATE_REASON))
        ticks_late = rows.get_column(SLOT).to_numpy()
        rows = rows.with_columns(as_duration(pl.col(SLOT), self._set.dtype).alias(LATE_BY))
        return Late(rows.drop(SLOT, AFTER), ticks_late)
