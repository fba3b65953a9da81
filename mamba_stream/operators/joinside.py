"""The rows of one side of a join that others may still meet.

Frames are kept as they came, and merged as in a log-structured tree; what the last checkpoint holds is never merged
with what came since. Rows leave when time has passed all that they could meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import PREFIX, TIME
from mamba_stream.operators.lateness import FOREVER
from mamba_stream.operators.pairing import Keyed, Rows, keyed
from mamba_stream.operators.places import ascending

UNTIL: Final = f"{PREFIX}until"
"""The last time at which a row may meet another, in ticks, where that is a row's own affair."""
NUMBER: Final = f"{PREFIX}number"
"""Tells the rows of a side apart, so that a later checkpoint can say of one that it has met another."""
MET: Final = f"{PREFIX}met_other"
WEIGHT: Final = f"{PREFIX}weight"
"""How often a row is there: 1 where it was added, -1 where it was taken back."""

ROWS: Final = "rows"
MET_SINCE: Final = "met"

_SMALL: Final = 4_096
_LARGE: Final = 1 << 18
"""Rows from which runs are not merged any more: what is old then leaves as a whole."""

Flags = NDArray[np.bool_]
Ticks = NDArray[np.int64]


class Reach:
    """From when on left rows meet right ones, and for how long: unsigned, so that one comparison says both."""

    def __init__(self, times: Ticks, until: Ticks | None, lower: int, upper: int | None) -> None:
        """What left rows reach.

        Args:
            times: Their times.
            until: The last time that each of them meets, where that is its own affair.
            lower: Ticks between their own time and the first that they meet.
            upper: The same for the last, where it is not each row's own affair.
        """
        self.first = times + lower if lower else times
        self.length: NDArray[np.uint64] | np.uint64
        self._reaches: Flags | None = None
        if until is None:
            assert upper is not None
            self.length = np.uint64(upper - lower)
            return
        self.length = (until - self.first).view(np.uint64)
        reaches = until >= self.first
        if not reaches.all():
            self._reaches = reaches

    @property
    def bytes(self) -> int:
        return int(self.first.nbytes + self.length.nbytes)

    def meets(self, lefts: Rows, times: Ticks, rights: Rows) -> Flags:
        """Of pairs, whether the right row's time is within the left one's reach.

        Args:
            lefts: The left row of each pair.
            times: The times of right rows.
            rights: The right row of each pair.
        """
        # What lies before the first wraps around and lies behind all that can be reached.
        after = times.take(rights)
        after -= self.first.take(lefts)
        length = self.length if isinstance(self.length, np.uint64) else self.length.take(lefts)
        within = after.view(np.uint64) <= length
        if self._reaches is not None:
            within &= self._reaches.take(lefts)
        return within


class Run:
    """Some rows, with what is known of them."""

    def __init__(
        self, frame: pl.DataFrame, on: Sequence[str], reach: int | None = None, met: Flags | None = None
    ) -> None:
        """A run.

        Args:
            frame: The rows.
            on: Their keys.
            reach: How many ticks after their own time rows may still meet others; ``None`` if for ever, or if the
                frame says so itself.
            met: Which of them have met another; ``None`` where nobody asks.
        """
        self.frame = frame
        self.on = on
        self.met = met
        self.until: Ticks | None = None
        if UNTIL in frame.columns:
            self.until = frame.get_column(UNTIL).to_numpy()
        elif reach is not None:
            self.until = frame.get_column(TIME).to_numpy() + reach
        self.first = FOREVER if self.until is None else int(self.until.min())
        self._keyed: Keyed | None = None
        self._reach: Reach | None = None

    @property
    def rows(self) -> int:
        return self.frame.height

    @property
    def bytes(self) -> int:
        index = 0 if self._keyed is None else self._keyed.bytes
        until = 0 if self.until is None else self.until.nbytes
        reach = 0 if self._reach is None else self._reach.bytes
        return int(self.frame.estimated_size()) + index + until + reach

    @property
    def keys(self) -> Keyed:
        if self._keyed is None:
            self._keyed = keyed(self.frame, self.on)
        return self._keyed

    @property
    def weights(self) -> NDArray[np.int64] | None:
        """How often each row is there; ``None`` where each is once."""
        return self.frame.get_column(WEIGHT).to_numpy() if WEIGHT in self.frame.columns else None

    def times(self) -> Ticks:
        """The times of the rows."""
        return self.frame.get_column(TIME).to_numpy()

    def reach(self, lower: int, upper: int | None) -> Reach:
        """What its rows reach as left ones; the bounds are the same each time."""
        if self._reach is None:
            self._reach = Reach(self.times(), self.until if upper is None else None, lower, upper)
        return self._reach

    @property
    def first_unmet(self) -> int:
        """The earliest time of a row that has not met another."""
        assert self.met is not None
        return FOREVER if self.met.all() else int(self.times()[~self.met].min())

    def unmet(self, rows: Rows) -> Rows:
        """Those of some rows, each once, that have met none so far."""
        assert self.met is not None
        return ascending(rows[~self.met[rows]])


