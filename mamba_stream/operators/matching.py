"""Sequences of rows: for each row that begins one, the next row of its key that goes on with it, and so to the end.

Between the rows of a sequence others may lie. Rows that no condition holds for are not even kept. What a sequence
is depends on nothing but the rows from its beginning to its end: so a match is given when its last row passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.single import twice, written_out
from mamba_stream.operators.columns import (
    OFFSET,
    ORDER,
    ORDER_TYPES,
    ORDINAL,
    ORIGIN,
    ORIGIN_TYPES,
    PARTITION,
    PREFIX,
    SOURCE,
    TIME,
    comes_later,
    visible,
)
from mamba_stream.operators.failures import RowsFailed, worked
from mamba_stream.operators.history import History
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.passing import PassingStep, Timing
from mamba_stream.operators.step import NOTHING, Failed, Made
from mamba_stream.operators.times import as_time

MATCH_START: Final = "match_start"
MATCH_END: Final = "match_end"
_FRESH: Final = f"{PREFIX}fresh"
_BEGIN: Final = f"{PREFIX}begin"
_ONE_KEY: Final = f"{PREFIX}all"
_BUSY_UNTIL: Final = f"{PREFIX}until_"

Places = npt.NDArray[np.int64]


class Link(msgspec.Struct, frozen=True):
    """One row of a sequence.

    Attributes:
        name: What the user calls it.
        condition: What holds for the row.
        within: How many ticks it may come after the row before it; ``None`` for any.
    """

    name: str
    condition: pl.Expr
    within: int | None


class MatchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a step that looks for sequences is told by the plan.

    Attributes:
        timing: Its time.
        by: The key's columns with their types.
        links: The rows of a sequence.
        within: How many ticks lie between its first and its last row at most.
        overlapping: Whether a row may belong to several matches.
        columns: The columns that the results read.
        exprs: The results: row-wise expressions over ``link.column``.
        number: The step's number, for the origin of its rows.
        with_origin: Whether a later step needs their origin.
    """

    timing: Timing
    by: Mapping[str, pl.DataType]
    links: Sequence[Link]
    within: int
    overlapping: bool
    columns: Sequence[str]
    exprs: Mapping[str, pl.Expr]
    number: int
    with_origin: bool


