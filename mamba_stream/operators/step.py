"""What a step with state is to the flow that drives it: rows go in, time advances, rows come out, state is saved.

Whatever a step does, it does vectorised, and knows neither clock nor log: the same rows and watermarks give the same
rows, however they are cut into frames, and a step restored from what it saved goes on as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

LATE_BY: Final = "late_by"
LATE_REASON: Final = "late_reason"


class Late(msgspec.Struct, frozen=True):
    """Rows that came too late, and for each by how many ticks the lateness fell short.

    Attributes:
        frame: The rows as they came, with ``late_by`` and ``late_reason``.
        by: Ticks, one for each row.
    """

    frame: pl.DataFrame
    by: npt.NDArray[np.int64]

    def without(self, name: str) -> Late:
        """The same without a column that the step added."""
        return Late(self.frame.drop(name), self.by)


class Failed(msgspec.Struct, frozen=True):
    """Rows over which a user's function or expression raised.

    Attributes:
        frame: The rows as they came, with the hidden columns that they had; of a window or key that keeps none, a row
            that says which it is.
        error: What it raised.
        what: What they are together, in words: a window and a key, say.
    """

    frame: pl.DataFrame
    error: BaseException
    what: str = ""


class Made(msgspec.Struct, frozen=True):
    """What a step makes of rows or of time.

    Attributes:
        rows: Rows that go on.
        late: Rows that came too late for it.
        sides: Rows for its side outputs, by name.
        failed: Rows that were left out, since the user's function or expression raised over them.
    """

    rows: pl.DataFrame | None = None
    late: Late | None = None
    sides: Mapping[str, pl.DataFrame] = msgspec.field(default_factory=dict)
    failed: Sequence[Failed] = ()


NOTHING: Final = Made()


class StatefulStep(Protocol):
    """A step that remembers rows, or something made of them."""

    @property
    def bytes(self) -> int:
        """The size of its state."""
        ...

    @property
    def rows(self) -> int:
        """How many rows its state has."""
        ...

    @property
    def closed(self) -> int:
        """The watermark of its input that it has acted upon, in ticks of its input's time."""
        ...

    @property
    def horizon(self) -> int:
        """The watermark of what it gives: no row before this will come out any more. Never beyond ``closed``."""
        ...

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Takes rows in.

        Args:
            frame: Rows of one of its inputs, with the hidden columns that it asked for.
            port: Which of its inputs.
        """
        ...

    def advance(self, watermark: int) -> Iterator[Made]:
        """Lets time come to a watermark: no row on time will come with a time before it.

        What it gives is passed on piece by piece, so that not all has to be held at once; ``closed`` is right
        after the last piece.
        """
        ...

    def delta(self) -> Mapping[str, pl.DataFrame]:
        """By part, what changed since the last delta or snapshot, at a cost in proportion to that."""
        ...

    def snapshot(self) -> Mapping[str, pl.DataFrame]:
        """By part, all that it remembers."""
        ...

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave, in the order in which they were given."""
        ...

    def restored(self, closed: int) -> None:
        """All parts are back; time had come to ``closed``."""
        ...

    def view(self) -> pl.DataFrame:
        """What it remembers, as the user who wrote the step reads it; no hidden columns.

        It is asked of a copy that was restored for this alone, and is of no use afterwards.
        """
        ...


@runtime_checkable
class Ticking(Protocol):
    """A step that also goes by the wall clock, which whoever drives it tells it: that part no guarantee covers."""

    @property
    def due(self) -> int | None:
        """The next moment at which it has something to do, in microseconds since the epoch."""
        ...

    def tick(self, now: int) -> Iterator[Made]:
        """The clock has come to ``now``; what fell due is done."""
        ...


@runtime_checkable
class Resting(Protocol):
    """A step that puts work off, and can do it while there is nothing else to do."""

    def rest(self) -> None:
        """There are no rows at present: whatever would have to be done later."""
        ...


@runtime_checkable
class Tolerant(Protocol):
    """A step that runs a user's function or expressions, and can leave out what they raise over."""

    tolerates: bool
    """Whether to give such rows as ``Made.failed`` and go on. If not, it raises ``RowsFailed``."""


@runtime_checkable
class Atomic(Protocol):
    """A step whose ``add`` looks at rows before it changes anything, and can be given them again without some.

    What it raises is about the rows that were given to it, and no earlier ones.
    """

    adds_whole: bool
    """Whether nothing has changed where ``add`` raised. If not, it is no row that is to blame, and the end."""
