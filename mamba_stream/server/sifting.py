"""Reads with a predicate: of each batch only the rows that it keeps are sent."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pyarrow as pa

from mamba_stream.core.batches import frame_from_batch
from mamba_stream.core.predicates import Question
from mamba_stream.log.batch import LogBatch


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

    def reads(self, schema: pa.Schema, wanted: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """The numbers of the columns to read, of which these are wanted."""
        if wanted is None:
            return None
        asked = [schema.get_field_index(name) for name in self._question.columns]
        return tuple(dict.fromkeys([*wanted, *asked]))

    def sifted(self, batches: list[LogBatch]) -> list[LogBatch]:
        """The batches with the rows that are kept, and with the wanted columns; their offsets stay as they are."""
        return [replace(batch, data=self._kept(batch.data)) for batch in batches]

    def _kept(self, data: pa.RecordBatch) -> pa.RecordBatch:
        looked_at = data.select(list(self._question.columns))
        frame = frame_from_batch(looked_at) if looked_at.num_columns else pl.DataFrame(height=data.num_rows)
        kept = self._question.kept(frame.with_row_index(self._row))
        wanted = data.select(self._names)
        if kept.height == data.num_rows:
            return wanted
        return wanted.take(kept.get_column(self._row).to_arrow())
