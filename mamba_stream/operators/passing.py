"""What the steps have in common that take rows one by one, in the order of the stream, once time has passed them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import polars as pl

from mamba_stream.operators.columns import ORIGIN, PREFIX, TIME, ticks
from mamba_stream.operators.failures import FAILURES, UNRELATED, RowsFailed, watched, worked
from mamba_stream.operators.in_order import InOrder
from mamba_stream.operators.remembering import Part, Remembering
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.tardiness import without_late

_TOGETHER: Final = f"{PREFIX}together"


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """A step's time, as the plan tells it.

    Attributes:
        time: The time column.
        shift: Ticks to add to it.
        dtype: Its type.
    """

    time: str
    shift: int
    dtype: pl.DataType


class PassingStep(Remembering):
    """Rows wait here until the watermark has passed them; then :meth:`passed` acts on them, sorted.

    A step inherits this, and says what it does with rows in their order and what it remembers of them.
    """

    together: Sequence[str] = ()
    """Rows that lie side by side and are equal in these columns must not be torn apart."""

    def __init__(self, timing: Timing, columns: Sequence[str], **parts: Part | None) -> None:
        """A step that has seen nothing.

        Args:
            timing: Its time.
            columns: The columns to keep of rows that wait, beside those that order them.
            **parts: What it remembers of rows that have passed, by the names under which it is saved.
        """
        self.tolerates = False
        self._timing = timing
        self._columns = list(columns)
        self._waiting = InOrder()
        super().__init__(waiting=self._waiting, **parts)

    def passed(self, rows: pl.DataFrame) -> Made:
        """What the step makes of rows in the order of the stream; none comes before them any more.

        Where it raises, nothing has changed: rows over which it does are left out as if they had never come.

        Args:
            rows: The columns, those of ``ORIGIN``, and the time in ``TIME``.
        """
        raise NotImplementedError

    def forget(self, watermark: int) -> None:
        """Lets go of what no row from the watermark on can need."""

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
            yield from self._acted_on(rows)
        self._closed = watermark
        self.forget(watermark)

    def _acted_on(self, rows: pl.DataFrame) -> Iterator[Made]:
        try:
            with watched(rows, cuttable=True):
                made = self.passed(rows)
            yield made
        except (RowsFailed, *UNRELATED):
            raise
        except FAILURES:
            if self.together:
                rows = rows.sort(self.together, maintain_order=True)
                rows = rows.with_columns(pl.struct(self.together).rle_id().alias(_TOGETHER))
            several, failed = worked(
                lambda piece: self.passed(piece.drop(_TOGETHER, strict=False)),
                rows,
                tolerates=self.tolerates,
                whole=_TOGETHER if self.together else None,
            )
            yield from several
            yield Made(failed=failed)

    def restored(self, closed: int) -> None:
        """Forgets what passed before it was saved last."""
        super().restored(closed)
        self._waiting.drop(closed)
        self.forget(closed)
