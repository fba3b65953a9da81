"""The rows of a frame, as they came once: at any speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mamba_connectors.synthetic.pace import Pace
from mamba_connectors.waking import Sleeper
from mamba_stream.connect import Delivery, Position, Reader, Rows
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import InvalidInput

_PARTITION: Final = "all"


def replay(
    frame: pl.DataFrame,
    *,
    time: str | None = None,
    speed: float | None = None,
    name: str = "replay",
    clock: Clock | None = None,
) -> ReplaySource:
    """The rows of a frame in its order, each when its time has come.

    Args:
        frame: The rows.
        time: The column that says when; a row that lies behind one before it comes right behind that.
        speed: How many seconds of rows pass in one: 1 is as it was, 3600 an hour a second; as fast as they are read if
            left out.
        name: What progress and messages call it.
        clock: Paces.

    Raises:
        InvalidInput: An argument cannot be right.
    """
    if not isinstance(frame, pl.DataFrame):
        raise InvalidInput(f"synthetic.replay takes a Polars frame, not {type(frame).__name__}")
    schema = canonical_schema(frame)
    moments: npt.NDArray[np.int64] | None = None
    if speed is not None:
        if not 0 < float(speed) < float("inf"):
            raise InvalidInput(f"synthetic.replay: speed={speed!r:.80} is no number above 0")
        moments = _moments(frame, time)
    return ReplaySource(name, schema, frame, moments, speed or 1.0, clock or SystemClock())


def _moments(frame: pl.DataFrame, time: Any) -> npt.NDArray[np.int64]:
    """When each row comes, in microseconds: never before the row before it."""
    if not isinstance(time, str) or time not in frame.columns:
        hint = did_you_mean(time, frame.columns) if isinstance(time, str) else ""
        raise InvalidInput(
            f"synthetic.replay with speed= needs time=, a column of the frame, not {time!r:.80}{hint}"
        )
    if not frame.schema[time].is_temporal() or frame.schema[time] in {pl.Time, pl.Duration}:
        raise InvalidInput(
            f"synthetic.replay: column {time!r} is {frame.schema[time]}: time is a Datetime or a Date"
        )
    times = frame.get_column(time).cast(pl.Datetime("us")).cast(pl.Int64)
    return times.cum_max().forward_fill().backward_fill().fill_null(0).to_numpy()


@dataclass(frozen=True, eq=False)
class ReplaySource:
    """What :func:`replay` makes."""

    name: str
    schema: pa.Schema
    frame: pl.DataFrame = field(repr=False)
    moments: npt.NDArray[np.int64] | None = field(repr=False)
    speed: float
    clock: Clock = field(repr=False)
    bounded: bool = True
    delivery: Delivery = "exactly-once"

    def partitions(self) -> Sequence[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader; a position is the number of the next row."""
        return _ReplayReader(self, position or 0)

    def select(self, columns: Sequence[str]) -> ReplaySource:
        """The same with only these columns."""
        fields = [self.schema.field(name) for name in columns]
        return replace(self, schema=pa.schema(fields), frame=self.frame.select(columns))


class _ReplayReader(Sleeper):
    def __init__(self, source: ReplaySource, number: int) -> None:
        self._source = source
        self._number = number
        self._pace = None if source.moments is None else Pace(source.clock, speed=source.speed)

    @property
    def ended(self) -> bool:
        return self._number >= self._source.frame.height

    def read(self, max_rows: int) -> Rows | None:
        rows = min(max_rows, self._source.frame.height - self._number)
        if rows > 0 and self._pace is not None and self._source.moments is not None:
            times = self._source.moments[self._number : self._number + rows]
            rows = self._pace.due(times)
            if not rows:
                self._woken(self._pace.seconds_to(int(times[0])))
        if rows <= 0:
            return None
        frame = self._source.frame.slice(self._number, rows)
        self._number += rows
        return Rows(batch_from_frame(frame), self._number)

    def close(self) -> None: ...
