"""A topic as a Polars lazy frame: projection, filters and limits reach down to the batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.casting import holds_arrays
from mamba_stream.core.durations import ticks_per_day
from mamba_stream.core.schemas import polars_schema
from mamba_stream.core.single import twice, written_out
from mamba_stream.core.timebounds import time_bounds
from mamba_stream.errors import ExpressionRefused, OffsetTrimmed
from mamba_stream.log.rows import TopicRow
from mamba_stream.log.seeking import first_reaching
from mamba_stream.log.shelf import Placed, Shelf

_LOOKED_UP = 1024
_DAY_US = 86_400_000_000
_FRAME_ROWS = 1 << 20
"""Batches are handed over in frames of about so many rows: every hand-over costs a fixed time."""


Batches = Callable[
    [list[str] | None, int | None, int | None, pl.Expr | None],
    tuple[Iterator[pa.RecordBatch], pl.Expr | None],
]
"""The rows as they are now: of these columns (all without), without batches that have no row between these ticks, and
perhaps without rows that the filter rules out; and what of the filter is left to apply."""


def scan(shelf: Callable[[], Shelf], topic: TopicRow, schema: pa.Schema) -> pl.LazyFrame:
    """The topic as a lazy frame; its ends are taken when it is collected."""

    def batches(
        names: list[str] | None, low: int | None, high: int | None, predicate: pl.Expr | None
    ) -> tuple[Iterator[pa.RecordBatch], pl.Expr | None]:
        wanted = None if names is None else tuple(schema.get_field_index(name) for name in names)
        return _batches(shelf(), topic, wanted, low, high), predicate

    return lazy_frame(topic, schema, batches)


def lazy_frame(topic: TopicRow, schema: pa.Schema, batches: Batches) -> pl.LazyFrame:
    """A lazy frame of what these batches are when it is collected."""

    def frames(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        # batch_size is a hint, and a small one: frames that only point into files may be larger.
        projected = (
            schema if with_columns is None else pa.schema([schema.field(name) for name in with_columns])
        )
        if n_rows is None:
            found, left = batches(with_columns, *_tick_bounds(predicate, topic, schema), predicate)
        else:
            # A limit that comes here counts rows before the filter: it is then about the first rows.
            found, left = batches(with_columns, None, None, None)[0], predicate
        gathered: list[pa.RecordBatch] = []
        rows, some = 0, False
        for batch in _limited(found, n_rows):
            gathered.append(batch)
            rows += batch.num_rows
            if rows >= _FRAME_ROWS:
                yield _frame(gathered, projected, left)
                gathered, rows, some = [], 0, True
        if gathered or not some:
            yield _frame(gathered, projected, left)

    return register_io_source(frames, schema=polars_schema(schema), validate_schema=False)


def _limited(batches: Iterator[pa.RecordBatch], n_rows: int | None) -> Iterator[pa.RecordBatch]:
    """The first so many rows; no batch is read that has none of them."""
    if n_rows is None:
        yield from batches
        return
    left = n_rows
    while left > 0 and (batch := next(batches, None)) is not None:
        yield batch.slice(0, left)
        left -= batch.num_rows


def _batches(
    shelf: Shelf, topic: TopicRow, wanted: tuple[int, ...] | None, low: int | None, high: int | None
) -> Iterator[pa.RecordBatch]:
    """The rows as they are now, one partition after the other, without batches that lie outside of the bounds.

    And without those that are trimmed away before they are read.
    """
    for partition, head in shelf.heads(topic).items():
        for placed in _entries(shelf, topic, partition, head.begin, head.end, low, high):
            with contextlib.suppress(OffsetTrimmed):
                yield shelf.batch(topic, partition, placed, wanted).between(head.begin, head.end).data


def _tick_bounds(
    predicate: pl.Expr | None, topic: TopicRow, schema: pa.Schema
) -> tuple[int | None, int | None]:
    """What the filter says about the time column, in its ticks, rounded outwards."""
    if predicate is None or topic.time is None:
        return None, None
    try:
        low, high = time_bounds(predicate, topic.time)
    except ExpressionRefused:
        # A Python function in it, which nobody can look into: every batch is read.
        return None, None
    per_day = ticks_per_day(schema.field(topic.time).type)
    return (
        None if low is None else low * per_day // _DAY_US,
        None if high is None else -(-high * per_day // _DAY_US),
    )


def _entries(
    shelf: Shelf, topic: TopicRow, partition: int, begin: int, end: int, low: int | None, high: int | None
) -> Iterator[Placed]:
    position = begin if low is None else first_reaching(shelf, topic, partition, begin, end, low)
    while position < end:
        found = shelf.entries(topic, partition, position, _LOOKED_UP)
        if not found:
            return
        for placed in found:
            if placed.offset >= end:
                return
            entry = placed.entry
            position = placed.next_offset
            if entry.meets(low, high):
                yield placed


def _frame(batches: list[pa.RecordBatch], schema: pa.Schema, predicate: pl.Expr | None) -> pl.DataFrame:
    # As it lies: joining the batches into one would copy every byte.
    if batches and any(holds_arrays(kind) for kind in schema.types):
        frame = pl.concat([frame_from_batch(batch) for batch in batches], rechunk=False)
    else:
        table = pa.Table.from_batches(batches, schema=schema)
        frame = cast("pl.DataFrame", pl.from_arrow(table, rechunk=False))
    if predicate is None:
        return frame
    # Which rows a filter keeps must not depend on how they were appended.
    if frame.height == 1:
        return twice(frame).filter(predicate).head(1)
    if any(batch.num_rows == 1 for batch in batches):
        frame = written_out(frame)
    return frame.filter(predicate)
