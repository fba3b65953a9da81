"""Rows that wait for answers from outside, in the order in which they came, and how far time had come between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import polars as pl

from mamba_stream.operators.columns import BEHIND, visible
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.mapping import MapBatches
from mamba_stream.runtime.watermarks import Mark

if TYPE_CHECKING:
    from mamba_stream.runtime.calling import Answer, Calls

_BYTES: Final = 64 << 20
"""So much may wait, or else one frame."""
_OVERHEAD: Final = 4_096
"""What a frame takes beside its rows."""


class Flight(msgspec.Struct, eq=False):
    """A frame whose rows wait for their answers.

    Attributes:
        frame: The rows.
        context: Whatever has to be known about them when they come back.
        bytes: What is held for it.
    """

    frame: pl.DataFrame
    context: Any
    bytes: int
    answer: Answer | None = None

    @property
    def over(self) -> bool:
        """Whether there is no need to wait for it."""
        return self.answer is not None and self.answer.over


class InFlight:
    """The frames of one step that were asked about, the earliest first. Used by one thread.

    Time goes on behind the step when the rows have that were before it: what is late behind it does not depend on how
    long the outside takes.
    """

    def __init__(self, operator: MapBatches, calls: Calls, ring: Callable[[], None]) -> None:
        """Nothing was asked about.

        Args:
            operator: Carries what is hidden past the function.
            calls: Calls it.
            ring: Called, in any thread, when the earliest frame has its answers.
        """
        self.operator = operator
        self._calls = calls
        self._ring = ring
        self._queue: deque[Flight | Mark] = deque()
        self._first: Flight | None = None
        self._bytes = 0
        self._frames = 0
        self._mark = Mark(NEVER)
        self._uneven = False

    @property
    def waits(self) -> bool:
        """Whether there are rows that wait."""
        return self._frames > 0

    def full(self, size: int) -> bool:
        """Whether so many bytes more are too much, so that the earliest have to come back before."""
        return self.waits and self._bytes + size + _OVERHEAD > _BYTES

    def begin(self, frame: pl.DataFrame, context: Any, size: int) -> None:
        """Asks about rows, as soon as there is room for a call.

        Args:
            frame: The rows.
            context: What to know about them when they come back.
            size: How many bytes are held until then.
        """
        # A function that gives more rows, or fewer, gets those that met one watermark together.
        apart = self._uneven and BEHIND in frame.columns
        for piece in frame.partition_by(BEHIND, maintain_order=True) if apart else [frame]:
            self._calls.wait_for_room()
            flight = Flight(piece, context, size + _OVERHEAD)
            self._queue.append(flight)
            self._bytes += flight.bytes
            self._frames += 1
            # Before it can be over: whoever ends it looks whether it is the first.
            self._first = self._first or flight
            flight.answer = self._calls.begin(visible(piece), partial(self._ended, flight))

    def come_back(self, *, wait: bool) -> Iterator[Flight]:
        """Takes out the earliest frames that have their answers; with ``wait``, all there are."""
        while self._queue:
            first = self._queue[0]
            if isinstance(first, Mark):
                self._mark = first
                self._queue.popleft()
                continue
            self._first = first
            if not (wait or first.over):
                return
            self._queue.popleft()
            self._first = None
            self._bytes -= first.bytes
            self._frames -= 1
            yield first

    def result(self, flight: Flight) -> pl.DataFrame:
        """What the step gives for a frame that came back; to be asked in order.

        Raises:
            Exception: What the function raised over its rows.
        """
        assert flight.answer is not None
        found = self.operator.carried(flight.frame, flight.answer.result())
        if found is not None:
            return found
        self._uneven = True
        return self.operator.apart(flight.frame)

    def pass_mark(self, mark: Mark) -> Mark:
        """Time has come to a mark before the step; says how far it has behind it."""
        if not self.waits:
            self._queue.clear()
            self._mark = mark
            return mark
        if isinstance(self._queue[-1], Mark):
            self._queue.pop()
        self._queue.append(mark)
        # Rows are on their way: whatever comes of them is not idle.
        return Mark(self._mark.watermark, greatest=self._mark.greatest)

    def cancel(self) -> None:
        """Ends the calls: nobody wants their results any more."""
        if self.waits:
            self._calls.cancel()

    def _ended(self, flight: Flight) -> None:
        if self._first is flight:
            self._ring()
