"""Rows over which a step raises: shown, where that ends the job; else left out, counted, and kept as dead letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from mamba_stream.core.clock import Clock
from mamba_stream.core.deadletters import Death, dead_rows, dead_schema
from mamba_stream.log import Log, Topic
from mamba_stream.log.evolving import grown
from mamba_stream.operators.columns import OFFSET, ORIGIN, PARTITION, SOURCE, visible
from mamba_stream.operators.failures import ProcessDied
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.refusing import first_line
from mamba_stream.runtime.places import line_of

Policy = Literal["fail", "skip", "dead_letter"]

_SHOWN: Final = 3
_LONGEST: Final = 300
_NEAR: Final = 4_096
"""Rows of a partition that lie no further apart are read together."""
_NOWHERE: Final = -1
_Cause = tuple[str, int]
"""Why a row was left out, and after how many attempts."""
ROW: Final = "row"
"""The column of dead letters that are no topic's rows: the row as JSON."""


class Fault(msgspec.Struct, frozen=True):
    """Rows over which a step raises.

    Attributes:
        step: The step in words.
        error: What it raised.
        rows: The rows, with the columns of ORIGIN where it is known where they are from.
        what: What they are together, in words, where there is more to say than that they are rows.
    """

    step: str
    error: BaseException
    rows: pl.DataFrame
    what: str = ""

    @property
    def attempts(self) -> int:
        """How often the step was tried with them."""
        return self.error.deaths if isinstance(self.error, ProcessDied) else 1


class Faults:
    """What was left out between two commits, and how much since the job began."""

    def __init__(self, policy: Policy) -> None:
        self.policy: Final = policy
        self.counts: dict[str, int] = {}
        self._waiting: list[Fault] = []

    @property
    def rows(self) -> int:
        """How many rows were left out since the job began."""
        return sum(self.counts.values())

    @property
    def waiting(self) -> bool:
        """Whether there are dead letters to write."""
        return bool(self._waiting)

    def note(self, fault: Fault) -> None:
        """Rows are left out."""
        self.counts[fault.step] = self.counts.get(fault.step, 0) + fault.rows.height
        if self.policy == "dead_letter":
            self._waiting.append(fault)

    def take(self) -> list[Fault]:
        """What was left out since the last time."""
        found, self._waiting = self._waiting, []
        return found


def in_words(fault: Fault) -> str:
    """What was raised, where, in a line."""
    over, where = fault.what and f" over {fault.what}", line_of(fault.error)
    raised = f"{type(fault.error).__name__}: {first_line(fault.error)}"
    return f"{fault.step}{over}: {raised}" + (f" ({where})" if where else "")


def shown(rows: pl.DataFrame, place: Callable[[tuple[int, ...]], str]) -> str:
    """A few rows, each with where it is from, where that is known; for a message.

    Args:
        rows: The rows.
        place: Where a row of this source, partition and offset is from, in words.
    """
    known = set(ORIGIN) <= set(rows.columns)
    origins = rows.head(_SHOWN).select(SOURCE, PARTITION, OFFSET).rows() if known else [()] * _SHOWN
    lines = []
    for origin, row in zip(origins, visible(rows).head(_SHOWN).iter_rows(named=True), strict=False):
        text = repr(row)
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
        lines.append(f"  {place(origin)}{text}" if origin else f"  {text}")
    if rows.height > _SHOWN:
        lines.append(f"  and {rows.height - _SHOWN:,} more")
    return "\n".join(lines)