class JoinSide:
    """The rows of one side."""

    def __init__(
        self,
        on: Sequence[str],
        *,
        reach: int | None = None,
        own_reach: bool = False,
        flagged: bool = False,
        merge: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> None:
        """An empty side.

        Args:
            on: Its key columns.
            reach: How many ticks after their own time rows may still meet others; ``None`` for ever.
            own_reach: Whether instead each row says so, in ``UNTIL``.
            flagged: Whether it matters which rows have met another.
            merge: What becomes of rows that lie together, where some stand for others.
        """
        self._on = tuple(on)
        self._reach = reach
        self._leaves = own_reach or reach is not None
        self._flagged = flagged
        self._merge = merge
        self._settled: list[Run] = []
        self._fresh: list[Run] = []
        self._met_since: list[pl.Series] = []
        self._next = 0

    @property
    def rows(self) -> int:
        return sum(run.rows for run in self.runs())

    @property
    def bytes(self) -> int:
        return sum(run.bytes for run in self.runs())

    @property
    def first_unmet(self) -> int:
        """The earliest time of a row that has not met another."""
        return min((run.first_unmet for run in self.runs()), default=FOREVER)

    def runs(self) -> Iterator[Run]:
        """All rows, in runs."""
        yield from self._settled
        yield from self._fresh

    def add(self, frame: pl.DataFrame, met: Flags | None = None, *, after: int | None = None) -> None:
        """Takes rows in.

        Args:
            frame: The rows, with ``TIME`` and ``UNTIL`` where these are needed.
            met: Which of them have met another already.
            after: Leave out rows that could meet others up to before this only.
        """
        if not frame.height:
            return
        frame = frame.rechunk()
        if self._flagged:
            assert met is not None
            numbers = pl.int_range(self._next, self._next + frame.height, dtype=pl.Int64, eager=True)
            frame = frame.with_columns(numbers.alias(NUMBER))
            self._next += frame.height
        run = Run(frame, self._on, self._reach, met if self._flagged else None)
        if after is not None and run.until is not None and run.first < after:
            kept = np.flatnonzero(run.until >= after)
            if not len(kept):
                return
            run = self._part(run, kept)
        self._fresh.append(run)
        self._settle(self._fresh)

    def mark(self, run: Run, rows: Rows) -> None:
        """Says that rows have met another."""
        new = run.unmet(rows)
        if len(new):
            assert run.met is not None
            run.met[new] = True
            if any(run is settled for settled in self._settled):
                self._met_since.append(run.frame.get_column(NUMBER)[new])

    def expire(self, before: int) -> list[pl.DataFrame]:
        """Lets go of rows that could meet others up to before this only.

        Returns:
            Where it matters, those of them that have met none.
        """
        if not self._leaves:
            return []
        alone: list[pl.DataFrame] = []
        self._settled = self._kept(self._settled, before, alone)
        self._fresh = self._kept(self._fresh, before, alone)
        return alone

    def remove(self, keys: Keyed) -> None:
        """Lets go of the rows of some keys."""
        self._settled, self._fresh = (
            [kept for run in runs if (kept := self._without(run, keys)) is not None]
            for runs in (self._settled, self._fresh)
        )

    def _without(self, run: Run, keys: Keyed) -> Run | None:
        gone = ascending(run.keys.meets(keys)[1])
        if len(gone) == run.rows:
            return None
        return run if not len(gone) else self._part(run, np.delete(np.arange(run.rows), gone))

    def forget_met(self) -> None:
        """Lets go of rows that have met another, where one is all that is asked."""
        self._settled, self._fresh = (
            [kept for run in runs if (kept := self._unmet_part(run)) is not None]
            for runs in (self._settled, self._fresh)
        )

    def _unmet_part(self, run: Run) -> Run | None:
        assert run.met is not None
        met = int(run.met.sum())
        if met == run.rows:
            return None
        return self._part(run, np.flatnonzero(~run.met)) if 2 * met > run.rows else run

    def waiting(self, closed: int) -> Iterator[pl.DataFrame]:
        """The rows that may still meet others, now that time has come so far."""
        for run in self.runs():
            if run.until is None or run.first >= closed:
                yield run.frame
            else:
                yield run.frame[np.flatnonzero(run.until >= closed)]

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot, and which rows of before have met another since."""
        parts = {}
        if self._met_since:
            parts[MET_SINCE] = pl.concat(self._met_since).to_frame()
            self._met_since = []
        if self._fresh:
            whole = self._merged(self._fresh)
            parts[ROWS] = self._saved(whole)
            self._fresh = []
            self._settled.append(whole)
            self._settle(self._settled)
        return parts

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All rows."""
        runs = [*self.runs()]
        self._met_since = []
        if not runs:
            return {}
        self._settled, self._fresh = runs, []
        self._settle(self._settled)
        return {ROWS: pl.concat([self._saved(run) for run in self._settled])}

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        if part == MET_SINCE:
            self._restore_met(frame.get_column(NUMBER))
            return
        met = None
        if self._flagged:
            met = frame.get_column(MET).to_numpy().copy()
            frame = frame.drop(MET)
            self._next = max(self._next, int(frame.get_column(NUMBER).max()) + 1)  # type: ignore[arg-type]
        self._settled.append(Run(frame, self._on, self._reach, met))
        self._settle(self._settled)

    def _restore_met(self, numbers: pl.Series) -> None:
        for run in self._settled:
            assert run.met is not None
            run.met |= run.frame.get_column(NUMBER).is_in(numbers.implode()).to_numpy()

    def _saved(self, run: Run) -> pl.DataFrame:
        return run.frame if run.met is None else run.frame.with_columns(pl.Series(MET, run.met))

    def _kept(self, runs: list[Run], before: int, alone: list[pl.DataFrame]) -> list[Run]:
        kept = []
        for run in runs:
            if run.first >= before:
                kept.append(run)
                continue
            assert run.until is not None
            over = run.until < before
            if run.met is not None:
                unmet = np.flatnonzero(over & ~run.met)
                if len(unmet):
                    alone.append(run.frame[unmet])
            if over.all():
                continue
            # Whoever has left meets nobody, as later rows are later: it may as well go with others.
            worth_it = run.met is not None or 2 * int(over.sum()) > run.rows
            kept.append(self._part(run, np.flatnonzero(~over)) if worth_it else run)
        return kept

    def _part(self, run: Run, rows: Rows) -> Run:
        met = None if run.met is None else run.met[rows]
        return Run(run.frame[rows], self._on, self._reach, met)

    def _settle(self, runs: list[Run]) -> None:
        while len(runs) > 1:
            last, before = runs[-1], runs[-2]
            too_large = before.rows + last.rows > _LARGE and self._merge is None
            if before.rows > max(2 * last.rows, _SMALL) or too_large:
                return
            runs[-2:] = [self._merged([before, last])]

    def _merged(self, runs: Sequence[Run]) -> Run:
        if len(runs) == 1:
            return runs[0]
        frame = written_out(pl.concat([run.frame for run in runs], rechunk=True))
        if self._merge is not None:
            frame = self._merge(frame)
        met = None if not self._flagged else np.concatenate([run.met for run in runs if run.met is not None])
        return Run(frame, self._on, self._reach, met)


def consolidated(frame: pl.DataFrame) -> pl.DataFrame:
    """Equal rows as one, and those gone that were taken back as often as they were added."""
    columns = [name for name in frame.columns if name != WEIGHT]
    return frame.group_by(columns, maintain_order=True).agg(pl.col(WEIGHT).sum()).filter(pl.col(WEIGHT) != 0)
