"""The sinks that a pipeline writes to, and their part in every checkpoint.

Rows go to a sink's writer as they come. Before the log's commit a plain writer is flushed, and a transactional one
prepares; what it prepared is stored with the checkpoint, and is committed behind it: at once, or, after a crash, by
the next run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import polars as pl

from mamba_stream.connect import Emptying, Rolling, TransactionalSink, TransactionalWriter, Writer
from mamba_stream.core.batches import batch_from_frame
from mamba_stream.core.schemas import canonical_schema
from mamba_stream.plan import nodes as n
from mamba_stream.plan.refusing import refusing
from mamba_stream.plan.shapes import Shape
from mamba_stream.runtime.blaming import Blaming
from mamba_stream.runtime.progress import SinkProgress


class _Delivery(msgspec.Struct, eq=False):
    """One sink.

    Attributes:
        output: Its node.
        plain: Its writer, of a plain sink.
        transactional: Its writer, of a transactional sink.
        progress: As of the last checkpoint.
        rows: Rows that were given to it since the job began.
    """

    output: n.SinkOutput
    plain: Writer | None
    transactional: TransactionalWriter | None
    progress: SinkProgress
    rows: int

    @property
    def writer(self) -> Writer | TransactionalWriter:
        writer = self.plain or self.transactional
        assert writer is not None
        return writer

    def blaming(self) -> Blaming:
        return Blaming(f"sink {self.output.sink.name!r}", self.output)


class Deliveries:
    """Rows on their way to sinks."""

    def __init__(
        self,
        job: str,
        outputs: Sequence[n.SinkOutput],
        shapes: Mapping[n.Node, Shape],
        saved: Mapping[str, SinkProgress],
    ) -> None:
        """Opens the sinks.

        Raises:
            PipelineRefused: Such rows cannot go there; the message names the user's line.
            ConnectorFailed: A sink cannot be opened.
        """
        self._deliveries: dict[n.SinkOutput, _Delivery] = {}
        self.waiting = False
        """Whether rows were given to a sink since the last commit."""
        for output in outputs:
            progress = saved.get(output.name, SinkProgress(0, None, 0))
            with refusing(output):
                plain, transactional = _opened(output, shapes[output], f"{job}.{output.name}")
            self._deliveries[output] = _Delivery(output, plain, transactional, progress, progress.rows)

    @property
    def rows(self) -> int:
        """Rows that were given to sinks since the job began."""
        return sum(delivery.rows for delivery in self._deliveries.values())

    @property
    def follow(self) -> bool:
        """Whether a sink has something to do behind the log's commit, before it takes further rows."""
        return any(delivery.transactional is not None for delivery in self._deliveries.values())

    @property
    def unseen(self) -> bool:
        """Whether rows were given to a sink that shows them with the next commit."""
        return self.waiting and self.follow

    @property
    def rolling(self) -> bool:
        """Whether a sink may want a checkpoint by itself, and is to be asked."""
        return any(isinstance(delivery.writer, Rolling) for delivery in self._deliveries.values())

    @property
    def due(self) -> bool:
        """Whether a sink wants a checkpoint."""
        writers = [delivery.writer for delivery in self._deliveries.values()]
        return any(isinstance(writer, Rolling) and writer.due for writer in writers)

    def recover(self, *, anew: bool) -> None:
        """Completes what the last checkpoint holds, and throws away what came behind it.

        Args:
            anew: The job starts over: what it wrote is removed, where the sink can do that.
        """
        for delivery in self._deliveries.values():
            with delivery.blaming():
                writer, progress = delivery.writer, delivery.progress
                if anew and isinstance(writer, Emptying):
                    writer.empty()
                if delivery.transactional is not None:
                    if progress.prepared is not None:
                        delivery.transactional.commit(progress.epoch, progress.prepared)
                    delivery.transactional.abort(progress.epoch)

    def put(self, output: n.SinkOutput, frame: pl.DataFrame) -> None:
        """Takes rows for a sink."""
        delivery = self._deliveries[output]
        with delivery.blaming():
            delivery.writer.write(batch_from_frame(frame))
        delivery.rows += frame.height
        self.waiting = True

    def prepare(self, epoch: int, *, last: bool) -> None:
        """Makes what was written durable, so that the log can commit.

        Args:
            epoch: The number of the checkpoint.
            last: The run ends with it.
        """
        for delivery in self._deliveries.values():
            prepared = None
            with delivery.blaming():
                if delivery.transactional is not None:
                    prepared = delivery.transactional.prepare(epoch, last=last)
                elif delivery.plain is not None:
                    delivery.plain.flush()
            delivery.progress = SinkProgress(epoch, prepared, delivery.rows)
        self.waiting = False

    def commit(self) -> None:
        """Shows what was prepared, now that the log has committed."""
        for delivery in self._deliveries.values():
            progress = delivery.progress
            if delivery.transactional is not None and progress.prepared is not None:
                with delivery.blaming():
                    delivery.transactional.commit(progress.epoch, progress.prepared)

    def progress(self) -> dict[str, SinkProgress]:
        """What to store with the checkpoint, by the sinks' names."""
        return {output.name: delivery.progress for output, delivery in self._deliveries.items()}

    def close(self) -> None:
        """Lets go of files and connections."""
        for delivery in self._deliveries.values():
            with delivery.blaming():
                delivery.writer.close()


def _opened(
    output: n.SinkOutput, shape: Shape, owner: str
) -> tuple[Writer, None] | tuple[None, TransactionalWriter]:
    sink, schema = output.sink, canonical_schema(shape.schema)
    with Blaming(f"sink {sink.name!r}", output):
        if isinstance(sink, TransactionalSink):
            return None, sink.begin(schema, owner)
        return sink.open(schema, owner), None
