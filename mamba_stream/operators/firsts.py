"""The first row of each key, for ever or within a time: in the order of the stream, or as rows arrive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.operators.columns import ORIGIN, TIME, tick_values
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.lateness import FOREVER, NEVER, Ticks
from mamba_stream.operators.passing import PassingStep, Timing
from mamba_stream.operators.remembering import Remembering
from mamba_stream.operators.rowstore import Mask
from mamba_stream.operators.step import NOTHING, Made


class FirstsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the step is told by the plan.

    Attributes:
        keys: The key columns and their types.
        columns: The columns of the rows.
        time: The time column, where there is one.
        shift: Ticks to add to it.
        dtype: Its type.
        within: How long after a row that was kept others of its key are left out, in ticks; ``None`` is for ever.
        with_origin: Whether a later step needs the origin of the rows.
    """

    keys: Mapping[str, pl.DataType]
    columns: Sequence[str]
    time: str | None
    shift: int
    dtype: pl.DataType | None
    within: int | None
    with_origin: bool


class Seen:
    """The keys that were kept, and which of further rows are."""

    def __init__(self, keys: Mapping[str, pl.DataType], within: int | None) -> None:
        self._keys = list(keys)
        self._within = within
        self._table = KeyedTable(keys, {}, timed=within is not None)

    @property
    def rows(self) -> int:
        return self._table.rows

    @property
    def bytes(self) -> int:
        return self._table.bytes

    def firsts(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that are the first of their key; with a bound, ``TIME`` is how far they are apart."""
        slots = self._table.slots(frame.select(self._keys), insert=True)
        distinct, key = np.unique(slots, return_inverse=True)
        seen = self._table.present(distinct)
        if self._within is None:
            _, first = np.unique(key, return_index=True)
            first = first[~seen]
            self._table.put(distinct[~seen], pl.DataFrame())
            return frame[np.sort(first)]
        time = frame.get_column(TIME).to_numpy()
        last = np.full(len(distinct), NEVER)
        last[seen] = self._table.times(distinct[seen])
        kept = _kept(key, time, last, self._within)
        self._table.put(distinct, pl.DataFrame(), last)
        return frame.filter(kept)

    def forget(self, watermark: int) -> None:
        """Lets go of keys that no row on time can repeat any more."""
        if self._within is not None and NEVER < watermark < FOREVER:
            self._table.expire(max(NEVER + 1, watermark - self._within))

    def view(self) -> pl.DataFrame:
        return self._table.frame()

    def delta(self) -> dict[str, pl.DataFrame]:
        return self._table.delta()

    def snapshot(self) -> dict[str, pl.DataFrame]:
        return self._table.snapshot()

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        self._table.restore(part, frame)


class Firsts(PassingStep):
    """Rows wait until time has passed them; then the first of each key goes on."""

    def __init__(self, settings: FirstsSettings) -> None:
        assert settings.time is not None
        assert settings.dtype is not None
        self._set = settings
        self._seen = Seen(settings.keys, settings.within)
        timing = Timing(time=settings.time, shift=settings.shift, dtype=settings.dtype)
        super().__init__(timing, settings.columns, seen=self._seen)

    def passed(self, rows: pl.DataFrame) -> Made:
        """The rows that are the first of their keys."""
        firsts = self._seen.firsts(rows)
        if not firsts.height:
            return NOTHING
        return Made(firsts.drop(TIME, *(() if self._set.with_origin else ORIGIN)))

    def forget(self, watermark: int) -> None:
        """Lets go of keys that no row on time can repeat any more."""
        self._seen.forget(watermark)

    def view(self) -> pl.DataFrame:
        """The keys whose first row went on, and that are not let go of."""
        return self._seen.view()


class FirstsOnArrival(Remembering):
    """The first row of each key to arrive goes on at once."""

    def __init__(self, settings: FirstsSettings) -> None:
        self._set = settings
        self._seen = Seen(settings.keys, settings.within)
        super().__init__(seen=self._seen)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives those whose key has not come before."""
        if not frame.height:
            return NOTHING
        if self._set.within is None:
            return Made(self._seen.firsts(frame))
        assert self._set.time is not None
        ticks = tick_values(frame, self._set.time) + self._set.shift
        return Made(self._seen.firsts(frame.with_columns(ticks.alias(TIME))).drop(TIME))

    def advance(self, watermark: int) -> Iterator[Made]:
        """Lets go of keys whose time is over."""
        self._closed = watermark
        self._seen.forget(watermark)
        yield from ()

    def view(self) -> pl.DataFrame:
        """The keys that came, and are not let go of."""
        return self._seen.view()


def _kept(key: NDArray[np.intp], time: Ticks, last: Ticks, within: int) -> Mask:
    """Which rows are further than the bound from the last row of their key that was kept; notes the latter in ``last``.

    Each round keeps one row of each key that has any left: as many rounds as a key has rows that are kept.
    """
    kept = np.zeros(len(time), np.bool_)
    left = np.arange(len(time))
    while len(left):
        before, now = last[key[left]], time[left]
        left = left[(before == NEVER) | (now > before + within) | (now < before - within)]
        _, first = np.unique(key[left], return_index=True)
        rows = left[first]
        kept[rows] = True
        last[key[rows]] = np.maximum(last[key[rows]], time[rows])
        left = np.delete(left, first)
    return kept