class MatchStep(PassingStep):
    """Keeps the rows of the last ``within`` ticks that may belong to a sequence."""

    adds_whole = True

    def __init__(self, settings: MatchSettings) -> None:
        self._set = settings
        self._holds = [f"{PREFIX}holds_{number}" for number in range(len(settings.links))]
        self._by = dict(settings.by) or {_ONE_KEY: pl.Boolean()}
        self._history = History()
        until = {f"{_BUSY_UNTIL}{name}": dtype for name, dtype in ORDER_TYPES.items()}
        self._busy = KeyedTable(self._by, until, timed=True)
        columns = list(dict.fromkeys([*self._by, *settings.columns, *self._holds]))
        super().__init__(settings.timing, columns, history=self._history, busy=self._busy)

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Judges rows by all conditions; only those that one holds for can belong to a sequence."""
        conditions = [
            link.condition.fill_null(value=False).alias(name)
            for link, name in zip(self._set.links, self._holds, strict=True)
        ]
        judged = frame.hstack(
            (twice(frame) if frame.height == 1 else frame).select(conditions).head(frame.height)
        )
        if not self._set.by:
            judged = judged.with_columns(pl.lit(True).alias(_ONE_KEY))
        made = super().add(judged, port)
        if made.late is None:
            return made
        shown = made.late.frame.drop(*self._holds, _ONE_KEY, strict=False)
        return Made(late=type(made.late)(shown, made.late.by))

    def passed(self, rows: pl.DataFrame) -> Made:
        """The matches whose last row is among these."""
        rows = rows.filter(pl.any_horizontal(self._holds))
        if not rows.height:
            return NOTHING
        fresh = rows.with_columns(pl.lit(True).alias(_FRESH))
        together = self._history.behind(fresh, list(self._by)).sort(list(self._by), maintain_order=True)
        places = self._matches(together)
        self._history.add(rows)
        return self._results(together, places) if places.shape[1] else NOTHING

    def _matches(self, rows: pl.DataFrame) -> Places:
        """For each match the places of its rows, one column for each match; rows lie sorted by key and order."""
        group = rows.select(pl.struct(list(self._by)).rle_id().cast(pl.Int64)).to_series().to_numpy()
        times = rows.get_column(TIME).to_numpy()
        holds = [np.flatnonzero(rows.get_column(name).to_numpy()) for name in self._holds]
        chain = [holds[0] if self._set.overlapping else self._not_busy(rows, holds[0])]
        for link, candidates in zip(self._set.links[1:], holds[1:], strict=True):
            before = chain[-1]
            at = np.searchsorted(candidates, before, side="right")
            there = at < len(candidates)
            after = candidates[np.minimum(at, max(len(candidates) - 1, 0))] if len(candidates) else before
            good = (
                there & (group[after] == group[before]) & (times[after] - times[chain[0]] <= self._set.within)
            )
            if link.within is not None:
                good &= times[after] - times[before] <= link.within
            chain = [*(part[good] for part in chain), after[good]]
        places = np.stack(chain)
        if not self._set.overlapping:
            places = self._apart(places, group)
        fresh = rows.get_column(_FRESH).fill_null(value=False).to_numpy()
        found = places[:, fresh[places[-1]]]
        if not self._set.overlapping and found.shape[1]:
            self._occupy(rows, found)
        return found

    def _not_busy(self, rows: pl.DataFrame, starts: Places) -> Places:
        """The rows that may begin a match: those behind the end of the last one of their key."""
        begins = rows[starts].select(*self._by, *ORDER)
        slots = self._busy.slots(begins.select(list(self._by)))
        busy = self._busy.present(slots)
        free = ~busy
        free[busy] = comes_later(begins.filter(busy), self._busy.get(slots[busy]), _BUSY_UNTIL)
        return starts[free]

    @staticmethod
    def _apart(places: Places, group: Places) -> Places:
        """Of matches that overlap the one that begins first; then the next behind its end, and so on."""
        starts, ends = places[0], places[-1]
        if not len(starts):
            return places
        owner = group[starts]
        following = np.searchsorted(starts, ends, side="right")
        current = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
        chosen = []
        while len(current):
            chosen.append(current)
            next_ = following[current]
            there = next_ < len(starts)
            current, next_ = current[there], next_[there]
            current = next_[owner[next_] == owner[current]]
        return places[:, np.sort(np.concatenate(chosen))]

    def _occupy(self, rows: pl.DataFrame, found: Places) -> None:
        ends = rows[found[-1]].select(*self._by, *ORDER)
        last = ends.group_by(list(self._by), maintain_order=True).last()
        until = last.select(pl.col(name).alias(f"{_BUSY_UNTIL}{name}") for name in ORDER)
        slots = self._busy.slots(last.select(list(self._by)), insert=True)
        self._busy.put(slots, until, last.get_column(TIME).to_numpy())

    def _results(self, rows: pl.DataFrame, places: Places) -> Made:
        """One row for each match, in the order of its end, key and beginning."""
        parts = [rows[places[0]].select(list(self._by))]
        for link, at in zip(self._set.links, places, strict=True):
            part = rows[at].select(pl.col(name).alias(f"{link.name}.{name}") for name in self._set.columns)
            parts.append(part)
        begin, end = (rows.get_column(TIME).gather(places[at]) for at in (0, -1))
        wide = pl.concat(parts, how="horizontal").with_columns(begin.alias(_BEGIN), end.alias(TIME))
        order = [rows.get_column(name).gather(places[0]).alias(f"{PREFIX}begin_{name}") for name in ORIGIN]
        wide = wide.with_columns(order).sort(
            TIME, *self._by, _BEGIN, *(f"{PREFIX}begin_{name}" for name in ORIGIN), maintain_order=True
        )
        try:
            found, failed = worked(self._computed, wide, tolerates=self.tolerates)
        except RowsFailed as error:
            raise RowsFailed(self._left_out(error.failed)) from error.failed.error
        left_out = [self._left_out(one) for one in failed]
        if not found:
            return Made(failed=left_out)
        made = found[0] if len(found) == 1 else pl.concat(found)
        if self._set.with_origin:
            made = made.with_columns(self._origin())
        return Made(written_out(made.drop(TIME)), failed=left_out)

    def _computed(self, wide: pl.DataFrame) -> pl.DataFrame:
        shown = twice(wide) if wide.height == 1 else written_out(wide)
        results = [expr.alias(name) for name, expr in self._set.exprs.items()]
        return shown.select(*self._keys_and_times(), *results, TIME).head(wide.height)

    def _keys_and_times(self) -> list[pl.Expr]:
        timing = self._set.timing
        keys = [pl.col(name) for name in self._by if name != _ONE_KEY]
        times = (
            as_time(pl.col(column) - timing.shift, timing.dtype).alias(name)
            for column, name in ((_BEGIN, MATCH_START), (TIME, MATCH_END))
        )
        return [*keys, *times]

    def _left_out(self, failed: Failed) -> Failed:
        """A match over which a result's expression raises, as somebody reads it."""
        matches = visible(failed.frame.select(*self._keys_and_times(), pl.exclude(*self._by)))
        start, end = matches.row(0, named=True)[MATCH_START], matches.row(0, named=True)[MATCH_END]
        what = f"the match from {start} to {end}" if matches.height == 1 else f"{matches.height:,} matches"
        return Failed(matches, failed.error, what)

    def _origin(self) -> list[pl.Expr]:
        values = {
            SOURCE: pl.lit(self._set.number),
            PARTITION: pl.lit(0),
            OFFSET: pl.int_range(pl.len()).over(TIME),
            ORDINAL: pl.lit(0),
        }
        return [values[name].cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN]

    def forget(self, watermark: int) -> None:
        """Rows that lie so far back that no sequence with a later row can begin with them."""
        before = max(watermark, NEVER + self._set.within) - self._set.within
        self._history.drop(before)
        self._busy.expire(before)

    def view(self) -> pl.DataFrame:
        """The rows that a sequence may have begun with."""
        frame = self._history.frame()
        return pl.DataFrame(schema=self._set.by) if frame is None else visible(frame)
