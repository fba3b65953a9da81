"""What is on its way to one topic: rows as they were sent, then columns, then what became of each.

A parcel is filled under the outbox's lock, one row at a time or in whole batches, and turned into columns in bulk
by whoever sends it. What its senders hold (:class:`Sent`) is the parcel and a row of it: a handle costs nothing
until it is asked. Nothing here commits or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Topic
from mamba_stream.messaging.routing import Partitions, Route, partition_rows
from mamba_stream.messaging.schema import MESSAGES, is_message_schema

FIELDS: Final = 9
"""A row lies flat in its parcel as value, kind, key, headers, event_type, time, deliver_at, priority, partition."""

_OF = {field.name: field.type for field in MESSAGES}
_Given = Partitions | int | None


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a message is.

    Attributes:
        topic: The topic.
        partition: Its partition.
        offset: Its offset there.
    """

    topic: str
    partition: int
    offset: int


@dataclass(slots=True, eq=False)
class Piece:
    """What became of some rows of a parcel: they are in the log, or there was an error.

    Attributes:
        start: The first of them.
        stop: One past the last.
        firsts: The first offset of theirs, by partition.
        partitions: The partition of each.
        error: What was wrong, where they were not sent.
        landed: Where all of them are, if they were sent before, and to other partitions.
    """

    start: int
    stop: int
    firsts: dict[int, int] = field(default_factory=dict)
    partitions: Partitions | int = 0
    error: BaseException | None = None
    landed: dict[int, tuple[int, int]] | None = None
    seen: set[int] = field(default_factory=set)
    """Rows whose senders have heard of the error."""
    _offsets: np.ndarray[Any, Any] | None = None

    def counts(self) -> dict[int, int]:
        """How many of them go to each partition."""
        if isinstance(self.partitions, int):
            return {self.partitions: self.stop - self.start}
        used, counts = np.unique(self.partitions, return_counts=True)
        return dict(zip(used.tolist(), counts.tolist(), strict=True))

    def place(self, row: int) -> tuple[int, int]:
        """Partition and offset of a row."""
        if self.landed is not None:
            raise MambaStreamError(
                f"these messages landed when they were first sent, in {self.landed} ({{partition: (first, next)}}); "
                "which is which is not known, as they were routed otherwise then"
            )
        if isinstance(self.partitions, int):
            return self.partitions, self.firsts[self.partitions] + row - self.start
        if self._offsets is None:
            offsets = np.empty(self.stop - self.start, np.int64)
            for partition, first in self.firsts.items():
                mine = np.flatnonzero(self.partitions == partition)
                offsets[mine] = np.arange(first, first + len(mine))
            self._offsets = offsets
        at = row - self.start
        return int(self.partitions[at]), int(self._offsets[at])

    def ranges(self, start: int, stop: int) -> dict[int, tuple[int, int]]:
        """``{partition: (first offset, next offset)}`` of some of its rows."""
        if self.landed is not None:
            return self.landed
        if isinstance(self.partitions, int):
            first = self.place(start)[1]
            return {self.partitions: (first, first + stop - start)}
        self.place(start)
        assert self._offsets is not None
        partitions = self.partitions[start - self.start : stop - self.start]
        offsets = self._offsets[start - self.start : stop - self.start]
        found = {}
        for partition in np.unique(partitions).tolist():
            mine = offsets[partitions == partition]
            found[partition] = (int(mine[0]), int(mine[-1]) + 1)
        return found


class Home(Protocol):
    """Where a parcel is waited for: its outbox."""

    def wait(self, parcel: Parcel, row: int, timeout: float | None) -> None: ...
    def listen(self, parcel: Parcel, row: int, callback: Callable[[], object]) -> bool: ...
    def heard(self, piece: Piece, rows: range) -> None: ...


