"""What Python iterates over, as a source: rows one by one, or frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
import pyarrow as pa

from mamba_connectors.waking import Sleeper
from mamba_stream.connect import Delivery, Position, Reader, Rows
from mamba_stream.core.batches import to_batches
from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.errors import ConnectorFailed, InvalidInput

_PARTITION: Final = "all"
_LINGER: Final = 0.02
"""Seconds to gather single rows for: a generator that is slow gives what it has."""


def source(
    rows: Any,
    *,
    schema: Any = None,
    bounded: bool = True,
    wakes: bool = False,
    name: str | None = None,
    clock: Clock | None = None,
) -> IterableSource:
    """Whatever can be iterated over.

    A function, a list or another container is iterated over again after a restart, and as many rows are passed over as
    were read: exactly once, if the same come again. An iterator that has begun cannot be: its rows come at most once.

    Args:
        rows: What can be iterated over, or a function that returns it, such as a generator function. It gives dicts, or
            frames, tables and batches; and ``None`` to say that there is nothing now. While it waits, the run does.
        schema: The columns and their types; may be left out for a list of dicts or of frames.
        bounded: Whether it comes to an end, so that a run goes to it.
        wakes: The function is called with a function ``wake``, and what it returned is not asked again after ``None``
            until that is called: ``wake()`` when there is something, from any thread, or ``wake(2.0)`` in two seconds.
        name: What progress and messages call it.
        clock: Tells how long rows were gathered.

    Raises:
        InvalidInput: It cannot be iterated over, or nothing says what the columns are.
    """
    again: Callable[..., Iterable[Any]]
    if wakes and not callable(rows):
        raise InvalidInput(
            f"python.source: wakes=True is for a function, which is given what to call; not for {type(rows).__name__}"
        )
    if callable(rows):
        again, called, repeatable = rows, getattr(rows, "__name__", "function"), True
    elif isinstance(rows, Iterable) and not isinstance(rows, str | bytes | Mapping):
        once: Iterable[Any] = rows
        again, called, repeatable = (lambda: once), type(rows).__name__, not isinstance(rows, Iterator)
    else:
        raise InvalidInput(
            f"python.source takes an iterable or a function that returns one, not {rows!r:.80}"
        )
    return IterableSource(
        name=name or f"python {called}",
        schema=canonical_schema(schema) if schema is not None else _schema_in(rows),
        bounded=bounded,
        delivery="exactly-once" if repeatable else "at-most-once",
        rows=again,
        wakes=wakes,
        clock=clock or SystemClock(),
    )


def positioned(
    read: Callable[..., Iterable[tuple[Any, Any] | None]],
    *,
    schema: Any,
    bounded: bool = False,
    wakes: bool = False,
    name: str | None = None,
) -> PositionedSource:
    """A function that goes on where it is told, as a source: exactly once, without reading anything twice.

    Args:
        read: Called with the position behind the last rows that were committed, or ``None``; yields pairs of rows (a
            frame, or a list of dicts) and the position behind them, a small value as msgpack stores it; or ``None``
            for nothing now.
        schema: The columns and their types.
        bounded: Whether it comes to an end, so that a run goes to it.
        wakes: It is called with a position and a function ``wake``, as for :func:`source`.
        name: What progress and messages call it.
    """
    if not callable(read):
        raise InvalidInput(f"python.positioned takes a function of a position, not {read!r:.80}")
    called = name or f"python {getattr(read, '__name__', 'function')}"
    return PositionedSource(called, canonical_schema(schema), bounded, wakes, read)


def _schema_in(rows: Any) -> pa.Schema:
    first = next(iter(rows), None) if isinstance(rows, Sequence) else None
    if isinstance(first, Mapping):
        return canonical_schema(pl.from_dicts(list(rows), infer_schema_length=None))
    if first is None:
        raise InvalidInput("python.source calls nothing before it runs, so it has to be told: pass schema=")
    return canonical_schema(first)


@dataclass(frozen=True, eq=False)
class IterableSource:
    """What :func:`source` makes."""

    name: str
    schema: pa.Schema
    bounded: bool
    delivery: Delivery
    rows: Callable[..., Iterable[Any]] = field(repr=False)
    wakes: bool
    clock: Clock = field(repr=False)

    def partitions(self) -> Sequence[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader; a position is how many rows came before it."""
        if position and self.delivery != "exactly-once":
            position = 0  # what it gave is gone, and what it gives next comes next
        return (_WakingIterableReader if self.wakes else _IterableReader)(self, position or 0)


