"""A source at work: rows come in with their time judged, and what cannot be judged is set aside."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.columns import (
    BEHIND,
    OFFSET,
    ORDINAL,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    tick_values,
)
from mamba_stream.operators.lateness import rows_behind
from mamba_stream.operators.retimed import NO_TIME, REJECTED_REASON
from mamba_stream.plan import nodes as n
from mamba_stream.runtime.feeds import Feed, Portion
from mamba_stream.runtime.watermarks import PartitionTime

AHEAD = "ahead"


class IntakeSettings(msgspec.Struct, frozen=True):
    """What a source does with its rows.

    Attributes:
        number: The source's number in the plan.
        name: Its name in the job's progress.
        what: Its name in messages.
        time: Its time column; ``None`` where it has none.
        lateness: In ticks of the time column.
        patience: Seconds after which a silent partition no longer holds back time.
        ahead: How far beyond its append time a row's time may lie, in ticks.
        append_scale: Ticks per microsecond of append time, as a fraction.
        judged: Whether a later step has to know which rows lay behind the watermark.
        ordered: Whether a later step depends on the order of rows.
        columns: What the rows have, where one of that is when they were appended, which the log knows.
    """

    number: int
    name: str
    what: str
    time: str | None
    lateness: int
    patience: float
    ahead: int | None
    append_scale: tuple[int, int]
    judged: bool
    ordered: bool
    columns: Sequence[str] | None = None


class Intake(msgspec.Struct, eq=False):
    """A source with the partitions it reads and their time."""

    settings: IntakeSettings
    feeds: list[Feed]
    times: dict[int, PartitionTime]
    rows: int = 0
    rejected: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, feed: Feed) -> None:
        """Another partition, which came later."""
        self.feeds.append(feed)
        self.times[feed.partition] = PartitionTime(self.settings.lateness)

    def take(self, feed: Feed, portion: Portion) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        """Judges the rows of a portion.

        Returns:
            The rows that go on, with the hidden columns that later steps need, and the rejected ones.
        """
        clock = self.times[feed.partition]
        self.rows += portion.frame.height
        clock.spoke()
        frame, rejected = portion.frame, None
        if self.settings.columns is not None:
            frame = self._appended(frame, portion, clock).select(self.settings.columns)
        if self.settings.ordered:
            frame = self._with_origin(frame, feed.partition, portion.offsets)
        if self.settings.time is not None:
            frame, rejected = self._without_rejected(frame, portion)
            frame = self._judged(frame, clock)
        return frame, rejected

    def _appended(self, frame: pl.DataFrame, portion: Portion, clock: PartitionTime) -> pl.DataFrame:
        """The rows with when they were appended; where the clock went back, with when that was before."""
        times = portion.append_times
        assert times is not None
        running = np.maximum(np.maximum.accumulate(times), clock.greatest)
        return frame.with_columns(pl.Series(n.APPEND_TIME, running).cast(n.APPEND_TIME_TYPE))

    def _with_origin(
        self, frame: pl.DataFrame, partition: int, offsets: npt.NDArray[np.int64]
    ) -> pl.DataFrame:
        values = {SOURCE: pl.lit(self.settings.number), PARTITION: pl.lit(partition), ORDINAL: pl.lit(0)}
        origin = [value.cast(ORIGIN_TYPES[name]).alias(name) for name, value in values.items()]
        return frame.with_columns(pl.Series(OFFSET, offsets), *origin)

    def with_origin(self, frame: pl.DataFrame, feed: Feed, portion: Portion) -> pl.DataFrame:
        """What :meth:`take` gave for a portion, with the origin of its rows."""
        if self.settings.ordered:
            return frame
        offsets = portion.offsets
        if frame.height < len(offsets):
            bad, _ = self._rejects(portion.frame, portion)
            assert bad is not None
            offsets = offsets[~bad.to_numpy()]
        return self._with_origin(frame.drop(BEHIND, strict=False), feed.partition, offsets)

    def _without_rejected(
        self, frame: pl.DataFrame, portion: Portion
    ) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        bad, reasons = self._rejects(frame, portion)
        if bad is None:
            return frame, None
        rejected = frame.filter(bad).with_columns(reasons.alias(REJECTED_REASON))
        for reason, count in rejected.get_column(REJECTED_REASON).value_counts().iter_rows():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        return frame.filter(~bad), rejected

    def _rejects(self, frame: pl.DataFrame, portion: Portion) -> tuple[pl.Series | None, pl.Expr]:
        """Which rows of a portion have no time, or one too far ahead, if any; and why, by row."""
        time = self.settings.time
        assert time is not None
        ahead = self.settings.ahead
        reasons = pl.lit(NO_TIME)
        if ahead is None and not frame.get_column(time).null_count():
            return None, reasons
        bad = frame.get_column(time).is_null()
        append_times = None if ahead is None else portion.append_times
        if append_times is not None and ahead is not None:
            numerator, denominator = self.settings.append_scale
            latest = append_times * numerator // denominator + ahead
            beyond = tick_values(frame, time) > pl.Series(latest)
            bad |= beyond.fill_null(value=False)
            reasons = pl.when(pl.col(time).is_null()).then(reasons).otherwise(pl.lit(AHEAD))
        return (bad if bad.any() else None), reasons

    def _judged(self, frame: pl.DataFrame, clock: PartitionTime) -> pl.DataFrame:
        time = self.settings.time
        assert time is not None
        times = tick_values(frame, time)
        if not self.settings.judged:
            if len(times):
                greatest: int = times.max()  # type: ignore[assignment]
                clock.greatest = max(clock.greatest, greatest)
            return frame
        # Chunk by chunk: to put them together would cost more than to judge them.
        pieces = []
        for chunk in times.get_chunks():
            behind, clock.greatest = rows_behind(chunk.to_numpy(), clock.greatest, self.settings.lateness)
            pieces.append((len(chunk), behind))
        if all(behind is None for _, behind in pieces):
            return frame
        met = [
            pl.Series([None], dtype=pl.Int64).new_from_index(0, rows)
            if behind is None
            else pl.Series(behind.watermark).set(pl.Series(~behind.rows), None)
            for rows, behind in pieces
        ]
        return frame.with_columns(pl.concat(met, rechunk=True).alias(BEHIND))


def joined(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Frames of one source below each other, as chunks; in some no row lay behind, and the column for it is absent."""
    if len(frames) == 1:
        return frames[0]
    behind = any(BEHIND in frame.columns for frame in frames)
    return pl.concat(frames, how="diagonal" if behind else "vertical")
