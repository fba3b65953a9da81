"""Which rows come too late for a step that takes rows one by one as time passes: those before its watermark."""

from __future__ import annotations

import polars as pl

from mamba_stream.operators.columns import BEHIND, PREFIX, TIME
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.step import LATE_BY, LATE_REASON, Late
from mamba_stream.operators.times import as_duration

_MET = f"{PREFIX}met"
_NO_LATER = FOREVER // 2


def without_late(
    frame: pl.DataFrame, closed: int, dtype: pl.DataType, *, grace: int = 0
) -> tuple[pl.DataFrame, Late | None]:
    """Splits off rows whose time lies before the watermark that they met, or before what the step has acted upon.

    Args:
        frame: Rows with their time in ``TIME``; ``BEHIND`` where some lay behind the watermark of their partition.
        closed: The watermark that the step has acted upon: after silence it may be ahead of a row's own.
        dtype: The type of the time column, for ``late_by``.
        grace: How far before it a row may lie all the same, in ticks.

    Returns:
        The rows on time without ``BEHIND``, and the late ones without ``TIME``.
    """
    behind = BEHIND in frame.columns
    if not behind and (frame.height == 0 or closed <= _first(frame) + grace):
        return frame, None
    own = pl.col(BEHIND).fill_null(NEVER) if behind else pl.lit(NEVER, dtype=pl.Int64)
    met = pl.max_horizontal(own, pl.lit(closed, dtype=pl.Int64))
    limit = pl.col(TIME) + grace
    late = frame.filter(limit < met)
    on_time = (frame.filter(limit >= met) if late.height else frame).drop(BEHIND, strict=False)
    if not late.height:
        return on_time, None
    by_watermark = own > limit
    # Closed for good: no lateness would have kept the row, so the number stays readable.
    by = pl.min_horizontal(pl.when(by_watermark).then(own).otherwise(closed), limit + _NO_LATER) - limit
    reason = pl.when(by_watermark).then(pl.lit("watermark")).otherwise(pl.lit("idle"))
    shown = late.with_columns(by.alias(_MET), reason.alias(LATE_REASON))
    ticks_late = shown.get_column(_MET).to_numpy()
    shown = shown.with_columns(as_duration(pl.col(_MET), dtype).alias(LATE_BY))
    # As the stream of late rows has its columns: late_by before late_reason.
    order = [name for name in frame.columns if name not in (TIME, BEHIND)]
    return on_time, Late(
        shown.select(*order, LATE_BY, LATE_REASON, *([BEHIND] if behind else [])), ticks_late
    )


def _first(frame: pl.DataFrame) -> int:
    return int(frame.get_column(TIME).min())  # type: ignore[arg-type]  # there are rows, none of them without a time
