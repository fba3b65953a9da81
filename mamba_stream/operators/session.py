"""Aggregation by key and session: rows of a key that follow each other without a pause longer than the gap.

A batch's rows are reduced at once to the sessions that they make among themselves. These wait, sorted by their start,
until the watermark has passed it by the gap: a row on time may lie that far behind. Then each meets the one session
of its key that is open. What no row on time can touch any more is given out: a session whose end the watermark has
passed by the gap. So nothing depends on when rows came.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.places import ascending
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.results import Results
from mamba_stream.operators.runs import SLOT, Runs
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.stretches import LAST, Sessions, SessionSettings


class SessionStep(Remembering):
    """The state of one session step, and what rows and watermarks do to it."""

    adds_whole = True

    def __init__(self, settings: SessionSettings) -> None:
        self.tolerates = False
        self._results = Results(settings)
        self._sessions = sessions = Sessions(settings, self._results)
        # Those that touch stay apart while they wait: what is released together must not depend on what was merged.
        self._waiting = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))
        self._open = KeyedTable(sessions.keys, sessions.values, timed=True)
        self._kept = sessions.kept()
        super().__init__(waiting=self._waiting, open=self._open, kept=self._kept)

    @property
    def horizon(self) -> int:
        """Rows carry the end of their session less one tick, and open ones may have ended up to a gap ago."""
        return self._sessions.horizon(self._closed)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives back those that came too late."""
        frame, late = self._sessions.on_time(frame, self._closed)
        if frame.height:
            self._waiting.add(self._sessions.of_rows(frame).sort(SLOT))
            self._sessions.keep(frame, self._kept)
        return NOTHING if late is None else Made(late=late)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives out the sessions that no row on time can touch any more, in the order of their end and key."""
        if watermark <= self._closed:
            return
        self._closed = watermark
        over = self._over(self._released())
        if over.height:
            yield self._sessions.results(over, self._kept, tolerates=self.tolerates, leave=True).made

    def _released(self) -> pl.DataFrame | None:
        """The sessions before whose start no row on time will come any more; they leave those that wait."""
        reached = self._sessions.reached(self._closed)
        heads = self._waiting.head(reached)
        if not heads:
            return None
        waited = pl.concat(heads)
        released = self._sessions.merged(waited, self._sessions.numbers(waited))
        self._waiting.drop(reached)
        return released

    def _over(self, released: pl.DataFrame | None) -> pl.DataFrame:
        """Lets sessions meet those that are open, and takes out what is over."""
        names, columns = list(self._sessions.keys), [*self._sessions.keys, *self._sessions.values]
        parts = []
        if released is not None:
            sessions = released
            slots = self._open.slots(sessions.select(names), insert=True)
            distinct = ascending(slots)
            known = distinct[self._open.present(distinct)]
            if len(known):
                before = pl.concat([self._open.keys(known), self._open.get(known)], how="horizontal")
                both = pl.concat([sessions, before.select(columns)])
                sessions = self._sessions.merged(both, self._sessions.numbers(both))
                slots = self._open.slots(sessions.select(names))
            # Those of one key do not touch: all but the last are over.
            last = _last_of_each(slots, sessions.get_column(SLOT).to_numpy())
            stays = sessions.filter(pl.Series(last))
            self._open.put(
                slots[last], stays.select(*self._sessions.values), stays.get_column(LAST).to_numpy()
            )
            if stays.height < sessions.height:
                parts.append(sessions.filter(pl.Series(~last)))
        parts.append(self._open.expire(self._sessions.over(self._closed)).select(columns))
        return parts[0] if len(parts) == 1 else pl.concat(parts)

    def restored(self, closed: int) -> None:
        """Forgets what had been released."""
        super().restored(closed)
        if closed > NEVER:
            self._waiting.drop(self._sessions.reached(closed))

    def view(self) -> pl.DataFrame:
        """The sessions that are open, as they would be given out now."""
        self.tolerates = True
        return self._results.view(self.advance(FOREVER))


def _last_of_each(slots: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which sessions are the last of their key."""
    order = np.lexsort((starts, slots))
    last = np.ones(len(order), np.bool_)
    np.not_equal(slots[order][1:], slots[order][:-1], out=last[:-1])
    found = np.empty(len(order), np.bool_)
    found[order] = last
    return found
