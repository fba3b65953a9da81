"""What the steps have in common that take rows one by one, in the order of the stream, once time has passed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from mamba_stream.operators.columns import ORIGIN, TIME, ticks
from mamba_stream.operators.in_order import InOrder
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.tardiness import without_late

WAITING: Final = "waiting"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A step's time, as the plan tells it.

    Attributes:
        time: The time column.
        shift: Ticks to add to it.
        dtype: Its type.
    """

    time: str
    shift: int
    dtype: pl.DataType


class PassingStep:
    """Rows wait here until the watermark has passed them; then :meth:`passed` acts on them, sorted.

    A step inherits this, and says what it does with rows in their order and what it remembers of them.
    """

    def __init__(self, timing: Timing, columns: Sequence[str]) -> None:
        """A step that has seen nothing.

        Args:
            timing: Its time.
            columns: The columns to keep of rows that wait, beside those that order them.
        """
        self._timing = timing
        self._columns = list(columns)
        self._waiting = InOrder()
        self._closed = NEVER

    def passed(self, rows: pl.DataFrame) -> Iterator[Made]:
        """What the step makes of rows in the order of the stream; none comes before them any more.

        Args:
            rows: The columns, those of ``ORIGIN``, and the time in ``TIME``.
        """
        raise NotImplementedError

    def forget(self, watermark: int) -> None:
        """Lets go of what no row from the watermark on can need."""

    def remembered(self, *, whole: bool) -> Mapping[str, pl.DataFrame | None]:
        """By part, what it remembers of rows that have passed: all, or what changed since it was last asked."""
        raise NotImplementedError

    def recall(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what ``remembered`` gave."""
        raise NotImplementedError

    @property
    def bytes(self) -> int:
        """The size of the rows that wait."""
        return self._waiting.bytes

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._waiting.rows

    @property
    def closed(self) -> int:
        """How far it has come."""
        return self._closed

    @property
    def horizon(self) -> int:
        """Rows come out with times that they came in with, or later ones."""
        return self._closed

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Has rows wait; gives back those that are late."""
        timed = frame.with_columns(ticks(self._timing.time, self._timing.shift).alias(TIME))
        on_time, late = without_late(timed, self._closed, self._timing.dtype)
        self._waiting.add(on_time.select(*self._columns, *ORIGIN, TIME))
        return NOTHING if late is None else Made(late=late)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Acts on the rows before a watermark."""
        rows = self._waiting.release(watermark)
        if rows is not None:
            yield from self.passed(rows)
        self._closed = watermark
        self.forget(watermark)

    def delta(self) -> dict[str, pl.DataFrame]:
        """What changed."""
        return self._parts(self._waiting.delta(), self.remembered(whole=False))

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All there is."""
        return self._parts(self._waiting.snapshot(), self.remembered(whole=True))

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        if part == WAITING:
            self._waiting.restore(frame)
        else:
            self.recall(part, frame)

    def restored(self, closed: int) -> None:
        """Forgets what passed before it was saved last."""
        self._closed = closed
        self._waiting.drop(closed)
        self.forget(closed)

    @staticmethod
    def _parts(
        waiting: pl.DataFrame | None, others: Mapping[str, pl.DataFrame | None]
    ) -> dict[str, pl.DataFrame]:
        return {name: frame for name, frame in {WAITING: waiting, **others}.items() if frame is not None}
