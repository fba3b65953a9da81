"""A task that runs with care: before a step works on rows, it is noted which, for whoever sees the process die of it.

The next process is told what was noted. A step over which one has died works on rows one by one there, as far as they
can be cut, with a note of each. One that ends the process then is worked on again, until it has done so often enough,
with nothing else going on, that there is no doubt. Then it is as if the step had raised over this row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
import polars as pl

from mamba_stream.operators.failures import FAILURES, WATCH, ProcessDied
from mamba_stream.runtime.fingerprints import content_of

SURE: Final = 3
"""So many processes have to die over the same rows, which cannot be cut, before these are to blame."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """What a task was about to do.

    Attributes:
        step: The step in words; empty for what is done between steps.
        rows: What identifies the rows.
        reading: Where they were read, in words.
        commits: How often the task had committed before.
    """

    step: str
    rows: str
    reading: str
    commits: int


class Death(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that ended the process.

    Attributes:
        attempt: The attempt.
        times: How often.
        how: How the process ended, in words.
    """

    attempt: Attempt
    times: int
    how: str


class Care:
    """What a task makes note of, and what is known of earlier processes."""

    def __init__(self, known: Sequence[Death], commits: int, note: Callable[[Attempt], None]) -> None:
        """Care from the task's last commit on.

        Args:
            known: What ended processes before, the last behind the others.
            commits: How often the task has committed.
            note: Notes an attempt where it outlives this process.
        """
        self._suspected = {one.attempt.step: one for one in known}
        self._known = {
            (one.attempt.step, one.attempt.rows): one for one in known if one.attempt.commits == commits
        }
        self._commits = commits
        self._note = note
        self._within: list[Attempt] = []

    def begin(self) -> None:
        """The task has its turn; nothing is known of what it does but that."""
        self._note(Attempt("", "", "", self._commits))

    def committed(self, commits: int, *, lasts: bool) -> None:
        """What went well will not be done again; what comes is other rows, even if they are equal.

        Args:
            commits: How often the task has committed by now.
            lasts: Whether the rows over which a step has ended a process may still come.
        """
        self._commits = commits
        self._known.clear()
        if not lasts:
            self._suspected.clear()

    @contextmanager
    def over(self, step: str, reading: str, rows: pl.DataFrame | str, *, cuttable: bool) -> Iterator[None]:
        """Notes that a step works on rows, for as long as it does.

        Args:
            step: The step in words.
            reading: Where they were read, in words.
            rows: The rows; or, where it is none, what it does.
            cuttable: Whether it could be given half of them instead.

        Raises:
            ProcessDied: That has ended processes before, or one row of it may have.
        """
        if cuttable and (suspected := self._suspected.get(step)) is not None:
            raise ProcessDied(suspected.how, suspected.times)
        what = rows if isinstance(rows, str) else _content_of(rows)
        known = self._known.get((step, what))
        if known is not None and known.times >= SURE:
            raise ProcessDied(known.how, known.times)
        attempt = Attempt(step, what, reading, self._commits)
        self._within.append(attempt)
        self._note(attempt)
        inner = WATCH.set(lambda frame, cut: self.over(step, reading, frame, cuttable=cut))
        try:
            yield
        except FAILURES:
            self._ended(attempt)
            raise
        finally:
            WATCH.reset(inner)
            self._within.pop()
        self._ended(attempt)

    def _ended(self, attempt: Attempt) -> None:
        """The step is done with rows: what is going on is what was before."""
        around = [one for one in self._within if one is not attempt]
        self._note(around[-1] if around else Attempt("", "", attempt.reading, self._commits))


def _content_of(rows: pl.DataFrame) -> str:
    try:
        return content_of(rows)
    except Exception:  # noqa: BLE001 - Python's own objects, which no file holds
        return repr(rows.rows())
