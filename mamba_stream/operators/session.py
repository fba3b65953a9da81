"""Aggregation by key and session: rows of a key that follow each other without a pause longer than the gap.

A batch's rows are reduced at once to the sessions that they make among themselves. These wait, sorted by their start,
until the watermark has passed it by the gap: a row on time may lie that far behind. Then each meets the one session
of its key that is open. What no row on time can touch any more is given out: a session whose end the watermark has
passed by the gap. So nothing depends on when rows came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.columns import ORDER_TYPES, PREFIX, TIME, ticks
from mamba_stream.operators.grouping import codes_of, grouped
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.places import ascending
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.results import AggregateSettings, Results
from mamba_stream.operators.runs import SLOT, Runs
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.tardiness import without_late

_LAST: Final = f"{PREFIX}last"
_ALL: Final = f"{PREFIX}all"
"""In place of a key where there is none."""
_SESSION: Final = f"{PREFIX}session"


@dataclass(frozen=True, kw_only=True)
class SessionSettings(AggregateSettings):
    """What a session step is told by the plan.

    Attributes:
        gap: The longest pause in a session, in ticks.
    """

    gap: int


class SessionStep(Remembering):
    """The state of one session step, and what rows and watermarks do to it."""

    adds_whole = True

    def __init__(self, settings: SessionSettings) -> None:
        self._set = settings
        self.tolerates = False
        self._gap = settings.gap
        self._keys: Mapping[str, pl.DataType] = settings.keys or {_ALL: pl.Int8()}
        split = settings.aggregation
        # Those that touch stay apart while they wait: what is released together must not depend on what was merged.
        self._waiting = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))
        values = {SLOT: pl.Int64(), _LAST: pl.Int64(), **split.partial_schema}
        self._open = KeyedTable(self._keys, values, timed=True)
        self._kept_columns = [name for name in split.kept_columns if name not in self._keys]
        self._kept: KeyedRows | None = None
        if split.kept:
            kept = {name: settings.types[name] for name in self._kept_columns}
            self._kept = KeyedRows(self._keys, {**kept, **ORDER_TYPES})
        self._results = Results(settings)
        super().__init__(waiting=self._waiting, open=self._open, kept=self._kept)

    @property
    def horizon(self) -> int:
        """Rows carry the end of their session less one tick, and open ones may have ended up to a gap ago."""
        if self._closed in (NEVER, FOREVER):
            return self._closed
        return max(NEVER, self._closed - self._gap - 1)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives back those that came too late."""
        frame = frame.with_columns(ticks(self._set.time, self._set.shift).alias(TIME))
        if not self._set.keys:
            frame = frame.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))
        frame, late = without_late(frame, self._closed, self._set.dtype, grace=self._gap)
        if frame.height:
            self._waiting.add(self._of_rows(frame).sort(SLOT))
            if self._kept is not None:
                self._kept.add(frame.select(*self._keys), frame.select(*self._kept_columns, *ORDER_TYPES))
        if late is None:
            return NOTHING
        return Made(late=late if self._set.keys else late.without(_ALL))

    def _of_rows(self, frame: pl.DataFrame) -> pl.DataFrame:
        times = frame.get_column(TIME).to_numpy()
        numbers = _numbered(codes_of(frame, list(self._keys)), times, times, self._gap)
        numbered = frame.with_columns(pl.Series(_SESSION, numbers))
        edges = [pl.col(TIME).min().alias(SLOT), pl.col(TIME).max().alias(_LAST)]
        return self._grouped(numbered, [*edges, *self._set.aggregation.partial_exprs])

    def _merged(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Sessions, of which some may touch, as those that they make together."""
        starts, lasts = (frame.get_column(name).to_numpy() for name in (SLOT, _LAST))
        numbers = _numbered(codes_of(frame, list(self._keys)), starts, lasts, self._gap)
        numbered = frame.with_columns(pl.Series(_SESSION, numbers))
        edges = [pl.col(SLOT).min(), pl.col(_LAST).max()]
        return self._grouped(numbered, [*edges, *self._set.aggregation.merge_exprs])

    def _grouped(self, frame: pl.DataFrame, exprs: Sequence[pl.Expr]) -> pl.DataFrame:
        """One row for each session."""
        keys = [pl.col(name).first() for name in self._keys]
        return grouped(frame, [_SESSION], [*keys, *exprs], nested=self._set.nested).drop(_SESSION)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives out the sessions that no row on time can touch any more, in the order of their end and key."""
        if watermark <= self._closed:
            return
        self._closed = watermark
        over = self._over(self._released())
        if over.height:
            yield self._finished(over)

    def _released(self) -> pl.DataFrame | None:
        """The sessions before whose start no row on time will come any more; they leave those that wait."""
        reached = self._reached()
        heads = self._waiting.head(reached)
        if not heads:
            return None
        released = self._merged(pl.concat(heads))
        self._waiting.drop(reached)
        return released

    def _reached(self) -> int:
        """No row on time will come with a time before this."""
        return max(NEVER, self._closed - self._gap)

    def _over(self, released: pl.DataFrame | None) -> pl.DataFrame:
        """Lets sessions meet those that are open, and takes out what is over."""
        columns = [*self._keys, SLOT, _LAST, *self._set.aggregation.partial_schema]
        parts = []
        if released is not None:
            keys = released.select(*self._keys)
            slots = self._open.slots(keys, insert=True)
            distinct = ascending(slots)
            known = distinct[self._open.present(distinct)]
            sessions = released.select(columns)
            if len(known):
                before = pl.concat([self._open.keys(known), self._open.get(known)], how="horizontal")
                sessions = self._merged(pl.concat([sessions, before.select(columns)])).select(columns)
                slots = self._open.slots(sessions.select(*self._keys))
            # Those of one key do not touch: all but the last are over.
            last = _last_of_each(slots, sessions.get_column(SLOT).to_numpy())
            stays = sessions.filter(pl.Series(last))
            self._open.put(
                slots[last],
                stays.select(columns[len(self._keys) :]),
                stays.get_column(_LAST).to_numpy(),
            )
            if stays.height < sessions.height:
                parts.append(sessions.filter(pl.Series(~last)))
        parts.append(self._open.expire(max(NEVER, self._reached() - self._gap)).select(columns))
        return parts[0] if len(parts) == 1 else pl.concat(parts)

    def _finished(self, over: pl.DataFrame) -> Made:
        start = f"{PREFIX}start"
        over = over.rename({SLOT: start, _LAST: SLOT})
        rows = self._rows_of(over, start) if self._kept is not None else None
        end = pl.col(SLOT) + self._gap
        return self._results.of(over, rows, pl.col(start), end, tolerates=self.tolerates).made

    def _rows_of(self, over: pl.DataFrame, start: str) -> pl.DataFrame:
        """The rows that sessions are made of; they leave the state."""
        assert self._kept is not None
        probe, ids = self._kept.matching(over.select(*self._keys))
        times = self._kept.get(ids).get_column(TIME).to_numpy()
        bounds = over.select(start, SLOT).to_numpy()
        inside = (times >= bounds[probe, 0]) & (times <= bounds[probe, 1])
        probe, ids = probe[inside], ids[inside]
        mine = over.select(pl.col(*self._keys, SLOT).gather(probe))
        rows = pl.concat([mine, self._kept.get(ids)], how="horizontal")
        self._kept.remove(ids)
        return rows.select(SLOT, *self._set.keys, *self._kept_columns, *ORDER_TYPES)

    def restored(self, closed: int) -> None:
        """Forgets what had been released."""
        super().restored(closed)
        if closed > NEVER:
            self._waiting.drop(self._reached())

    def view(self) -> pl.DataFrame:
        """The sessions that are open, as they would be given out now."""
        self.tolerates = True
        return self._results.view(self.advance(FOREVER))


def _numbered(
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


def _last_of_each(slots: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which sessions are the last of their key."""
    order = np.lexsort((starts, slots))
    last = np.ones(len(order), np.bool_)
    np.not_equal(slots[order][1:], slots[order][:-1], out=last[:-1])
    found = np.empty(len(order), np.bool_)
    found[order] = last
    return found
