"""Timers of a user's function: by key and name, in the stream's time or by the wall clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec
import numpy as np
import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput, SchemaMismatch
from mamba_stream.operators.columns import PREFIX, ticks
from mamba_stream.operators.keyed import KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.lateness import FOREVER, NEVER, Ticks
from mamba_stream.operators.times import as_time
from mamba_stream.operators.usercall import Hold
from mamba_stream.operators.userkeys import CallKeys

TIMER: Final = "timer"
"""The column of ``timers.fired`` with a timer's name."""
TIME: Final = "time"
"""The column of ``timers.fired`` with the time that it was set to."""

_AT: Final = f"{PREFIX}at"


class Set(msgspec.Struct, frozen=True):
    """A call sets timers, or cancels them where there are no times."""

    clock: Literal["stream", "wall"]
    name: str
    keys: pl.DataFrame
    slots: Slots
    times: Ticks | None


class Timers:
    """Wake a key up later: ``fired`` has the keys that are woken in this call.

    A key has one timer of each name: setting it again moves it.

    Attributes:
        fired: The keys whose timers have fired, with ``timer`` (the name it was set with) and ``time``.
    """

    def __init__(
        self,
        keys: CallKeys,
        schema: Mapping[str, pl.DataType],
        dtype: pl.DataType | None,
        shift: int,
        hold: Hold,
    ) -> None:
        self._hold = hold
        self._keys = keys
        self._names = list(schema)
        self._dtype = dtype
        self._shift = shift
        self._now = 0
        self._empty = pl.DataFrame(schema={**schema, TIMER: pl.String(), TIME: dtype or pl.Null()})
        self.fired = self._empty
        self._set: list[Set] = []

    def at(self, rows: pl.DataFrame, time: Any, name: str = "") -> None:
        """Wakes the key of each row when the stream's time has passed ``time``, after all rows of that time.

        Args:
            rows: A frame with the key columns, a row for each key.
            time: A column's name, an expression over ``rows`` or a datetime. What has passed already fires next.
            name: Tells apart several timers of a key.
        """
        if self._dtype is None:
            raise InvalidInput(
                "timers.at goes by the stream's time, and this stream has none: use timers.after"
            )
        if isinstance(time, str):
            time = pl.col(time)
        with self._hold.kept("timers.at"):
            self._at(rows, time, name, self._dtype)

    def _at(self, rows: pl.DataFrame, time: Any, name: str, dtype: pl.DataType) -> None:
        slots = self._keys.distinct(rows, "timers.at")
        found = rows.select((time if isinstance(time, pl.Expr) else pl.lit(time)).alias(_AT))
        if found.schema[_AT] != dtype:
            if not isinstance(found.schema[_AT], pl.Datetime | pl.Date):
                raise SchemaMismatch(
                    f"timers.at: time= is {found.schema[_AT]}, and the stream's time is {dtype}"
                )
            found = found.cast(dtype)
        if found.get_column(_AT).null_count():
            raise InvalidInput("timers.at: a time is null: leave such rows out, or use timers.cancel")
        times = found.select(ticks(_AT, self._shift)).to_series().to_numpy()
        if len(times) < len(slots):
            times = np.full(len(slots), times[0])
        self._note("stream", name, rows, slots, np.clip(times, NEVER + 1, FOREVER - 1))

    def after(self, rows: pl.DataFrame, delay: str | timedelta, name: str = "") -> None:
        """Wakes the key of each row once so much time has passed on the clock of the machine.

        When that is depends on when rows happen to be worked on: other runs give other results.

        Args:
            rows: A frame with the key columns, a row for each key.
            delay: Such as ``"30s"``.
            name: Tells apart several timers of a key.
        """
        with self._hold.kept("timers.after"):
            slots = self._keys.distinct(rows, "timers.after")
            due = self._now + duration_us(delay, what="timers.after: delay")
            self._note("wall", name, rows, slots, np.full(len(slots), due))

    def cancel(self, rows: pl.DataFrame, name: str = "") -> None:
        """Takes back the timers of this name of the keys of these rows, of either kind."""
        with self._hold.kept("timers.cancel"):
            slots = self._keys.distinct(rows, "timers.cancel")
            self._note("stream", name, rows, slots, None)
            self._note("wall", name, rows, slots, None)

    def _note(
        self,
        clock: Literal["stream", "wall"],
        name: str,
        rows: pl.DataFrame,
        slots: Slots,
        times: Ticks | None,
    ) -> None:
        if name:
            check_name(name, "timer")
        self._set.append(Set(clock, name, rows.select(self._names), slots, times))

    # -- for the step ----------------------------------------------------------------------------------------------

    def begin(self, fired: pl.DataFrame | None, now: int) -> None:
        """A call begins."""
        self._now = now
        self.fired = self._empty if fired is None else fired

    def end(self) -> list[Set]:
        """What the call set."""
        found, self._set = self._set, []
        return found

    def shown(self, keys: pl.DataFrame, names: pl.Series, times: Ticks | None) -> pl.DataFrame:
        """Timers as the function sees them; the times are unknown where there are none."""
        if self._dtype is None or times is None:
            time = pl.Series(TIME, [None], dtype=self._dtype or pl.Null()).new_from_index(0, keys.height)
        else:
            at = pl.DataFrame({_AT: times - self._shift})
            time = at.select(as_time(pl.col(_AT), self._dtype).alias(TIME)).to_series()
        return keys.with_columns(names.alias(TIMER), time)


class Pending:
    """Timers that wait, by key and name."""

    def __init__(self, keys: Mapping[str, pl.DataType]) -> None:
        self._table = KeyedTable({**keys, TIMER: pl.String()}, {}, timed=True)

    @property
    def rows(self) -> int:
        return self._table.rows

    @property
    def bytes(self) -> int:
        return self._table.bytes

    def set(self, keys: pl.DataFrame, name: str, times: Ticks) -> None:
        """Sets or moves timers of distinct keys."""
        if not keys.height:
            return
        slots = self._table.slots(_named(keys, name), insert=True)
        self._table.put(slots, pl.DataFrame(), times)

    def cancel(self, keys: pl.DataFrame, name: str) -> None:
        """Takes timers of distinct keys back, where there are such."""
        if keys.height and self._table.rows:
            slots = self._table.slots(_named(keys, name))
            self._table.remove(slots[slots >= 0])

    @property
    def soonest(self) -> int | None:
        """No timer falls due before this; ``None`` where there are none."""
        return self._table.soonest

    def due(self, before: int) -> pl.DataFrame | None:
        """Takes out the timers with times before the bound: keys, name and time, in the order of time."""
        soonest = self._table.soonest
        if soonest is None or before <= soonest:
            return None
        found = self._table.expire(before)
        return found if found.height else None

    def view(self) -> pl.DataFrame:
        """All of them, by key and name."""
        return self._table.frame()

    def delta(self) -> Mapping[str, pl.DataFrame]:
        return self._table.delta()

    def snapshot(self) -> Mapping[str, pl.DataFrame]:
        return self._table.snapshot()

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        self._table.restore(part, frame)


def _named(keys: pl.DataFrame, name: str) -> pl.DataFrame:
    return keys.with_columns(pl.lit(name).alias(TIMER))
