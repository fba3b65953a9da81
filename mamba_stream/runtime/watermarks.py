"""What is known about the time of each source partition, and how far time has come over several of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from mamba_stream.core.durations import ticks_per_day
from mamba_stream.operators.lateness import FOREVER, NEVER, watermark_of
from mamba_stream.plan.shapes import Shape


class PartitionTime(msgspec.Struct):
    """How far one partition has come.

    Attributes:
        lateness: In ticks of the time column.
        greatest: The greatest time of all its rows so far.
        ended: Whether no row will ever come again.
        idle: Whether it has been silent for so long that it no longer holds back time.
        silent_since: When a poll first found nothing after the last row, by the monotonic clock.
    """

    lateness: int
    greatest: int = NEVER
    ended: bool = False
    idle: bool = False
    silent_since: float | None = None

    @property
    def watermark(self) -> int:
        """No row on time will come with a time before this."""
        return FOREVER if self.ended else watermark_of(self.greatest, self.lateness)

    def spoke(self) -> None:
        """Rows came."""
        self.idle, self.silent_since = False, None

    def was_silent(self, now: float, patience: float) -> None:
        """A poll found nothing. Only polls count: whoever is not asked is not silent."""
        if self.silent_since is None:
            self.silent_since = now
        elif now - self.silent_since >= patience:
            self.idle = True


class Mark(msgspec.Struct, frozen=True):
    """How far time has come at some point of a plan.

    Attributes:
        watermark: No row on time will come with a time before this, in ticks.
        idle: Whether nothing that rows come from here is awake, so that it does not hold back others.
        greatest: The greatest time of any row so far.
    """

    watermark: int
    idle: bool = False
    greatest: int = NEVER


def mark_of(partitions: Iterable[PartitionTime]) -> Mark:
    """How far time has come over partitions."""
    return combined(Mark(time.watermark, time.idle, time.greatest) for time in partitions)


def combined(marks: Iterable[Mark]) -> Mark:
    """How far time has come over all of them: the slowest that is not idle decides; over idle ones, the fastest."""
    known = list(marks)
    greatest = max((mark.greatest for mark in known), default=NEVER)
    awake = [mark.watermark for mark in known if not mark.idle]
    if awake:
        return Mark(min(awake), greatest=greatest)
    return Mark(max((mark.watermark for mark in known), default=NEVER), idle=True, greatest=greatest)


def moment_of(watermark: int, shape: Shape) -> datetime | None:
    """A watermark of a stream as a moment; ``None`` before the first row and after the last, and without a time."""
    if shape.time is None or not NEVER < watermark < FOREVER:
        return None
    microseconds = watermark * 86_400_000_000 // ticks_per_day(shape.time_type)
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
