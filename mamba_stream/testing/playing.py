"""A pipeline under test: a private log, a clock that is moved by hand, and a script of what happens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from msgspec.structs import replace

from mamba_stream.core.names import did_you_mean
from mamba_stream.dsl.opening import Log
from mamba_stream.dsl.pipelines import pipeline as named
from mamba_stream.dsl.streams import Stream
from mamba_stream.dsl.tables import as_table
from mamba_stream.errors import InvalidInput
from mamba_stream.log.store import acquire
from mamba_stream.operators.changes import OP_COLUMN, table_of
from mamba_stream.plan import nodes as n
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.options import run_options
from mamba_stream.runtime.run import Run
from mamba_stream.testing.clocks import Clock
from mamba_stream.testing.scripts import Commit, Crash, End, Event, Rows, Silence
from mamba_stream.testing.tables import table

OUT = "out"
"""The topic of a stream that is played without a pipeline; its late rows are in ``late``."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - a crash of a pipeline under test needs no disk


@dataclass(frozen=True)
class Played:
    """What came of a script.

    Attributes:
        topics: The rows of each output topic, in their order.
        late: How many rows came too late.
        rejected: How many rows had no time, or one too far ahead.
        rows_in: How many rows were read.
    """

    topics: Mapping[str, pl.DataFrame]
    late: int
    rejected: int
    rows_in: int

    def __getitem__(self, topic: str) -> pl.DataFrame:
        """The rows of an output topic; those of a changelog have ``_op``."""
        if topic not in self.topics:
            raise KeyError(
                f"no output {topic!r}{did_you_mean(topic, self.topics)}; there are {', '.join(self.topics)}"
            )
        return self.topics[topic]

    def table(self, topic: str = OUT) -> pl.DataFrame:
        """The table that a changelog amounts to; of other topics the rows."""
        rows = self[topic]
        return table_of(rows) if OP_COLUMN in rows.columns else rows


def play(
    target: Pipeline | Stream,
    script: Sequence[Event],
    *,
    time: str | None = None,
    topics: Mapping[str, Mapping[str, Any]] | None = None,
    clock: Clock | None = None,
    rows: int | None = None,
) -> Played:
    '''Runs a pipeline through a script, in a private log that is gone afterwards. Nothing sleeps.

    Args:
        target: A pipeline; or a stream, whose rows are then in the topic ``out`` and whose late rows in ``late``.
        script: What happens, one after the other.
        time: The time column of topics that neither ``topics`` nor the pipeline says one for.
        topics: How to create topics that are not just made from the first rows that arrive in them: what
            ``log.create_topic`` takes, by name, as ``{"clicks": {"schema": ..., "key": "user", "partitions": 2}}``.
        clock: The clock; a new one if left out.
        rows: How many rows a step takes in at most; small numbers cut what arrives into small batches.

    Returns:
        What came out, committed.

    Raises:
        InvalidInput: The script cannot be played.

    Example:
        >>> import mamba_stream as mamba
        >>> counts = mamba.stream("clicks").window(mamba.tumbling("1m"), by="user").agg(clicks=pl.len())
        >>> arriving = Rows("clicks", """
        ...     ts                  | user
        ...     2024-01-01 10:00:00 | ann
        ...     2024-01-01 10:01:00 | ann""")
        >>> play(counts, [arriving, Crash(), Silence("1m")], time="ts")["out"].get_column("clicks").to_list()
        [1]
    '''
    clock = clock or Clock()
    with private_log(clock) as log:
        player = Player(made_pipeline(target), log, clock, time=time, topics=topics or {}, rows=rows)
        player.prepare(script)
        for event in script:
            player.do(event)
        return player.finish()


def made_pipeline(target: Pipeline | Stream) -> Pipeline:
    """The pipeline itself, or one that puts out a stream's rows and its late ones."""
    if isinstance(target, Pipeline):
        return target
    if not isinstance(target, Stream):
        raise InvalidInput(f"play takes a pipeline or a stream, not {type(target).__name__}")
    outputs = [target.to(OUT)]
    last = target._node  # noqa: SLF001 - whether it can be late
    if isinstance(last, n.Stateful) and last.by_time and len(last.parents) == 1:
        outputs.append(target.late.to("late"))
    return named("under-test", *outputs)


