"""The rows of a stage on their way to the tasks of another: written with a commit, read with how far time came.

An exchange is an internal topic, whose partitions are the tasks that read it. Every commit of a task that writes to it
says in the task's record how far its time has come there. A task that reads takes this over once it has read all
that was visible when it looked: the record came with the rows before it, or after them, and never sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import polars as pl

from mamba_stream.core.schemas import canonical_schema
from mamba_stream.log import Log, Topic
from mamba_stream.operators.columns import BEHIND, OP, OP_TYPE, ORIGIN_TYPES
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.rowstore import picked
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.halves import partials_schema
from mamba_stream.plan.stages import Exchange
from mamba_stream.runtime.feeds import Portion, TopicFeed
from mamba_stream.runtime.watermarks import Mark


class Word(msgspec.Struct, frozen=True):
    """What all tasks that write to an exchange have said together.

    Attributes:
        mark: How far time has come in their rows.
        done: Whether they write no more in this run.
    """

    mark: Mark
    done: bool = False


NOTHING_SAID: Final = Word(Mark(NEVER))


def exchange_topic(job: str, exchange: Exchange) -> str:
    """The topic that holds the rows of an exchange."""
    return f"_exchange.{job}.{exchange.number}"


def exchange_schema(exchange: Exchange, analysis: Analysis) -> pl.Schema:
    """The columns of an exchange's rows: those that later steps need, and hidden ones; or of partial results."""
    if exchange.partials is not None:
        return partials_schema(exchange.partials, analysis)
    shape = analysis.shapes[exchange.node]
    columns = {name: shape.schema[name] for name in analysis.present[exchange.node]}
    if exchange.node in analysis.ordered:
        columns |= ORIGIN_TYPES
    if exchange.node in analysis.timed:
        columns[BEHIND] = pl.Int64()
    if shape.changelog is not None:
        columns[OP] = OP_TYPE
    return pl.Schema(columns)


def as_exchanged(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Rows as they lie in an exchange: with a column for what none of them has, and no others."""
    if BEHIND in schema and BEHIND not in frame.columns:
        frame = frame.with_columns(pl.lit(None, schema[BEHIND]).alias(BEHIND))
    return picked(frame, schema.names())


def make_exchange(log: Log, job: str, exchange: Exchange, analysis: Analysis) -> Topic:
    """The topic of an exchange, made where it is not there."""
    return log.create_topic(
        exchange_topic(job, exchange),
        canonical_schema(exchange_schema(exchange, analysis)),
        partitions=exchange.partitions,
        key=exchange.key or None,
        exist_ok=True,
        internal=True,
    )


class ExchangeFeed(TopicFeed):
    """The partition of an exchange that a task reads."""

    def __init__(
        self, topic: Topic, partition: int, position: int, schema: pl.Schema, words: Callable[[], Word]
    ) -> None:
        """A feed from ``position`` on.

        Args:
            topic: The exchange's topic.
            partition: The partition's number.
            position: The first offset to read.
            schema: What the rows have in the plan.
            words: Gives what those that write have said last; the same object while there is nothing new.
        """
        super().__init__(topic, partition, position, schema.names())
        self._topic = topic
        self._schema = schema
        self._words = words
        self._taken = NOTHING_SAID
        self._heard: Word | None = None
        self._heard_at = 0

    @property
    def mark(self) -> Mark:
        """How far time has come in the rows that were read."""
        return self._taken.mark

    @property
    def done(self) -> bool:
        return self._taken.done

    @property
    def ended(self) -> bool:
        return self._taken.mark.watermark == FOREVER

    def read(self, max_rows: int, max_bytes: int) -> Portion | None:
        if self._heard is None and (word := self._words()) is not self._taken:
            # In this order: the rows that came with the word are before this end.
            self._heard, self._heard_at = word, self._topic.offsets()[self.partition][1]
        portion = super().read(max_rows, max_bytes)
        if self._heard is not None and self.position >= self._heard_at:
            self._taken, self._heard = self._heard, None
        return None if portion is None else self._as_planned(portion)

    def _as_planned(self, portion: Portion) -> Portion:
        frame = portion.frame
        if BEHIND in frame.columns and frame.get_column(BEHIND).null_count() == frame.height:
            frame = frame.drop(BEHIND)
        types = pl.Schema({name: self._schema[name] for name in frame.columns})
        if frame.schema != types:
            frame = frame.cast(types)
        return Portion(frame, portion.offset, portion.next_offset, portion.batches)


class Entrance(msgspec.Struct, eq=False):
    """Where rows of other stages come in: their time was judged where they were read.

    Attributes:
        name: What the exchange is called in the task's progress.
        feed: The partition that is read.
        rows: How many rows have come.
    """

    name: str
    feed: ExchangeFeed
    rows: int = 0

    @property
    def what(self) -> str:
        """The exchange in messages."""
        return f"exchange {self.name}"
