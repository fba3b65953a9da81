"""Rows made from a seed: each is a function of (seed, partition, row number), so that any place can be gone on from.

The numbers come from SplitMix64, which is written down here, since NumPy's generators may change with its versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mamba_connectors.synthetic.pace import Pace
from mamba_connectors.waking import Sleeper
from mamba_stream.connect import Delivery, Position, Reader, Rows
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.core.numbers import is_whole
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import InvalidInput

_Words = npt.NDArray[np.uint64]
_SCHEMA: Final = canonical_schema(
    pa.schema(
        [
            ("at", pa.timestamp("us")),
            ("key", pa.large_string()),
            ("number", pa.int64()),
            ("value", pa.float64()),
        ]
    )
)
_DRAWS: Final = {"key": 1, "value": 2, "behind": 3, "disordered": 4}
_CHUNK: Final = 16_384


def source(
    *,
    rows: int | None = None,
    rate: float = 1_000.0,
    paced: bool = False,
    partitions: int = 1,
    keys: int = 100,
    skew: float = 0.0,
    disorder: str | timedelta = "0s",
    disordered: float = 0.1,
    idle: tuple[str | timedelta, str | timedelta] | None = None,
    start: datetime | date = datetime(2026, 1, 1),  # noqa: DTZ001 - naive is UTC everywhere
    seed: int = 0,
    name: str | None = None,
    clock: Clock | None = None,
) -> MadeSource:
    """Rows ``at``, ``key``, ``number`` (of the row in its partition) and ``value``, the same for the same arguments.

    Args:
        rows: How many in each partition; endless if left out.
        rate: Rows a second in each partition, by ``at``.
        paced: They also come at that rate, by the clock; else as fast as they are read.
        partitions: How many there are, with different rows.
        keys: How many keys, ``k0`` and on.
        skew: Zipf's exponent: 0 makes all keys as frequent, 1 makes ``k0`` twice as frequent as ``k1``.
        disorder: How far at most ``at`` lies behind where it would be.
        disordered: The share of rows that do.
        idle: ``("1m", "10s")``: after every minute of rows come ten seconds without.
        start: The first ``at``.
        seed: Other rows for every other number.
        name: What progress and messages call it.
        clock: Paces.

    Raises:
        InvalidInput: An argument cannot be right.
    """
    counts: list[tuple[str, Any, int]] = [
        ("rows", rows, 0),
        ("partitions", partitions, 1),
        ("keys", keys, 1),
        ("seed", seed, 0),
    ]
    for what, number, least in counts:
        if number is not None and (not is_whole(number) or number < least):
            raise InvalidInput(f"synthetic.source: {what}={number!r:.80} is no whole number from {least}")
    if not 0 < rate <= 1_000_000 or not 0 <= disordered <= 1 or not 0 <= skew <= 10:
        raise InvalidInput(
            f"synthetic.source: rate={rate!r:.80} is to be above 0 and at most a million a second, "
            f"disordered={disordered!r:.80} from 0 to 1, skew={skew!r:.80} from 0 to 10"
        )
    active, pause = (0, 0) if idle is None else (duration_us(each, what="idle", zero=False) for each in idle)
    return MadeSource(
        name=name or f"synthetic {seed}",
        rows=rows,
        period=1_000_000 / rate,
        paced=paced,
        count=partitions,
        keys=keys,
        skew=skew,
        disorder=duration_us(disorder, what="disorder"),
        disordered=disordered,
        active=active,
        pause=pause,
        start=_microseconds(start),
        seed=seed,
        clock=clock or SystemClock(),
    )


@dataclass(frozen=True)
class MadeSource:
    """What :func:`source` makes. Times are in microseconds, ``period`` is the time from row to row."""

    name: str
    rows: int | None
    period: float
    paced: bool
    count: int
    keys: int
    skew: float
    disorder: int
    disordered: float
    active: int
    pause: int
    start: int
    seed: int
    clock: Clock = field(repr=False)
    schema: pa.Schema = field(default=_SCHEMA, repr=False)
    delivery: Delivery = "exactly-once"

    @property
    def bounded(self) -> bool:
        """Whether it was told how many rows to make."""
        return self.rows is not None

    def partitions(self) -> Sequence[str]:
        """Their numbers."""
        return [str(number) for number in range(self.count)]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader; a position is the number of the next row."""
        return _MadeReader(self, int(partition), position or 0)

    def select(self, columns: Sequence[str]) -> MadeSource:
        """The same with only these columns: others are not made."""
        return replace(self, schema=pa.schema([_SCHEMA.field(name) for name in columns]))

    @cached_property
    def shares(self) -> npt.NDArray[np.float64]:
        """For each key, which share of the rows has it or one before it."""
        weights = 1.0 / np.arange(1, self.keys + 1, dtype=np.float64) ** self.skew
        summed: npt.NDArray[np.float64] = np.cumsum(weights / weights.sum())
        return summed

    def due_at(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """When rows are due, in microseconds behind the first."""
        due = (numbers * self.period).astype(np.int64)
        return due + due // self.active * self.pause if self.active else due

    def made(self, partition: int, first: int, rows: int) -> pa.RecordBatch:
        """Some rows."""
        numbers = np.arange(first, first + rows, dtype=np.int64)
        columns = {
            "at": lambda: pa.array(self._times(partition, numbers), pa.timestamp("us")),
            "key": lambda: self._keys(partition, numbers),
            "number": lambda: pa.array(numbers),
            "value": lambda: pa.array(np.round(self._shares_of("value", partition, numbers) * 100, 2)),
        }
        return pa.RecordBatch.from_arrays([columns[name]() for name in self.schema.names], schema=self.schema)

    def _times(self, partition: int, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        times = self.due_at(numbers) + self.start
        if self.disorder:
            behind = (self._shares_of("behind", partition, numbers) * (self.disorder + 1)).astype(np.int64)
            times -= np.where(self._shares_of("disordered", partition, numbers) < self.disordered, behind, 0)
        return times

    def _keys(self, partition: int, numbers: npt.NDArray[np.int64]) -> pa.Array:
        at = np.searchsorted(self.shares, self._shares_of("key", partition, numbers), side="right")
        names = pa.array([f"k{number}" for number in range(self.keys)], pa.large_string())
        return names.take(pa.array(np.minimum(at, self.keys - 1)))

    def _shares_of(
        self, draw: str, partition: int, numbers: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """A number from 0 to below 1 for each row, another for every draw."""
        stream = np.array([self.seed, partition, _DRAWS[draw]], dtype=np.uint64)
        key = np.uint64(0)
        for word in stream:
            key = _mixed(np.array([key ^ word]))[0]
        return (_mixed(numbers.astype(np.uint64) ^ key) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mixed(words: _Words) -> _Words:
    """SplitMix64's step and finaliser."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class _MadeReader(Sleeper):
    def __init__(self, source: MadeSource, partition: int, number: int) -> None:
        self._source = source
        self._partition = partition
        self._number = number
        self._pace = Pace(source.clock, speed=1.0) if source.paced else None

    @property
    def ended(self) -> bool:
        return self._source.rows is not None and self._number >= self._source.rows

    def read(self, max_rows: int) -> Rows | None:
        rows = min(max_rows, _CHUNK)
        if self._source.rows is not None:
            rows = min(rows, self._source.rows - self._number)
        if rows > 0 and self._pace is not None:
            times = self._source.due_at(np.arange(self._number, self._number + rows, dtype=np.int64))
            rows = self._pace.due(times)
            if not rows:
                self._woken(self._pace.seconds_to(int(times[0])))
        if rows <= 0:
            return None
        batch = self._source.made(self._partition, self._number, rows)
        self._number += rows
        return Rows(batch, self._number)

    def close(self) -> None: ...


def _microseconds(moment: Any) -> int:
    if not isinstance(moment, date):
        raise InvalidInput(f"synthetic.source: start={moment!r:.80} is no date and no datetime")
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since: timedelta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(microseconds=1)
