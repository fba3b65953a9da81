"""Rows that wait until time has passed them, and then go on in the order of the stream.

What depends on the order of rows acts on what this releases: the rows before the watermark are all there, so sorting
them gives the same whatever the order in which they came.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import ORIGIN, TIME
from mamba_stream.operators.runs import SLOT, Runs


class InOrder:
    """A buffer that takes rows in any order and gives them on sorted, as far as time has come."""

    def __init__(self, order: Sequence[str] = ORIGIN) -> None:
        """An empty buffer.

        Args:
            order: What orders rows of one time; no two rows of a time are equal in all of it.
        """
        self._order = tuple(order)
        self._runs = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._runs.rows

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._runs.bytes

    @property
    def first(self) -> int | None:
        """The earliest time that waits, in ticks."""
        return self._runs.first_slot

    @property
    def last(self) -> int | None:
        """The latest time that waits, in ticks."""
        return self._runs.last_slot if self._runs.rows else None

    def add(self, frame: pl.DataFrame) -> None:
        """Takes rows with their time in ``TIME``, and the columns that order them."""
        if frame.height:
            run = frame.rename({TIME: SLOT})
            sorted_ = run.get_column(SLOT).is_sorted()
            self._runs.add(run if sorted_ else run.sort(SLOT, maintain_order=True))

    def release(self, before: int) -> pl.DataFrame | None:
        """The rows whose time lies before a watermark, sorted; they leave. ``None`` where there are none."""
        heads = self._runs.head(before)
        if not heads:
            return None
        frame = written_out(pl.concat(heads).sort(SLOT, *self._order).rename({SLOT: TIME}))
        self._runs.drop(before)
        return frame

    def delta(self) -> pl.DataFrame | None:
        """What came since the last delta or snapshot and still waits."""
        return self._runs.delta()

    def snapshot(self) -> pl.DataFrame | None:
        """All that waits."""
        return self._runs.snapshot()

    def restore(self, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        self._runs.restore(frame)

    def drop(self, before: int) -> None:
        """Forgets what was released before it was saved last."""
        self._runs.drop(before)
