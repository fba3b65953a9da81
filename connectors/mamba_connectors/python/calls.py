"""A function as a sink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from mamba_stream.connect import Delivery
from mamba_stream.core.batches import frame_from_batch
from mamba_stream.errors import InvalidInput

__all__ = ["CallSink", "sink"]


def sink(
    function: Callable[[pl.DataFrame], object],
    *,
    name: str | None = None,
    idempotent: bool = False,
    accepts_changes: bool = False,
) -> CallSink:
    """Calls a function with every batch, before the checkpoint that covers it: at least once.

    Args:
        function: Takes a ``pl.DataFrame``, and returns when its rows are where they should be. What it returns is
            ignored; what it raises ends the run, and the rows come again in the next one.
        name: What messages call it.
        idempotent: It does nothing new for rows that come again, so that every row counts once.
        accepts_changes: It understands the column ``_op`` of a changelog.
    """
    if not callable(function):
        raise InvalidInput(f"python.sink takes a function of a frame, not {function!r:.80}")
    called = name or f"python {getattr(function, '__name__', 'function')}"
    return CallSink(called, "exactly-once" if idempotent else "at-least-once", accepts_changes, function)


@dataclass(frozen=True, eq=False)
class CallSink:
    """What :func:`sink` makes."""

    name: str
    delivery: Delivery
    accepts_changes: bool
    function: Callable[[pl.DataFrame], object] = field(repr=False)

    def open(self, schema: pa.Schema, owner: str) -> _Writer:
        """A writer that calls the function."""
        return _Writer(self.function)


class _Writer:
    def __init__(self, function: Callable[[pl.DataFrame], object]) -> None:
        self._function = function

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._function(frame_from_batch(batch))

    def flush(self) -> None: ...

    def close(self) -> None: ...