class DeadLetters:
    """Where a job's dead letters go: a topic for those of every topic that it reads, as messages have them.

    With one topic to read it is called ``<job>.dead``, with several ``<job>.<topic>.dead``. Rows that no topic has,
    since a frame or a step made them, go to ``<job>.made.dead`` as JSON.
    """

    def __init__(
        self, job: str, log: Log, analysis: Analysis, topics: Mapping[str, Topic], clock: Clock
    ) -> None:
        self._job = job
        self._log = log
        self._clock = clock
        self._origins = {
            analysis.numbers[node]: topics[node.topic]
            for node in analysis.sources
            if isinstance(node, n.TopicSource)
        }
        alone = len({topic.name for topic in self._origins.values()}) == 1
        self._names = {
            topic.name: f"{job}.dead" if alone else f"{job}.{topic.name}.dead"
            for topic in self._origins.values()
        }
        self._made = f"{job}.made.dead"

    def make(self) -> list[str]:
        """Creates the topics where they are missing; their names.

        Raises:
            AlreadyExists: There is a topic of such a name with other columns.
        """
        for topic in self._origins.values():
            grown(self._log, self._names[topic.name], dead_schema(topic.schema), topic.time)
        return list(self._names.values())

    def of(self, faults: Sequence[Fault]) -> list[tuple[str, pa.RecordBatch]]:
        """What was left out as rows of these topics: a row of a topic once, however many steps raise over it."""
        found: list[tuple[str, pa.RecordBatch]] = []
        causes: dict[tuple[str, int], dict[int, _Cause]] = {}
        for fault in faults:
            cause = in_words(fault), fault.attempts
            made = self._noted(fault.rows, cause, causes)
            if made.height:
                found.append((self._made, self._as_json(visible(made), cause)))
        topics = {topic.name: topic for topic in self._origins.values()}
        for (name, partition), of in causes.items():
            found += self._letters(topics[name], partition, of)
        return found

    def _noted(
        self, rows: pl.DataFrame, cause: _Cause, causes: dict[tuple[str, int], dict[int, _Cause]]
    ) -> pl.DataFrame:
        """Notes the cause for each row that is a topic's, by topic, partition and offset; gives the others."""
        if not set(ORIGIN) <= set(rows.columns):
            return rows
        # Without queries: there may be as many faults as rows, and each has a row.
        places = zip(*(rows.get_column(name).to_list() for name in (SOURCE, PARTITION, OFFSET)), strict=True)
        others = []
        for number, (source, partition, offset) in enumerate(places):
            topic = self._origins.get(source)
            if topic is None:
                others.append(number)
            else:
                causes.setdefault((topic.name, partition), {}).setdefault(offset, cause)
        return rows[others] if others else rows.clear()

    def _letters(
        self, topic: Topic, partition: int, causes: Mapping[int, _Cause]
    ) -> list[tuple[str, pa.RecordBatch]]:
        """The rows at these offsets as the topic has them, with all their columns, read once more."""
        found = []
        offsets = np.array(sorted(causes), np.int64)
        runs = np.split(offsets, np.flatnonzero(np.diff(offsets) > _NEAR) + 1)
        for run in runs:
            first, last = int(run[0]), int(run[-1])
            for batch in topic.read(
                start={partition: first}, end={partition: last + 1}, partitions=[partition]
            ):
                at = np.flatnonzero(np.isin(batch.offsets, run))
                if len(at):
                    deaths = [_death(offset, causes[offset]) for offset in batch.offsets[at].tolist()]
                    rows = batch.data.take(pa.array(at))
                    found.append((self._names[topic.name], self._dead(rows, deaths, topic.name, partition)))
        return found

    def _as_json(self, rows: pl.DataFrame, cause: _Cause) -> pa.RecordBatch:
        text = rows.select(pl.struct(pl.all()).struct.json_encode().alias(ROW))
        [batch] = text.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks().to_batches()
        self._log.create_topic(self._made, dead_schema(batch.schema), exist_ok=True)
        return self._dead(batch, [_death(_NOWHERE, cause)] * rows.height, f"{self._job}.made", 0)

    def _dead(self, rows: pa.RecordBatch, deaths: list[Death], topic: str, partition: int) -> pa.RecordBatch:
        return dead_rows(
            rows,
            deaths,
            topic=topic,
            partition=partition,
            group=f"job.{self._job}",
            now=self._clock.now(),
        )


def _death(offset: int, cause: _Cause) -> Death:
    return Death(offset, cause[1], cause[0])
