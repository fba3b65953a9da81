"""What a connector is: everything that one has to have, on this page.

A **source** has partitions; a reader gives one partition's rows from a position on. A **sink** gives a writer that
takes rows. That is all that is asked for; what a source or sink can do beyond it are *powers*, protocols of their own
that the engine looks for::

    Source ── partitions() ──> names          Sink ── open() ──> Writer: write, flush
       └──── open(partition, position)        TransactionalSink ── begin() ──> TransactionalWriter:
                └──> Reader: read, ended                                       write, prepare, commit, abort

    powers:   Projecting (Source)     reads only the columns that are needed
              Ending (Source)         can say what there is now, and end there
              Acknowledging (Reader)  tells upstream what is done
              Finishing (Reader)      knows whether what ended where it ends now has ended for good
              Waking (Reader)         says when it has something, and is not asked before
              Rolling (writers)       wants to commit, though no rows came
              Emptying (writers)      can remove what it wrote, for a job that starts over

Rows travel as Arrow batches of the source's or stream's schema, in canonical types
(:mod:`mamba_stream.core.schemas`); :func:`mamba_stream.core.batches.to_batches` makes them of whatever you have.

**What the engine does with a source.** It opens every partition at the position that its last checkpoint holds, or at
``None``. It reads, works, and commits rows, state and positions in one transaction. So a reader remembers nothing: a
process that is killed anywhere opens it again at the position of the last checkpoint, and must be given *exactly the
rows that follow it, in the same order*, however they are cut into batches. A source that can do that gives every row
exactly once.

**What the engine does with a sink.** A writer takes the rows between two checkpoints. If it is a plain one,
it is flushed before the checkpoint: after a crash they come again, and every row arrives at least once. A
transactional one goes in two steps::

    write … write  prepare(epoch)          durable now, but nobody can see it; returns a small value
                   [the log's commit]      rows read, state, and that value: this decides
                   commit(epoch, value)    everybody can see it
    a crash before the log's commit:       abort(last epoch that was committed)
    a crash behind it:                     commit(epoch, value) again, then abort(epoch)

Test a connector by inheriting :class:`mamba_stream.testing.sources.SourceContract`,
:class:`mamba_stream.testing.sinks.SinkContract` or :class:`mamba_stream.testing.sinks.TransactionalSinkContract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import pyarrow as pa

Position = Any
"""Where a reader is: ``None``, bool, int, float, str, bytes, and lists and dicts of them, as msgpack stores it.

It is written at every checkpoint, so it is small (a few KB); only the source that gave it understands it.
"""
Prepared = Any
"""What a transactional writer prepared: of the same kinds as a position, and as small."""
Delivery = Literal["exactly-once", "at-least-once", "at-most-once"]
"""What a row can rely on, whatever crashes: it arrives, once, or perhaps again, or perhaps not at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of one partition.

    Attributes:
        batch: The rows, of exactly the source's schema.
        position: Where to read on behind the last of them.
    """

    batch: pa.RecordBatch
    position: Position


class Reader(Protocol):
    """One partition, being read. Used by one thread."""

    @property
    def ended(self) -> bool:
        """Whether the partition is over: :meth:`read` will never give rows again."""
        ...

    def read(self, max_rows: int) -> Rows | None:
        """The rows that come next, at least one and at most ``max_rows``; ``None`` where there are none now.

        It does not wait: what has to be waited for is fetched by a thread of the reader's own, or polled.

        Raises:
            ConnectorFailed: The outside system failed, or does not hold what was read from it before.
        """
        ...

    def close(self) -> None:
        """Lets go of files and connections; called once, last."""
        ...


class Source(Protocol):
    """Where rows come from: a description that opens nothing until it is asked to, and can be asked repeatedly."""

    @property
    def name(self) -> str:
        """What messages and the job's progress call it; the same in every process that builds the pipeline."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """The columns, in canonical types. Known before anything runs, so that mistakes are found at once."""
        ...

    @property
    def bounded(self) -> bool:
        """Whether it comes to an end by itself; a run whose sources all do goes to their ends."""
        ...

    @property
    def delivery(self) -> Delivery:
        """What a row that it holds can rely on."""
        ...

    def partitions(self) -> Sequence[str]:
        """The names of the partitions there are now, in any order.

        Asked again while a run follows: new ones may have come. One that is not named any more is read on all the same.
        """
        ...

    def open(self, partition: str, position: Position) -> Reader:
        """A reader of one partition, from a position that another reader gave; ``None`` is the beginning.

        Raises:
            ConnectorFailed: It is not there, or what lies before the position is not what was read.
        """
        ...


@runtime_checkable
class Projecting(Protocol):
    """A source that need not read all columns."""

    def select(self, columns: Sequence[str]) -> Source:
        """The same source with only these columns, in this order. Positions are the same."""
        ...


@runtime_checkable
class Ending(Protocol):
    """An unbounded source that can say what it holds now."""

    def as_of_now(self) -> Source:
        """The same source, which ends where it ends now. Positions are the same."""
        ...


@runtime_checkable
class Acknowledging(Protocol):
    """A reader whose upstream wants to know what is done with."""

    def acknowledge(self, position: Position) -> None:
        """Everything before this position is in a durable checkpoint: it will not be asked for again."""
        ...