class Lane:
    """One topic as a sender knows it, and the parcel that is being filled for it."""

    __slots__ = (
        "key",
        "known",
        "messages",
        "name",
        "parcel",
        "partitions",
        "route",
        "topic",
        "turn",
        "unbounded",
    )

    def __init__(self, topic: Topic, turn: int, route: Route | None) -> None:
        self.topic = topic
        self.name = topic.name
        self.partitions = topic.partitions
        self.messages = is_message_schema(topic.schema)
        self.key: tuple[str, ...] = ("key",) if self.messages else topic.key
        self.route = route
        self.turn = turn
        self.parcel: Parcel | None = None
        self.known: set[int] = set()
        """Priorities that are noted for the topic."""
        self.unbounded = False
        """Whether the topic had no bound when that was looked at; commits require that it has none still."""


class Parcel:
    """Rows for one topic that go together, as far as there is room for them."""

    __slots__ = (
        "batch",
        "callbacks",
        "count",
        "home",
        "lane",
        "partitions",
        "pieces",
        "route",
        "rows",
        "segments",
        "settled",
        "size",
        "started",
        "turn",
    )

    def __init__(self, lane: Lane, home: Home | None, started: float, turn: int | None = None) -> None:
        self.lane = lane
        self.home = home
        self.route = lane.route
        self.turn = lane.turn if turn is None else turn
        self.started = started
        self.count = 0
        self.size = 0
        self.rows: list[Any] | None = None
        self.segments: list[list[Any] | tuple[pa.RecordBatch, _Given]] = []
        self.batch: pa.RecordBatch | None = None
        self.partitions: Partitions | int = 0
        self.pieces: list[Piece] = []
        self.settled = 0
        self.callbacks: list[tuple[int, Callable[[], object]]] = []
        lane.turn += 1

    def add(self, row: tuple[Any, ...], size: int) -> int:
        """Adds a message; says which row it is."""
        rows = self.rows
        if rows is None:
            rows = self.rows = []
            self.segments.append(rows)
        rows += row
        self.size += size
        at = self.count
        self.count = at + 1
        return at

    def add_batch(self, batch: pa.RecordBatch, given: _Given, size: int) -> int:
        """Adds rows of the topic's schema; says which is the first."""
        self.rows = None
        self.size += size
        at = self.count
        # A Ctrl-C comes after a call, if at all: counted and there, or neither.
        self.count = at + batch.num_rows
        self.segments.append((batch, given))
        return at

    def build(self) -> None:
        """Turns what was sent into columns, and decides where each row goes."""
        if self.batch is not None:
            return
        # One whose first row was interrupted is empty.
        parts = [_columns(s) if isinstance(s, list) else s for s in self.segments if s]
        batch = parts[0][0] if len(parts) == 1 else pa.concat_batches([part for part, _ in parts])
        given = _given(parts)
        self.partitions = partition_rows(
            batch,
            self.lane.partitions,
            self.turn,
            key=self.lane.key,
            null_is_key=not self.lane.messages,
            route=self.route,
            given=given,
        )
        self.batch = batch
        self.segments = []
        self.rows = None

    def split(self, start: int, stop: int) -> list[tuple[int, pa.RecordBatch]]:
        """Some of its rows by partition, each in the order in which they were sent."""
        assert self.batch is not None
        batch = self.batch.slice(start, stop - start)
        if isinstance(self.partitions, int):
            return [(self.partitions, batch)]
        partitions = self.partitions[start:stop]
        counts = np.bincount(partitions)
        used = np.flatnonzero(counts).tolist()
        if len(used) == 1:
            return [(used[0], batch)]
        ordered = batch.take(pa.array(np.argsort(partitions, kind="stable")))
        parts, at = [], 0
        for partition in used:
            parts.append((partition, ordered.slice(at, int(counts[partition]))))
            at += int(counts[partition])
        return parts

    def settle(self, piece: Piece) -> list[Callable[[], object]]:
        """Notes what became of the next rows; gives what is to be called now."""
        if not isinstance(piece.partitions, int):
            first = piece.partitions[0]
            if (piece.partitions == first).all():
                piece.partitions = int(first)
        self.pieces.append(piece)
        self.settled = piece.stop
        if self.settled == self.count:
            self.batch, self.partitions, self.segments, self.rows = None, 0, [], None
        ready = [callback for row, callback in self.callbacks if row < self.settled]
        self.callbacks = [(row, callback) for row, callback in self.callbacks if row >= self.settled]
        return ready

    def piece_of(self, row: int) -> Piece:
        """What became of a row that is settled."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        return self.pieces[bisect_right([piece.stop for piece in self.pieces], row)]


class Sent:
    """A message that was sent, or is about to be; a future once somebody asks.

    ``await`` gives what :meth:`result` gives.
    """

    __slots__ = ("_parcel", "_row")

    def __init__(self, parcel: Parcel, row: int) -> None:
        self._parcel = parcel
        self._row = row

    def __repr__(self) -> str:
        if not self.done():
            return f"Sent(to {self._parcel.lane.name!r}, under way)"
        error = self._parcel.piece_of(self._row).error
        if error is not None:
            return f"Sent(to {self._parcel.lane.name!r}, not: {error})"
        return f"Sent({self._receipt()})"

    def done(self) -> bool:
        """Whether it is durable, or will never be."""
        return self._parcel.settled > self._row

    def result(self, timeout: float | None = None) -> Receipt:
        """Where the message is, once it is durable there.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            TimeoutError: It is still under way.
            MambaStreamError: It was not sent; the error says why.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._receipt()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why the message was not sent; ``None`` where it was. Waits as :meth:`result` does."""
        parcel, row = self._parcel, self._row
        if parcel.settled <= row:
            _wait(parcel, row, timeout)
        piece = parcel.piece_of(row)
        if piece.error is not None and parcel.home is not None:
            parcel.home.heard(piece, range(row, row + 1))
        return piece.error

    def __await__(self) -> Generator[Any, None, Receipt]:
        yield from _arrival(self._parcel, self._row)
        return self.result()

    def _receipt(self) -> Receipt:
        partition, offset = self._parcel.piece_of(self._row).place(self._row)
        return Receipt(self._parcel.lane.name, partition, offset)


class SentMany:
    """Messages that were sent together, or are about to be."""

    __slots__ = ("_parcel", "_start", "_stop")

    def __init__(self, parcel: Parcel, start: int, stop: int) -> None:
        self._parcel = parcel
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __repr__(self) -> str:
        state = "done" if self.done() else "under way"
        return f"SentMany({len(self)} to {self._parcel.lane.name!r}, {state})"

    def first(self) -> Sent:
        """The first of them."""
        return Sent(self._parcel, self._start)

    def done(self) -> bool:
        """Whether all are durable, or will never be."""
        return self._parcel.settled >= self._stop

    def result(self, timeout: float | None = None) -> dict[int, tuple[int, int]]:
        """``{partition: (first offset, next offset)}`` of these messages, once all are durable.

        Raises:
            TimeoutError: Some are still under way.
            MambaStreamError: Some were not sent; the error says why.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        found: dict[int, tuple[int, int]] = {}
        for piece, start, stop in self._pieces():
            for partition, (first, following) in piece.ranges(start, stop).items():
                found[partition] = (found.get(partition, (first, 0))[0], following)
        return dict(sorted(found.items()))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why some were not sent; ``None`` where all were. Waits as :meth:`result` does."""
        parcel = self._parcel
        if self._start == self._stop:
            return None
        if parcel.settled < self._stop:
            _wait(parcel, self._stop - 1, timeout)
        failed = None
        for piece, start, stop in self._pieces():
            if piece.error is not None:
                if parcel.home is not None:
                    parcel.home.heard(piece, range(start, stop))
                failed = failed or piece.error
        return failed

    def __await__(self) -> Generator[Any, None, dict[int, tuple[int, int]]]:
        if len(self):
            yield from _arrival(self._parcel, self._stop - 1)
        return self.result()

    def _pieces(self) -> list[tuple[Piece, int, int]]:
        return [
            (piece, max(piece.start, self._start), min(piece.stop, self._stop))
            for piece in self._parcel.pieces
            if piece.start < self._stop and piece.stop > self._start
        ]


def _wait(parcel: Parcel, row: int, timeout: float | None) -> None:
    if parcel.home is None:
        raise MambaStreamError("this message is sent when its transaction's block ends: ask then")
    parcel.home.wait(parcel, row, timeout)


def _arrival(parcel: Parcel, row: int) -> Generator[Any, None, None]:
    """Waits on the running event loop."""
    if parcel.settled > row:
        return
    if parcel.home is None:
        _wait(parcel, row, None)
        return
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def wake() -> None:
        if not arrived.done():
            arrived.set_result(None)

    def tell() -> None:
        # A loop that was closed meanwhile has nobody waiting.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(wake)

    if parcel.home.listen(parcel, row, tell):
        yield from arrived


def _columns(rows: list[Any]) -> tuple[pa.RecordBatch, _Given]:
    """Rows of a message topic as columns; what is the same in all of them costs next to nothing."""
    values, kinds, keys, headers, types, times, delivers, priorities, given = (
        rows[at::FIELDS] for at in range(FIELDS)
    )
    count = len(values)
    columns = [
        _some(keys, "key"),
        pa.array(values, _OF["value"]),
        _bytes(kinds),
        _header_maps(headers),
        _event_types(types),
        pa.array(times, pa.int64()).view(_OF["time"]),
        pa.nulls(count, _OF["deliver_at"])
        if delivers.count(None) == count
        else pa.array(delivers, pa.int64()).view(_OF["deliver_at"]),
        _bytes(priorities),
    ]
    partitions: _Given = None
    if given.count(None) < count:
        partitions = np.array([-1 if p is None else p for p in given], np.int64)
    return pa.RecordBatch.from_arrays(columns, schema=MESSAGES), partitions


def _some(values: list[Any], column: str) -> pa.Array:
    count = len(values)
    return pa.nulls(count, _OF[column]) if values.count(None) == count else pa.array(values, _OF[column])


def _header_maps(headers: list[list[tuple[str, bytes]] | None]) -> pa.Array:
    """From flat lists: Arrow takes eight times as long for lists of pairs."""
    count = len(headers)
    if headers.count(None) == count:
        return pa.nulls(count, _OF["headers"])
    pairs = [pair for of in headers if of for pair in of]
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum([len(of) if of else 0 for of in headers], out=offsets[1:])
    names = pa.array([name for name, _ in pairs], pa.large_string())
    values = pa.array([value for _, value in pairs], pa.large_binary())
    found = pa.MapArray.from_arrays(offsets, names, values)
    return found if found.type == _OF["headers"] else found.cast(_OF["headers"])


def _bytes(values: list[int]) -> pa.Array:
    return pa.Array.from_buffers(pa.uint8(), len(values), [None, pa.py_buffer(bytes(values))])


def _event_types(values: list[str | None]) -> pa.Array:
    count = len(values)
    if values.count(values[0]) < count:
        return pa.array(values, _OF["event_type"])
    if values[0] is None:
        return pa.nulls(count, _OF["event_type"])
    return pa.repeat(pa.scalar(values[0], _OF["event_type"]), count)


def _given(parts: Sequence[tuple[pa.RecordBatch, _Given]]) -> Partitions | None:
    if all(given is None for _, given in parts):
        return None
    return np.concatenate(
        [
            given
            if isinstance(given, np.ndarray)
            else np.full(batch.num_rows, -1 if given is None else given)
            for batch, given in parts
        ]
    ).astype(np.int64, copy=False)