class _IterableReader:
    def __init__(self, source: IterableSource, passed: int) -> None:
        self._source = source
        self._rows = self._begun(source)
        self._left: list[pa.RecordBatch] = []
        self._behind = passed
        self._count = passed
        self._over = False
        while self._behind and not self._over:
            self._fetch(1 << 16)
        if self._behind:
            raise ConnectorFailed(
                f"{source.name} gave {passed} rows before, and ends after {passed - self._behind} now: what a source "
                "is made of must be the same after a restart; run with state='new' to begin anew"
            )

    def _begun(self, source: IterableSource) -> Iterator[Any]:
        return iter(source.rows())

    @property
    def ended(self) -> bool:
        return self._over and not self._left

    def read(self, max_rows: int) -> Rows | None:
        while not self._left and not self._over:
            if not self._fetch(max_rows):
                break
        if not self._left:
            return None
        first = self._left[0]
        taken = first.slice(0, max_rows)
        if taken.num_rows < first.num_rows:
            self._left[0] = first.slice(max_rows)
        else:
            self._left.pop(0)
        self._count += taken.num_rows
        return Rows(taken, self._count)

    def close(self) -> None:
        close = getattr(self._rows, "close", None)
        if callable(close) and self._source.delivery == "exactly-once":
            close()

    def _fetch(self, most: int) -> bool:
        """Gathers rows until there are enough, or a frame, or nothing for now; whether there may be more now."""
        single: list[Any] = []
        begun = self._source.clock.monotonic()
        while len(single) < most:
            try:
                item = next(self._rows)
            except StopIteration:
                self._over = True
                break
            if isinstance(item, Mapping):
                single.append(item)
                if self._source.clock.monotonic() - begun < _LINGER:
                    continue
                break
            self._keep(single)
            if item is None:
                return False
            self._keep(item)
            return True
        self._keep(single)
        return True

    def _keep(self, data: Any) -> None:
        if isinstance(data, list) and not data:
            return
        for batch in to_batches(data, self._source.schema, to=self._source.name):
            skipped = min(self._behind, batch.num_rows)
            self._behind -= skipped
            if skipped < batch.num_rows:
                self._left.append(batch.slice(skipped))


class _WakingIterableReader(Sleeper, _IterableReader):
    def _begun(self, source: IterableSource) -> Iterator[Any]:
        return iter(source.rows(self._woken))


@dataclass(frozen=True, eq=False)
class PositionedSource:
    """What :func:`positioned` makes."""

    name: str
    schema: pa.Schema
    bounded: bool
    wakes: bool
    read: Callable[..., Iterable[tuple[Any, Any] | None]] = field(repr=False)
    delivery: Delivery = "exactly-once"

    def partitions(self) -> Sequence[str]:
        """One."""
        return [_PARTITION]

    def open(self, partition: str, position: Position) -> Reader:
        """A reader; a position is the function's own, and how many rows were taken of those behind it."""
        given, taken = position or (None, 0)
        return (_WakingPositionedReader if self.wakes else _PositionedReader)(self, given, taken)


class _PositionedReader:
    def __init__(self, source: PositionedSource, position: Any, taken: int) -> None:
        self._source = source
        self._rows = self._begun(source, position)
        self._position = position
        self._taken = 0
        self._behind = taken
        self._left: list[pa.RecordBatch] = []
        self._next = position
        self._over = False

    def _begun(self, source: PositionedSource, position: Any) -> Iterator[tuple[Any, Any] | None]:
        return iter(source.read(position))

    @property
    def ended(self) -> bool:
        return self._over and not self._left

    def read(self, max_rows: int) -> Rows | None:
        while not self._left and not self._over:
            if not self._fetch():
                return None
        if not self._left:
            return None
        first = self._left.pop(0)
        taken = first.slice(0, max_rows)
        self._taken += taken.num_rows
        if taken.num_rows < first.num_rows:
            self._left.insert(0, first.slice(max_rows))
        if not self._left:
            self._position, self._taken = self._next, 0
        return Rows(taken, [self._position, self._taken])

    def close(self) -> None:
        close = getattr(self._rows, "close", None)
        if callable(close):
            close()

    def _fetch(self) -> bool:
        """Takes the next pair; whether there may be more behind it now."""
        try:
            item = next(self._rows)
        except StopIteration:
            self._over = True
            return False
        if item is None:
            return False
        data, self._next = item
        batches = to_batches(data, self._source.schema, to=self._source.name) if len(data) else []
        for batch in batches:
            skipped = min(self._behind, batch.num_rows)
            self._behind -= skipped
            self._taken += skipped
            if skipped < batch.num_rows:
                self._left.append(batch.slice(skipped))
        if not self._left:
            self._position, self._taken = self._next, 0
        return True


class _WakingPositionedReader(Sleeper, _PositionedReader):
    def _begun(self, source: PositionedSource, position: Any) -> Iterator[tuple[Any, Any] | None]:
        return iter(source.read(position, self._woken))
