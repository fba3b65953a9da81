"""Rows over which a user's code raises: found by trying halves, so that no others have to go with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Generic, TypeVar

import msgspec
import polars as pl

from mamba_stream.errors import JobFailed, MambaStreamError, SchemaMismatch
from mamba_stream.operators.step import Failed

FAILURES = (Exception, pl.exceptions.PanicException)
"""What a step may raise; a panic inside Polars is no Exception."""

UNRELATED = (MemoryError, JobFailed)
"""For these no rows are to blame: what raises them over all rows may not do so over half of them."""

T = TypeVar("T")


class RowsFailed(MambaStreamError):
    """A user's code raised, and these are the rows over which it does."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(str(failed.error))
        self.failed = failed


class Unsuited(SchemaMismatch):
    """A user's function cannot stand where it does, whatever the rows: no rows are to blame."""


class ProcessDied(Exception):
    """The process that worked on these rows ended: raised in a later one, in place of working on them again.

    Of rows that can be cut in two it says nothing yet: some of them may be to blame, or none. What is left when they
    were cut is tried until there can be no doubt.

    Attributes:
        deaths: How often that has happened over these very rows.
    """

    def __init__(self, how: str, deaths: int) -> None:
        super().__init__(
            f"the process {how}{f', {deaths} times' if deaths > 1 else ''}, working on nothing else"
        )
        self.deaths = deaths


Watch = Callable[[pl.DataFrame, bool], AbstractContextManager[None]]
"""Makes a note of rows, and of whether they can be cut in two, for as long as a user's code works on them. It raises
``ProcessDied`` instead where that has ended the process before."""

WATCH: Final[ContextVar[Watch | None]] = ContextVar("WATCH", default=None)
"""What watches over the user's code in the step that works now; as a rule, nothing does."""


def watched(rows: pl.DataFrame | None, *, cuttable: bool) -> AbstractContextManager[object]:
    """Watches over a user's code that works on some rows, where somebody wants that.

    Args:
        rows: The rows.
        cuttable: Whether it could be given half of them instead.
    """
    watch = WATCH.get()
    return nullcontext() if watch is None or rows is None else watch(rows, cuttable)


class Piece(msgspec.Struct, frozen=True):
    """Rows of a frame, one behind the other, over which something raises.

    Attributes:
        first: The number of the first.
        rows: How many.
        error: What is raised.
    """

    first: int
    rows: int
    error: BaseException

    def of(self, frame: pl.DataFrame) -> Failed:
        """These rows of a frame, and what is raised over them."""
        return Failed(frame.slice(self.first, self.rows), self.error)


class Sifted(msgspec.Struct, Generic[T], frozen=True):
    """What came of a frame in pieces.

    Attributes:
        results: What there is of the pieces that it did not raise over, in order.
        failed: The others.
    """

    results: Sequence[T]
    failed: Sequence[Piece]


def sift(
    work: Callable[[pl.DataFrame], T], frame: pl.DataFrame, error: BaseException, *, whole: str | None = None
) -> Sifted[T]:
    """Does to the pieces of a frame what raised over all of it, leaving out as few rows as possible.

    Args:
        work: What raises.
        frame: All rows.
        error: What it raised over them.
        whole: A column whose equal values, one behind the other, must not be torn apart.
    """
    results: list[T] = []
    failed: list[Piece] = []

    def halve(first: int, rows: int, raised: BaseException) -> None:
        middle = _middle(frame.slice(first, rows), whole)
        if middle == 0:
            failed.append(Piece(first, rows, raised))
            return
        for begin, length in ((first, middle), (first + middle, rows - middle)):
            try:
                results.append(work(frame.slice(begin, length)))
            except UNRELATED:
                raise
            except FAILURES as again:
                halve(begin, length, again)

    halve(0, frame.height, error)
    return Sifted(results, failed)


def worked(
    work: Callable[[pl.DataFrame], T], frame: pl.DataFrame, *, tolerates: bool, whole: str | None = None
) -> tuple[Sequence[T], list[Failed]]:
    """Does to a frame what may raise over some of its rows: to all of it, or else to pieces without these rows.

    Args:
        work: What may raise; it changes nothing where it does.
        frame: All rows.
        tolerates: Whether rows over which it raises are left out.
        whole: A column whose equal values, one behind the other, must not be torn apart.

    Returns:
        What there is of the pieces, in order, and what was left out.

    Raises:
        RowsFailed: Rows are not to be left out, and these should be.
    """
    watching = work if WATCH.get() is None else _watching(work, whole)
    try:
        return [watching(frame)], []
    except (RowsFailed, *UNRELATED):
        raise
    except FAILURES as error:
        work = watching
        if not tolerates and not isinstance(error, ProcessDied):
            piece = culprit(work, frame, error, whole=whole)
            raise RowsFailed(piece.of(frame)) from error
        sifted = sift(work, frame, error, whole=whole)
        if sifted.failed and not tolerates:
            piece = sifted.failed[0]
            raise RowsFailed(piece.of(frame)) from piece.error
        return sifted.results, [piece.of(frame) for piece in sifted.failed]


def _watching(work: Callable[[pl.DataFrame], T], whole: str | None) -> Callable[[pl.DataFrame], T]:
    def watching(frame: pl.DataFrame) -> T:
        with watched(frame, cuttable=can_be_cut(frame, whole)):
            return work(frame)

    return watching


def culprit(
    work: Callable[[pl.DataFrame], object],
    frame: pl.DataFrame,
    error: BaseException,
    *,
    whole: str | None = None,
) -> Piece:
    """The first rows over which something raises, as few as possible; arguments as for :func:`sift`."""
    found = Piece(0, frame.height, error)
    while (middle := _middle(frame.slice(found.first, found.rows), whole)) > 0:
        before = found
        for first, rows in ((found.first, middle), (found.first + middle, found.rows - middle)):
            try:
                work(frame.slice(first, rows))
            except UNRELATED:
                raise
            except FAILURES as again:
                found = Piece(first, rows, again)
                break
        if found is before:
            # It raises over all of them and over neither half: what it does depends on how rows are cut.
            break
    return found


def can_be_cut(frame: pl.DataFrame, whole: str | None = None) -> bool:
    """Whether there are halves of a frame to try; arguments as for :func:`sift`."""
    return _middle(frame, whole) > 0


def _middle(frame: pl.DataFrame, whole: str | None) -> int:
    """Where to cut rows in two; 0 where they cannot be cut."""
    if whole is None or frame.height < 2:
        return frame.height // 2
    values = frame.get_column(whole)
    cuts = (values != values.shift(1)).fill_null(value=True).to_numpy().nonzero()[0]
    cuts = cuts[cuts > 0]
    return int(cuts[abs(cuts - frame.height // 2).argmin()]) if len(cuts) else 0
