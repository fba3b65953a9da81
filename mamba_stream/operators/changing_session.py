"""Sessions that give their results with every batch that changes them: a changelog.

The state has every session of a key that a row may still touch. What a batch adds to them, or brings together, is
merged at once, and the results of the sessions that it touched are put in the place of those that there were before.
Which rows make a session does not depend on when they came: whoever is on time may lie as far as the gap behind the
watermark, and a session stays until none of those can touch it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from msgspec.structs import replace

from mamba_stream.operators.changes import Emitted, differences
from mamba_stream.operators.grouping import codes_of
from mamba_stream.operators.keyedrows import KeyedRows
from mamba_stream.operators.places import ascending
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.results import WINDOW_START, Finished, Results
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.stretches import LAST, Sessions, SessionSettings


class ChangingSessionStep(Remembering):
    """The state of one step of sessions that change, and what rows and watermarks do to it."""

    def __init__(self, settings: SessionSettings) -> None:
        self.tolerates = False
        self.adds_whole = True
        self._by = [*settings.keys, WINDOW_START]
        self._results = Results(replace(settings, with_origin=False), stay=True)
        self._sessions = sessions = Sessions(settings, self._results)
        # Each with the time of its last row.
        self._open = KeyedRows(sessions.keys, sessions.values, timed=True)
        self._kept = sessions.kept()
        self._emitted = Emitted(settings.number if settings.with_origin else None)
        super().__init__(open=self._open, kept=self._kept, emitted=self._emitted)

    @property
    def horizon(self) -> int:
        """Rows carry the end of their session less one tick, and those that change may have ended up to a gap ago."""
        return self._sessions.horizon(self._closed)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives back what changes at once, and the rows that came too late."""
        frame, late = self._sessions.on_time(frame, self._closed)
        if not frame.height:
            return NOTHING if late is None else Made(late=late)
        made = self._taken_in(frame)
        return Made(made.rows, late, failed=made.failed)

    def _taken_in(self, frame: pl.DataFrame) -> Made:
        """Lets the sessions that rows make among themselves meet those that are there."""
        fresh, names = self._sessions.of_rows(frame), list(self._sessions.keys)
        ids = self._open.matching(fresh.select(names).unique()).ids
        there = pl.concat([self._open.keys_of(ids), self._open.get(ids)], how="horizontal")
        both = pl.concat([there.select(fresh.columns), fresh])
        numbers = self._sessions.numbers(both)
        touched = np.isin(numbers, numbers[len(ids) :])
        old, ids = there.filter(touched[: len(ids)]), ids[touched[: len(ids)]]
        before = self._shown(old, tolerates=True)
        new = self._sessions.merged(both.filter(touched), numbers[touched])
        self.adds_whole = False
        self._sessions.keep(frame, self._kept)
        after = self._shown(new, tolerates=self.tolerates)
        self._open.remove(ids)
        values = new.select(*self._sessions.values)
        self._open.add(new.select(names), values, new.get_column(LAST).to_numpy())
        made = self._changes(before.rows, after.rows)
        self.adds_whole = True
        return Made(None if made is None else self._emitted.numbered(made), failed=after.failed)

    def _shown(self, sessions: pl.DataFrame, *, tolerates: bool) -> Finished:
        """The results of those sessions that have any."""
        if not sessions.height:
            return Finished(self._results.view([]))
        return self._sessions.results(sessions, self._kept, tolerates=tolerates)

    def _changes(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame | None:
        """What leads from some results to others; those with one key and start are the same session."""
        if not before.height + after.height:
            return None
        codes = codes_of(pl.concat([before.select(self._by), after.select(self._by)]), self._by)
        was, now = codes[: before.height], codes[before.height :]
        union = ascending(codes)
        return differences(
            before[np.argsort(was)], after[np.argsort(now)], np.isin(union, was), np.isin(union, now)
        )

    def advance(self, watermark: int) -> Iterator[Made]:
        """Forgets the sessions that no row on time can touch any more."""
        if watermark > self._closed:
            self._closed = watermark
            over = self._open.expire(self._sessions.over(watermark))
            if self._kept is not None and over.height:
                self._kept.remove(self._sessions.inside(over, self._kept)[1])
        yield from ()

    def view(self) -> pl.DataFrame:
        """The sessions that may still change."""
        return self._shown(self._open.frame(), tolerates=True).rows
