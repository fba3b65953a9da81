"""What steps do with rows, attempted: where one raises, it is known which step it was, over which rows, and from where.

Rows over which a step raises are left out where the pipeline says so, and noted; otherwise they end the job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import polars as pl

from mamba_stream.errors import JobFailed, StepFailed
from mamba_stream.operators.columns import ORIGIN
from mamba_stream.operators.failures import (
    FAILURES,
    UNRELATED,
    Piece,
    ProcessDied,
    RowsFailed,
    Unsuited,
    can_be_cut,
    culprit,
    sift,
)
from mamba_stream.operators.step import Failed
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.refusing import first_line
from mamba_stream.runtime.care import Care
from mamba_stream.runtime.faults import Fault, Faults, shown
from mamba_stream.runtime.places import line_of
from mamba_stream.runtime.tracing import Tracer

T = TypeVar("T")
_REMEDY: Final = (
    "on_error='dead_letter' or 'skip' leaves out rows over which workers die; to go on with them, mend what the step "
    "calls, or give it what it lacks (memory, where the system ended it)"
)


class Attempts:
    """The attempts of one flow."""

    def __init__(self, analysis: Analysis, faults: Faults, care: Care | None) -> None:
        """Nothing is attempted yet.

        Args:
            analysis: The plan.
            faults: What becomes of rows over which a step raises.
            care: Makes note of what steps are about to do, where that may end the process.
        """
        self._analysis = analysis
        self._faults = faults
        self._care = care
        self._tracer = Tracer(analysis)
        self.reading = ""
        """What is being worked on, for messages: topic, partition and offsets."""
        self.pushed: tuple[n.Node, Callable[[], pl.DataFrame]] | None = None
        """Where the rows came in that are worked on, and what gives them with their origin."""

    @property
    def faults(self) -> Faults:
        """What becomes of rows over which a step raises."""
        return self._faults

    @property
    def careful(self) -> bool:
        """Whether notes are made of what steps are about to do."""
        return self._care is not None

    def begin(self, pushed: tuple[n.Node, Callable[[], pl.DataFrame]] | None) -> None:
        """Rows come in."""
        self._tracer.begin()
        self.pushed = pushed

    def note(self, node: n.Node, failed: Failed) -> None:
        """A step has left rows out by itself."""
        self._faults.note(Fault(words(node), failed.error, failed.frame, failed.what))

    def with_care(
        self, node: n.Node, work: Callable[[pl.DataFrame], T], whole: str | None = None
    ) -> Callable[[pl.DataFrame], T]:
        """What a step does with rows; with a note of them, where that may end the process."""
        care = self._care
        if care is None:
            return work

        def careful(frame: pl.DataFrame) -> T:
            with care.over(words(node), self.reading, frame, cuttable=can_be_cut(frame, whole)):
                return work(frame)

        return careful

    def left(
        self,
        step_of_rows: Callable[[pl.DataFrame], n.Node],
        before: n.Node,
        work: Callable[[pl.DataFrame], T],
        frame: pl.DataFrame,
        error: BaseException,
        whole: str | None = None,
    ) -> Iterator[T]:
        """What work gives without the rows over which it raises; where none may be left out, it ends here.

        Args:
            step_of_rows: Which step it is that raises over rows.
            before: The node whose rows they are.
            work: What raised.
            frame: Over these rows.
            error: This.
            whole: A column whose equal values must not be torn apart.

        Raises:
            StepFailed: Rows are not to be left out; it shows some of them.
        """
        if isinstance(error, JobFailed):
            raise error
        if isinstance(error, UNRELATED):
            raise self.failed(step_of_rows(frame), error) from error
        origins = None
        if self.pushed is not None:
            origins = self._tracer.origins(before, frame, *self.pushed)
        if origins is not None:
            frame_with = frame.drop(ORIGIN, strict=False).hstack(origins)
        else:
            frame_with = frame
        may_leave_out = self._faults.policy != "fail" and not isinstance(error, Unsuited)
        if not may_leave_out and not isinstance(error, ProcessDied):
            # What did not end in time would take as long again for each half.
            slow = isinstance(error, TimeoutError)
            piece = Piece(0, frame.height, error) if slow else culprit(work, frame, error, whole=whole)
            found = frame.slice(piece.first, piece.rows)
            rows = frame_with.slice(piece.first, piece.rows)
            raise self.failed(step_of_rows(found), piece.error, rows) from error
        sifted = sift(work, frame, error, whole=whole)
        for piece in sifted.failed:
            node, rows = (
                step_of_rows(frame.slice(piece.first, piece.rows)),
                frame_with.slice(piece.first, piece.rows),
            )
            if not may_leave_out:
                raise self.failed(node, piece.error, rows) from piece.error
            self._tracer.leave_out(node, rows)
            self._faults.note(Fault(words(node), piece.error, rows))
        yield from sifted.results

    def guarded(self, node: n.Node, work: Callable[[], T]) -> T:
        try:
            if self._care is not None:
                with self._care.over(words(node), self.reading, self.reading, cuttable=False):
                    return work()
            return work()
        except JobFailed:
            raise
        except RowsFailed as error:
            raise self.failed_over(node, error.failed) from error.failed.error
        except FAILURES as error:
            raise self.failed(node, error) from error

    def failed_over(self, node: n.Node, failed: Failed) -> StepFailed:
        return self.failed(node, failed.error, failed.frame, failed.what)

    def failed(
        self, node: n.Node, error: BaseException, rows: pl.DataFrame | None = None, what: str = ""
    ) -> StepFailed:
        said = [f"step {words(node)} failed on {self.reading}: {type(error).__name__}: {first_line(error)}"]
        if line := line_of(error):
            said.append(f"raised at {line}")
        if rows is not None:
            count = "a row" if rows.height == 1 else f"{rows.height:,} rows"
            said.append(f"over {what and f'{what}, '}{count}:\n{shown(rows, self._place)}")
        if isinstance(error, ProcessDied):
            said.append(_REMEDY)
        return StepFailed("\n".join(said))

    def _place(self, origin: tuple[int, ...]) -> str:
        """Where a row of a source is from, in words."""
        number, partition, offset = origin
        for node in self._analysis.sources:
            if self._analysis.numbers[node] == number and isinstance(node, n.TopicSource):
                return f"topic {node.topic!r}, partition {partition}, offset {offset}: "
        return ""


def words(node: n.Node) -> str:
    """A step for messages: what it is, what it is called, where it was written."""
    return f"{node.verb}{f' {node.name!r}' if isinstance(node, n.Stateful) else ''} at {node.place}"