@contextmanager
def private_log(clock: Clock) -> Iterator[Log]:
    """A log that is gone afterwards, in memory where the machine has a place for that."""
    place = tempfile.mkdtemp(prefix="mamba-stream-", dir=_MEMORY if _MEMORY.is_dir() else None)
    try:
        with Log(acquire(Path(place) / "log", clock)) as log:
            yield log
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Player:
    """A pipeline, its log and clock, and the run that is under way, if one is."""

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        clock: Clock,
        *,
        time: str | None,
        topics: Mapping[str, Mapping[str, Any]],
        rows: int | None,
    ) -> None:
        self._pipeline = pipeline
        self._log = log
        self._clock = clock
        self._time = time
        self._topics = topics
        options = run_options(until="stopped", commit="1s", memory=1 << 30)
        self._options = options if rows is None else replace(options, rows=rows)
        self._run: Run | None = None

    def prepare(self, script: Sequence[Event]) -> None:
        """Makes the topics that the pipeline reads."""
        read = {node.topic: node for node in self._pipeline.nodes if isinstance(node, n.TopicSource)}
        named_in = {event.topic for event in script if isinstance(event, Rows | End)} | set(self._topics)
        if unknown := sorted(named_in - set(read)):
            raise InvalidInput(
                f"the script has rows for {unknown[0]!r}{did_you_mean(unknown[0], read)}, which the pipeline does not "
                f"read; it reads {', '.join(read) or 'no topic'}"
            )
        for name, node in read.items():
            given = dict(self._topics.get(name, {}))
            arriving = [event for event in script if isinstance(event, Rows) and event.topic == name]
            if "schema" not in given:
                if not arriving:
                    raise InvalidInput(
                        f"no rows arrive in {name!r}: say topics={{{name!r}: {{'schema': ...}}}}"
                    )
                given["schema"] = frame_of(arriving[0].data, name)
            if (
                not given.get("time")
                and node.time is None
                and self._time in pl.Schema(_columns(given["schema"]))
            ):
                given["time"] = self._time
            most = max((event.partition for event in arriving if event.partition is not None), default=0)
            given.setdefault("partitions", most + 1)
            self._log.create_topic(name, **given)

    def do(self, event: Event) -> None:
        """Lets one thing happen."""
        match event:
            case Rows():
                schema = pl.Schema(self._log[event.topic].polars_schema)
                self._log[event.topic].append(
                    frame_of(event.data, event.topic, schema), partition=event.partition
                )
                self.work()
            case Silence():
                self.work()
                self._clock.advance(event.lasting)
                self.work()
            case Commit():
                self.work()
                self._running().commit("running")
            case Crash():
                self._run = None
            case End():
                self._log[event.topic].end()
                self.work()

    def append(self, topic: str, frame: pl.DataFrame, partition: int | None) -> None:
        """Rows arrive, and nothing works on them yet."""
        self._log[topic].append(frame, partition=partition)

    def step(self, rows: int) -> int:
        """One step with so many rows at most; the number of rows it read."""
        return self._running().step(rows)

    def commit(self) -> None:
        """Commits what was done, whether or not all there is was worked on."""
        self._running().commit("running")

    def work(self) -> None:
        """Works until there is nothing to read."""
        run = self._running()
        while run.step():
            pass

    def finish(self) -> Played:
        """Works on all there is, commits, and looks at what came out."""
        self.work()
        run = self._running()
        run.commit("stopped")
        found = {
            output.topic: self._log[output.topic].scan().collect()
            for output in self._pipeline.topics
            if output.topic in self._log
        }
        return Played(found, run.late, run.rejected, run.rows_in)

    def _running(self) -> Run:
        if self._run is None:
            self._run = Run(self._pipeline, self._log, self._options, self._clock)
        return self._run


def frame_of(data: Any, topic: str, schema: pl.Schema | None = None) -> pl.DataFrame:
    """The rows of an event as a frame."""
    if isinstance(data, str):
        text = table(data, schema)
        return text if schema is None else text.select(schema.names())
    if schema is not None and isinstance(data, list):
        return pl.DataFrame(data, schema=schema, orient="row")
    return as_table(data, what=f"the rows of {topic!r}")


def _columns(schema: Any) -> Any:
    return schema.schema if isinstance(schema, pl.DataFrame) else schema
