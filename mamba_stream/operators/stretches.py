"""What makes sessions of rows: stretches of time by key, and which of them touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.columns import ORDER_TYPES, PREFIX, TIME, ticks
from mamba_stream.operators.grouping import codes_of, grouped
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.results import AggregateSettings, Finished, Results
from mamba_stream.operators.rowstore import Mask, Places
from mamba_stream.operators.runs import SLOT
from mamba_stream.operators.step import Late
from mamba_stream.operators.tardiness import without_late

LAST: Final = f"{PREFIX}last"
"""The time of a session's last row; that of its first is in ``SLOT``."""
_START: Final = f"{PREFIX}start"
_ALL: Final = f"{PREFIX}all"
"""In place of a key where there is none."""
_SESSION: Final = f"{PREFIX}session"


class SessionSettings(AggregateSettings, frozen=True, kw_only=True):
    """What a session step is told by the plan.

    Attributes:
        gap: The longest pause in a session, in ticks.
    """

    gap: int


class Sessions:
    """Makes sessions of rows, and of sessions; remembers nothing."""

    def __init__(self, settings: SessionSettings, results: Results) -> None:
        """The sessions of one step.

        Args:
            settings: The step's.
            results: Makes rows of sessions.
        """
        split = settings.aggregation
        self._set = settings
        self._results = results
        self.keys: Final[Mapping[str, pl.DataType]] = settings.keys or {_ALL: pl.Int8()}
        self.values: Final = {SLOT: pl.Int64(), LAST: pl.Int64(), **split.partial_schema}
        self._kept_columns = [name for name in split.kept_columns if name not in self.keys]
        self._names = list(self.keys)

    def kept(self) -> KeyedRows | None:
        """Where rows are kept for expressions that do not decompose; ``None`` where there are none."""
        if not self._set.aggregation.kept:
            return None
        kept = {name: self._set.types[name] for name in self._kept_columns}
        return KeyedRows(self.keys, {**kept, **ORDER_TYPES})

    def keep(self, frame: pl.DataFrame, kept: KeyedRows | None) -> None:
        """Keeps rows, where that is needed."""
        if kept is not None:
            kept.add(frame.select(self._names), frame.select(*self._kept_columns, *ORDER_TYPES))

    def on_time(self, frame: pl.DataFrame, closed: int) -> tuple[pl.DataFrame, Late | None]:
        """Rows with their time and key, and those that come too late, whatever sessions there are."""
        frame = frame.with_columns(ticks(self._set.time, self._set.shift).alias(TIME))
        if not self._set.keys:
            frame = frame.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))
        frame, late = without_late(frame, closed, self._set.dtype, grace=self._set.gap)
        return frame, late if late is None or self._set.keys else late.without(_ALL)

    def reached(self, closed: int) -> int:
        """No row on time will come with a time before this."""
        return max(NEVER, closed - self._set.gap)

    def over(self, closed: int) -> int:
        """No row on time can touch a session whose last row lies before this."""
        return max(NEVER, self.reached(closed) - self._set.gap)

    def horizon(self, closed: int) -> int:
        """Rows carry the end of their session less one tick, and open ones may have ended up to a gap ago."""
        return closed if closed in (NEVER, FOREVER) else max(NEVER, closed - self._set.gap - 1)

    def of_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The sessions that rows make among themselves."""
        times = frame.get_column(TIME).to_numpy()
        edges = [pl.col(TIME).min().alias(SLOT), pl.col(TIME).max().alias(LAST)]
        numbers = stretches(codes_of(frame, self._names), times, times, self._set.gap)
        return self._grouped(frame, numbers, [*edges, *self._set.aggregation.partial_exprs])

    def numbers(self, sessions: pl.DataFrame) -> Places:
        """Which sessions touch, directly or through others: those have one number."""
        starts, lasts = (sessions.get_column(name).to_numpy() for name in (SLOT, LAST))
        return stretches(codes_of(sessions, self._names), starts, lasts, self._set.gap)

    def merged(self, sessions: pl.DataFrame, numbers: Places) -> pl.DataFrame:
        """Sessions as those that they make together."""
        edges = [pl.col(SLOT).min(), pl.col(LAST).max()]
        return self._grouped(sessions, numbers, [*edges, *self._set.aggregation.merge_exprs])

    def _grouped(self, frame: pl.DataFrame, numbers: Places, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
        keys = [pl.col(name).first() for name in self._names]
        numbered = frame.with_columns(pl.Series(_SESSION, numbers))
        found = grouped(numbered, [_SESSION], [*keys, *exprs], nested=self._set.nested)
        return found.select(*self._names, *self.values)

    def inside(self, sessions: pl.DataFrame, kept: KeyedRows) -> tuple[Places, Places]:
        """The kept rows of sessions: the place of the session, and the id of the row, for each."""
        probe, ids = kept.matching(sessions.select(self._names))
        times = kept.get(ids).get_column(TIME).to_numpy()
        bounds = sessions.select(SLOT, LAST).to_numpy()
        within: Mask = (times >= bounds[probe, 0]) & (times <= bounds[probe, 1])
        return probe[within], ids[within]

    def results(
        self, sessions: pl.DataFrame, kept: KeyedRows | None, *, tolerates: bool, leave: bool = False
    ) -> Finished:
        """The rows of sessions, at least one, in the order of their end and key.

        Args:
            sessions: The sessions.
            kept: The rows that they, and others, are made of.
            tolerates: Whether sessions over which an expression raises are left out.
            leave: Whether their rows leave those that are kept.
        """
        named = sessions.rename({SLOT: _START, LAST: SLOT})
        rows = None
        if kept is not None:
            probe, ids = self.inside(sessions, kept)
            mine = named.select(pl.col(*self._names, SLOT).gather(probe))
            rows = pl.concat([mine, kept.get(ids)], how="horizontal")
            rows = rows.select(SLOT, *self._set.keys, *self._kept_columns, *ORDER_TYPES)
            if leave:
                kept.remove(ids)
        end = pl.col(SLOT) + self._set.gap
        return self._results.of(named, rows, pl.col(_START), end, tolerates=tolerates)


def stretches(
    codes: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], lasts: npt.NDArray[np.int64], gap: int
) -> npt.NDArray[np.int64]:
    """A number for each stretch of time: equal where those of one key touch, directly or through others.

    Args:
        codes: Numbers of the keys, from 0 on.
        starts: When each stretch starts.
        lasts: When it ends.
        gap: Stretches touch that are no farther apart than this.
    """
    order = _order(codes, starts)
    code, start, last = codes[order], starts[order], lasts[order]
    first_of_key = np.empty(len(order), np.bool_)
    first_of_key[0] = True
    np.not_equal(code[1:], code[:-1], out=first_of_key[1:])
    if starts is not lasts:
        last = _greatest_so_far(last, first_of_key)
    fresh = first_of_key
    fresh[1:] |= start[1:] - last[:-1] > gap
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(fresh)
    return numbers


def _order(codes: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """What sorts by code, then start."""
    least, most = int(starts.min()), int(starts.max())
    span = most - least + 1
    if (int(codes.max()) + 1) * span < 1 << 62:
        packed = codes * span + (starts - least)
        return np.asarray(pl.Series(packed).arg_sort())
    return np.lexsort((starts, codes))


def _greatest_so_far(values: npt.NDArray[np.int64], first: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The greatest value up to each, of those since the last ``first``."""
    # As ranks, values of later groups can be lifted above those of earlier ones without overflow.
    ranks = np.empty(len(values), np.int64)
    order = np.argsort(values, kind="stable")
    ranks[order] = np.arange(len(values))
    lifted = ranks + np.cumsum(first) * len(values)
    return np.asarray(values[order[np.maximum.accumulate(lifted) % len(values)]])
