"""The partitions of a connector's source as feeds: offsets are rows' numbers, and the source's position goes along.

Where the source is to go on is a pair, stored with the job's progress: a position that a reader gave, and how many of
the rows behind it were taken. The latter is 0 but where a run stopped at a moment in the midst of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Final

import msgspec
import polars as pl
import pyarrow as pa
from msgspec.structs import replace

from mamba_stream.connect import Acknowledging, Ending, Finishing, Projecting, Reader, Source, Waking
from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.clock import Clock
from mamba_stream.core.durations import to_time
from mamba_stream.core.schemas import describe_difference
from mamba_stream.errors import ConnectorFailed, PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Shape, need_time
from mamba_stream.runtime.bell import Alarm
from mamba_stream.runtime.blaming import Blaming
from mamba_stream.runtime.extents import Until, first_at
from mamba_stream.runtime.feeds import Portion
from mamba_stream.runtime.progress import PartitionProgress, SourceProgress

_LOOK: Final = 0.5
"""Seconds between two looks for new partitions."""


class Extent(msgspec.Struct, frozen=True):
    """How far a run reads a source.

    Attributes:
        time: Its time column, where the run stops at a moment.
        moment: That moment, in ticks; ``None`` reads on.
        bounded: Takes where the run stops for the end of the source.
        now: Stops where an endless source ends now.
    """

    time: str | None = None
    moment: int | None = None
    bounded: bool = False
    now: bool = False


def extent_of(node: n.ConnectorSource, shape: Shape, until: Until) -> Extent:
    """How far a run reads a source.

    Raises:
        PipelineRefused: A moment cannot be found in a stream without a time.
    """
    if not isinstance(until, datetime | date):
        return Extent()
    with refusing(node):
        time = need_time(shape, f"until={until!s}")
        return Extent(time, to_time(until, shape.time_type, what="until"))


class ConnectorFeed:
    """A partition of a connector's source, opened when it is first read."""

    def __init__(
        self,
        node: n.ConnectorSource,
        source: Source,
        partition: int,
        name: str,
        columns: Sequence[str],
        extent: Extent,
        known: PartitionProgress | None,
        alarm: Alarm,
    ) -> None:
        """A feed from where the job has come to.

        Args:
            node: The source in the plan.
            source: The source itself.
            partition: The partition's number.
            name: What the source calls it.
            columns: The columns to give.
            extent: How far to read.
            known: Where the job has come to; ``None`` begins.
            alarm: What a reader is given that can say when it has something.
        """
        self.partition = partition
        self.name = name
        self._node = node
        self._source = source
        self._columns = list(columns)
        self._extent = extent
        self._reader: Reader | None = None
        self._alarm = alarm
        self._wakes = False
        self._rows = known.position if known is not None else 0
        self._base: Any = None
        self._taken = 0
        if known is not None and known.place:
            self._base, self._taken = known.place
        self._skip = self._taken
        self._ended = known is not None and known.ended
        self._stopped = known is not None and extent.moment is not None and known.greatest >= extent.moment

    @property
    def position(self) -> int:
        return self._rows

    @property
    def place(self) -> Any:
        return [self._base, self._taken]

    @property
    def done(self) -> bool:
        return self._ended or self._stopped

    @property
    def ended(self) -> bool:
        return self._ended or (self._extent.bounded and self._stopped)

    def read(self, max_rows: int, max_bytes: int) -> Portion | None:
        if self.done:
            return None
        with self._blaming():
            if self._reader is None:
                self._reader = self._source.open(self.name, self._base)
                if isinstance(self._reader, Waking):
                    self._wakes = True
                    self._reader.wake_by(self._alarm)
            if self._wakes:
                if not self._alarm.due:
                    return None
                self._alarm.begin()
            while (rows := self._reader.read(max_rows)) is not None:
                frame = self._take(self._frame_of(rows.batch), rows.position)
                self._notice_end(self._reader)
                if frame.height:
                    first = self._rows
                    self._rows += frame.height
                    self._alarm.end(more=True)
                    return Portion(frame, first, self._rows)
                if self.done:
                    return None
            self._alarm.end(more=not self._wakes)
            self._notice_end(self._reader)
        return None

    @property
    def seconds_to_reading(self) -> float:
        """How long it makes no sense to read; 0 where the reader cannot say."""
        return self._alarm.seconds

    def acknowledge(self, place: Any) -> None:
        """Tells upstream, where it wants to know, that all before a ``place`` of this is in a durable checkpoint."""
        if isinstance(self._reader, Acknowledging):
            with self._blaming():
                self._reader.acknowledge(place[0])

    def close(self) -> None:
        """Lets go of files and connections."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()

    def _take(self, frame: pl.DataFrame, position: Any) -> pl.DataFrame:
        """The rows that were not taken before and lie before the moment; notes where to go on behind them."""
        skipped = min(self._skip, frame.height)
        self._skip -= skipped
        rest = self._before_the_moment(frame.slice(skipped))
        if self._stopped:
            self._taken += rest.height
        else:
            self._base, self._taken = position, self._skip
        return rest

    def _notice_end(self, reader: Reader) -> None:
        if reader.ended and not self._stopped:
            # The end of what is there now need not be the partition's own.
            self._stopped = self._extent.now and not (isinstance(reader, Finishing) and reader.finished)
            self._ended = not self._stopped

    def _frame_of(self, batch: pa.RecordBatch) -> pl.DataFrame:
        if not batch.schema.equals(self._source.schema):
            difference = describe_difference(batch.schema, self._source.schema, whose="its schema says")
            raise ConnectorFailed(f"it gave rows that are not of its schema: {difference or 'other types'}")
        frame = frame_from_batch(batch)
        return frame if frame.columns == self._columns else frame.select(self._columns)

    def _before_the_moment(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self._extent.moment is None or self._extent.time is None:
            return frame
        reached = first_at(frame, self._extent.time, self._extent.moment)
        self._stopped = reached is not None
        return frame if reached is None else frame.head(reached)

    def _blaming(self) -> Blaming:
        return Blaming(f"source {self._source.name!r}, partition {self.name!r}", self._node)


class ConnectorFeeds:
    """All partitions of a source, those that will come included."""

    def __init__(
        self,
        node: n.ConnectorSource,
        columns: Sequence[str],
        known: SourceProgress | None,
        extent: Extent,
        *,
        as_of_now: bool,
        clock: Clock,
        ring: Callable[[], None],
    ) -> None:
        """Looks which there are.

        Args:
            node: The source in the plan.
            columns: The columns to read.
            known: What the job has read so far.
            extent: How far to read.
            as_of_now: Read what there is now, and no more.
            clock: Tells when to look again.
            ring: Called from any thread when there is something to read.

        Raises:
            PipelineRefused: The source cannot say what there is now.
        """
        source = node.source
        if as_of_now and not source.bounded:
            with refusing(node):
                source, extent = _as_of_now(source), replace(extent, now=True)
        if columns and list(columns) != source.schema.names and isinstance(source, Projecting):
            source = source.select(list(columns))
        self._node = node
        self._source = source
        self._columns = columns
        self._extent = extent
        self._clock = clock
        self._ring = ring
        self._numbers: dict[str, int] = {}
        self.feeds: list[ConnectorFeed] = []
        for number, progress in sorted({} if known is None else known.partitions.items()):
            self._add(number, progress.name, progress)
        self._looked = clock.monotonic()
        self._look()

    @property
    def growing(self) -> bool:
        """Whether partitions may come in this run."""
        return not self._source.bounded

    @property
    def endless(self) -> bool:
        """Whether partitions may come, in this run or a later one."""
        return not self._node.source.bounded

    def look(self) -> list[ConnectorFeed]:
        """Partitions that have come since; looks only now and then."""
        now = self._clock.monotonic()
        if self._source.bounded or now - self._looked < _LOOK:
            return []
        self._looked = now
        return self._look()

    @property
    def seconds_to_reading(self) -> float:
        """How long there is nothing to read, nor to look for; 0 where some reader cannot say."""
        look = _LOOK + self._looked - self._clock.monotonic() if self.growing else math.inf
        return min([look, *(feed.seconds_to_reading for feed in self.feeds if not feed.done)])

    def _look(self) -> list[ConnectorFeed]:
        with Blaming(f"source {self._source.name!r}", self._node):
            there = sorted(self._source.partitions())
        return [self._add(len(self._numbers), name, None) for name in there if name not in self._numbers]

    def _add(self, number: int, name: str, known: PartitionProgress | None) -> ConnectorFeed:
        self._numbers[name] = number
        alarm = Alarm(self._clock, self._ring)
        feed = ConnectorFeed(
            self._node, self._source, number, name, self._columns, self._extent, known, alarm
        )
        self.feeds.append(feed)
        return feed


def _as_of_now(source: Source) -> Source:
    if not isinstance(source, Ending):
        raise PipelineRefused(
            f"{source.name!r} is endless and cannot say what it holds now: look at it with head(), "
            "or run it until it is stopped"
        )
    return source.as_of_now()