class Wake(Protocol):
    """What a reader calls when there may be something to read: from any thread, at any time, as often as it likes."""

    def __call__(self, after: float = 0.0) -> None:
        """Has the reader asked again, ``after`` so many seconds by the run's clock; the soonest call counts."""
        ...


@runtime_checkable
class Finishing(Protocol):
    """A reader of one of several partitions, of a source as of now, which may be over though the source is not.

    Time does not wait for a partition that is over. Of one that only has nothing more now, it does.
    """

    @property
    def finished(self) -> bool:
        """Whether the partition will never have rows again, in later runs neither."""
        ...


@runtime_checkable
class Waking(Protocol):
    """A reader that says when it has something, so that it need not be asked again and again.

    Once it had nothing, it is asked again when it called, and not before. So it calls for whatever came (rows, an error
    that :meth:`Reader.read` should raise, the end) since its last ``read`` began.
    """

    def wake_by(self, wake: Wake) -> None:
        """Hands over what to call. Called once, before anything is read."""
        ...


class Writer(Protocol):
    """Takes rows to a plain sink. Used by one thread."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows; they may wait in memory. Blocks while the outside is slow, which slows the source down.

        Raises:
            ConnectorFailed: The outside refused them.
        """
        ...

    def flush(self) -> None:
        """Returns when everything that was written is safe outside.

        Raises:
            ConnectorFailed: It is not.
        """
        ...

    def close(self) -> None:
        """Lets go of files and connections; what was not flushed may be lost."""
        ...


class Sink(Protocol):
    """Where rows go, at least once. It may have ``accepts_changes = True``: see :func:`accepts_changes`."""

    @property
    def name(self) -> str:
        """What messages and the job's progress call it."""
        ...

    @property
    def delivery(self) -> Delivery:
        """What a row can rely on: ``at-least-once``, or ``exactly-once`` where writing a row again changes nothing."""
        ...

    def open(self, schema: pa.Schema, owner: str) -> Writer:
        """A writer for rows of this schema.

        Args:
            schema: Their columns, in canonical types.
            owner: Job and output, such as ``hourly-delays.out``: who writes. The same after a restart, and
                somebody else's is different. Letters, digits, dots, underscores and hyphens.

        Raises:
            InvalidInput: Such rows cannot go there.
            ConnectorFailed: The outside cannot be reached.
        """
        ...


class TransactionalWriter(Protocol):
    """Takes rows to a transactional sink. Used by one thread.

    Epochs are numbers that grow with every checkpoint, also across restarts, and are never used twice by an owner.
    """

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows of the next epoch."""
        ...

    def prepare(self, epoch: int, *, last: bool) -> Prepared:
        """Makes what was written since the last time durable, so that :meth:`commit` cannot fail for lack of it.

        Args:
            epoch: The checkpoint that is being made.
            last: The run ends with it: what was held back (to make larger files, say) should come out too.

        Returns:
            All that :meth:`commit` has to know, in this process or another; ``None`` if there is nothing to commit.
        """
        ...

    def commit(self, epoch: int, prepared: Prepared) -> None:
        """Shows what was prepared. Called once or more often, in this process or a later one, to the same effect."""
        ...

    def abort(self, epoch: int) -> None:
        """Throws away whatever the owner wrote or prepared for later epochs than this one. Also repeatedly."""
        ...

    def close(self) -> None:
        """Lets go of files and connections; what was not prepared is lost."""
        ...


@runtime_checkable
class TransactionalSink(Protocol):
    """Where rows go, exactly once. It may have ``accepts_changes = True``: see :func:`accepts_changes`."""

    @property
    def name(self) -> str:
        """What messages and the job's progress call it."""
        ...

    @property
    def delivery(self) -> Delivery:
        """What a row can rely on."""
        ...

    def begin(self, schema: pa.Schema, owner: str) -> TransactionalWriter:
        """A writer for rows of this schema; arguments and errors as for :meth:`Sink.open`."""
        ...


@runtime_checkable
class Rolling(Protocol):
    """A writer that at times wants a checkpoint though no rows came, to put out what it held back."""

    @property
    def due(self) -> bool:
        """Whether it does now."""
        ...


@runtime_checkable
class Emptying(Protocol):
    """A writer that can remove what its owner wrote, as ``state="new"`` does with topics."""

    def empty(self) -> None:
        """Removes all that the owner ever wrote there, and nothing else."""
        ...


AnySink = Sink | TransactionalSink


def is_source(value: object) -> TypeGuard[Source]:
    """Whether it has a source's methods; asks none of its properties, which may have to look something up."""
    return all(callable(getattr(type(value), method, None)) for method in ("partitions", "open"))


def is_sink(value: object) -> TypeGuard[AnySink]:
    """Whether it has a sink's methods."""
    kind = type(value)
    plain = callable(getattr(kind, "open", None)) and hasattr(value, "delivery")
    return not is_source(value) and (plain or callable(getattr(kind, "begin", None)))


def accepts_changes(sink: AnySink) -> bool:
    """Whether a changelog may go there: the sink understands the column ``_op`` (``+I -U +U -D``)."""
    return bool(getattr(sink, "accepts_changes", False))
