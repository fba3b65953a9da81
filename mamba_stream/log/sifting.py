"""Reads with a predicate: of each batch only the rows that it keeps are given, or sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Self

import polars as pl
import pyarrow as pa

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.predicates import Predicate, Question, check
from mamba_stream.core.schemas import polars_schema
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.skipping import Skipped
from mamba_stream.log.storage import Reader

_LOOKED_AT: Final = 4_096
"""Rows of a poll at least: to ask one batch of a few rows costs as much as to ask many."""


class Sieve:
    """Keeps the rows of batches for which a predicate is true.

    Args:
        question: The predicate, checked against the topic's columns.
        schema: The columns that are wanted of the rows.
    """

    def __init__(self, question: Question, schema: pa.Schema) -> None:
        self._question = question
        self._names = schema.names
        # A name that no column has that is looked at.
        self._row = "row" + "_" * max((len(name) for name in question.columns), default=0)

    @classmethod
    def of(cls, predicate: Predicate, schema: pa.Schema, wanted: tuple[int, ...] | None) -> Self:
        """That of a predicate over a topic's columns, of which these, by number, are wanted.

        Raises:
            InvalidInput: It cannot be asked of them.
        """
        projected = schema if wanted is None else pa.schema([schema.field(number) for number in wanted])
        return cls(check(predicate, polars_schema(schema)), projected)

    def reads(self, schema: pa.Schema, wanted: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """The numbers of the columns to read, of which these are wanted."""
        if wanted is None:
            return None
        asked = [schema.get_field_index(name) for name in self._question.columns]
        return tuple(dict.fromkeys([*wanted, *asked]))

    def sifted(self, batches: list[LogBatch]) -> list[LogBatch]:
        """The batches with the rows that are kept, and with the wanted columns; they cover the same offsets."""
        return [self._kept(batch) for batch in batches]

    def _kept(self, batch: LogBatch) -> LogBatch:
        data = batch.data
        looked_at = data.select(list(self._question.columns))
        frame = frame_from_batch(looked_at) if looked_at.num_columns else pl.DataFrame(height=data.num_rows)
        kept = self._question.kept(frame.with_row_index(self._row))
        wanted = data.select(self._names)
        if kept.height == data.num_rows:
            return replace(batch, data=wanted)
        rows = kept.get_column(self._row)
        return replace(batch, data=wanted.take(rows.to_arrow()), kept=batch.offsets[rows.to_numpy()])


class SiftedReader:
    """A reader that gives only the rows that a sieve keeps."""

    def __init__(self, reader: Reader, sieve: Sieve) -> None:
        self._reader = reader
        self._sieve = sieve

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._reader.topic

    @property
    def positions(self) -> dict[int, int]:
        """The next offset to read, by partition."""
        return self._reader.positions

    @property
    def at_end(self) -> bool:
        """Whether every partition is read to its end."""
        return self._reader.at_end

    @property
    def exhausted(self) -> bool:
        """Whether nothing can come any more."""
        return self._reader.exhausted

    @property
    def skipped(self) -> Skipped:
        """What was damaged or lost, and passed over, whatever was asked of its rows."""
        return self._reader.skipped

    def poll(self, *, max_rows: int = 65_536, max_bytes: int | None = None) -> list[LogBatch]:
        """The rows that come next, of at least so many that are looked at; none at the end."""
        looked_at = max(max_rows, _LOOKED_AT)
        while batches := self._reader.poll(max_rows=looked_at, max_bytes=max_bytes):
            kept = [batch for batch in self._sieve.sifted(batches) if batch.data.num_rows]
            if kept:
                return kept
        return []

    def seek(self, positions: Mapping[int, int]) -> None:
        """Goes on from these offsets."""
        self._reader.seek(positions)

    def close(self) -> None:
        """Lets go of what was looked up ahead."""
        self._reader.close()
