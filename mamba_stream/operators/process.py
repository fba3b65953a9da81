"""A user's function with keyed state and timers of its own, called with a batch at a time.

What a key goes through has one order: its rows as the stream has them, and each timer once all rows up to its time
have been. A call has at most one thing of each key, a row or a timer that fired, unless the function says that it can
take several; so a function that treats every row alone is right however rows are cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import written_out
from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.columns import (
    OFFSET,
    ORDINAL,
    ORIGIN,
    ORIGIN_TYPES,
    PARTITION,
    SOURCE,
    TIME,
    ticks,
    visible,
)
from mamba_stream.operators.failures import FAILURES, ProcessDied, RowsFailed, watched
from mamba_stream.operators.fitting import fitted
from mamba_stream.operators.in_order import InOrder
from mamba_stream.operators.keyed import TOUCHED, KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.lateness import FOREVER, NEVER, Ticks
from mamba_stream.operators.places import ascending
from mamba_stream.operators.rowstore import picked, room_for
from mamba_stream.operators.step import NOTHING, Failed, Made
from mamba_stream.operators.tardiness import without_late
from mamba_stream.operators.usercall import Hold
from mamba_stream.operators.userkeys import CallKeys
from mamba_stream.operators.userstate import State
from mamba_stream.operators.usertimers import TIMER, Pending, Set, Timers

MAIN: Final = ""
"""In place of the name of a side output: the main one."""

Function = Callable[[pl.DataFrame, State, Timers], Any]
Indices = NDArray[np.int64]


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a process step is told by the plan.

    Attributes:
        function: The user's.
        rows: The columns of the rows that come.
        keys: The key columns.
        state: What is remembered by key.
        outputs: The columns of the main output and of the side outputs, by name.
        time: The time column of the rows that come; ``None`` where they have none.
        shift: Ticks to add to it.
        dtype: Its type.
        timed: The outputs that have the time column still.
        ordered: Whether rows wait for the watermark and come in the order of the stream.
        several: Whether a call may have several rows of a key.
        ttl: For how many ticks what was written is remembered.
        number: The step's own number, for the origin of the rows it makes.
        with_origin: Whether a later step needs the origin of the rows it makes.
    """

    function: Function
    rows: Mapping[str, pl.DataType]
    keys: Mapping[str, pl.DataType]
    state: Mapping[str, pl.DataType]
    outputs: Mapping[str, Mapping[str, pl.DataType]]
    time: str | None
    shift: int
    dtype: pl.DataType | None
    timed: frozenset[str]
    ordered: bool
    several: bool
    ttl: int | None
    number: int
    with_origin: bool


class _Made(msgspec.Struct):
    """What calls gave so far."""

    outputs: dict[str, list[pl.DataFrame]] = msgspec.field(default_factory=dict)
    failed: list[Failed] = msgspec.field(default_factory=list)


class ProcessStep:
    """The state, the timers and the waiting rows of one process step."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._set = settings
        self._names = list(settings.keys)
        self._waiting = InOrder()
        # Frames come in various forms: as they are read, or from other tasks. Those that wait have one.
        self._waits = [*settings.rows, *ORIGIN, TIME]
        self._table = KeyedTable(settings.keys, settings.state, timed=settings.ttl is not None)
        self._calls = CallKeys(self._table, settings.keys)
        self._renew()
        self._at = Pending(settings.keys)
        self._after = Pending(settings.keys)
        self._dense: Slots = np.zeros(0, np.int64)
        self._no_rows = pl.DataFrame(schema=settings.rows)
        self._closed = NEVER
        self._now = 0
        self.tolerates = False

    @property
    def bytes(self) -> int:
        parts = self._waiting, self._table, self._calls, self._at, self._after
        return sum(part.bytes for part in parts) + self._dense.nbytes

    @property
    def rows(self) -> int:
        return self._waiting.rows + self._table.rows + self._at.rows + self._after.rows

    @property
    def closed(self) -> int:
        return self._closed

    @property
    def horizon(self) -> int:
        """What is given has the time of a row or timer that waited until now, or comes later."""
        return self._closed

    @property
    def due(self) -> int | None:
        return self._after.soonest

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; those on time wait for the watermark, unless they are taken as they arrive."""
        if self._set.time is not None:
            frame = frame.with_columns(ticks(self._set.time, self._set.shift).alias(TIME))
        if not self._set.ordered:
            return self._given(self._run(frame, None, NEVER))
        assert self._set.dtype is not None
        on_time, late = without_late(frame, self._closed, self._set.dtype)
        self._waiting.add(picked(on_time, self._waits))
        return NOTHING if late is None else Made(late=late)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Calls the function with the rows and timers that lie before the watermark."""
        if watermark == FOREVER and self._waiting.rows:
            # At the end timers that are set no longer fire: what lies among the rows comes before that.
            last = self._waiting.last
            assert last is not None
            yield from self.advance(last + 1)
        rows = self._waiting.release(watermark) if self._set.ordered else None
        timers = self._at.due(watermark)
        if rows is not None or timers is not None:
            yield self._given(self._run(rows, timers, watermark))
        if self._set.ttl is not None and NEVER < watermark < FOREVER:
            self._table.expire(max(watermark - self._set.ttl, NEVER))
        self._closed = watermark

    def tick(self, now: int) -> Iterator[Made]:
        """Calls the function with the timers that are due by the wall clock."""
        self._now = now
        timers = self._after.due(now + 1)
        if timers is None:
            return
        made = _Made()
        slots = self._table.slots(timers.select(self._names), insert=True)
        times = np.full(len(slots), self._closed)
        shown = times if NEVER < self._closed < FOREVER else None
        place = _occurrence(slots)
        for turn in range(int(place.max()) + 1):
            at = np.flatnonzero(place == turn)
            keys, names = timers.select(self._names)[at], timers.get_column(TIMER)[at]
            fired = self._timers.shown(keys, names, None if shown is None else shown[at])
            self._call(made, None, fired, slots[at], times[at], self._closed, {})
        self._forget(ascending(slots))
        yield self._given(made)

    # -- calls -----------------------------------------------------------------------------------------------------

    def _run(self, rows: pl.DataFrame | None, timers: pl.DataFrame | None, bound: int) -> _Made:
        """Goes through rows, and timers before the bound, those that are set on the way among them."""
        made = _Made()
        height = 0 if rows is None else rows.height
        of_rows = np.empty(0, np.int64)
        if rows is not None and height:
            of_rows = self._table.slots(picked(rows, self._names), insert=True)
        of_timers = np.empty(0, np.int64)
        if timers is not None:
            of_timers = self._table.slots(timers.select(self._names), insert=True)
        slots, dense = self._numbered(np.concatenate([of_rows, of_timers]))
        if not len(slots):
            return made
        times = np.full(height, NEVER)
        if rows is not None and TIME in rows.columns:
            column = rows.get_column(TIME)
            times = (column.fill_null(NEVER) if column.null_count() else column).to_numpy()
        clocks = _Clocks(len(slots))
        if timers is not None:
            of = dense[height:]
            for name in timers.get_column(TIMER).unique():
                mine = timers.get_column(TIMER).eq(name).to_numpy()
                clocks.set(name, of[mine], timers.get_column(TOUCHED).to_numpy()[mine])
        turns = _several if self._set.several else _one_by_one
        for idx, fire in turns(dense[:height], times, clocks):
            at, fired = np.concatenate([of_rows[idx], slots[fire]]), None
            when = np.concatenate([times[idx], clocks.first[fire]])
            if len(fire):
                names = clocks.fire(fire)
                fired = self._timers.shown(self._table.keys(slots[fire]), names, when[len(idx) :])
            part = None if rows is None or not len(idx) else rows if len(idx) == height else rows[idx]
            self._call(made, part, fired, at, when, bound, clocks)
        self._forget(slots)
        return made

    def _numbered(self, slots: Slots) -> tuple[Slots, Indices]:
        """The slots, each once, and for each of those given its number among them."""
        if not len(slots):
            return slots, slots
        self._dense = room_for(self._dense, int(slots.max()) + 1)
        numbers = np.arange(len(slots))
        self._dense[slots[::-1]] = numbers[::-1]
        distinct = slots[self._dense[slots] == numbers]
        self._dense[distinct] = np.arange(len(distinct))
        return distinct, self._dense[slots]

    def _call(
        self,
        made: _Made,
        rows: pl.DataFrame | None,
        fired: pl.DataFrame | None,
        slots: Slots,
        times: Ticks,
        bound: int,
        clocks: _Clocks | Mapping[str, Any],
    ) -> None:
        """Calls the function once; where it raises, as often as it takes to leave out what it raises over."""
        self._calls.begin(slots, times)
        self._timers.begin(fired, self._now)
        try:
            with watched(fired if rows is None else rows, cuttable=len(slots) > 1):
                found = self._called(rows, times)
        except FAILURES as error:
            self._hold.release()
            self._renew()
            self._failed(made, error, rows, fired, slots, times, bound, clocks)
            return
        self._state.keep()
        for each in self._timers.end():
            self._keep_timers(each, bound, clocks)
        for name, frame in found.items():
            if frame.height:
                made.outputs.setdefault(name, []).append(frame)

    def _renew(self) -> None:
        """What a function is given that those before it, which may hang still, do not have."""
        self._hold = Hold()
        self._state = State(self._table, self._calls, self._set.state, self._set.ttl, self._hold)
        self._timers = Timers(self._calls, self._set.keys, self._set.dtype, self._set.shift, self._hold)

    def _called(self, rows: pl.DataFrame | None, times: Ticks) -> dict[str, pl.DataFrame]:
        seen = self._no_rows if rows is None else visible(rows)
        result = self._set.function(seen, self._state, self._timers)
        sides: Any = {}
        if isinstance(result, tuple):
            if len(result) != 2 or not isinstance(result[1], Mapping):
                raise SchemaMismatch(
                    "the function gave a tuple: it gives a frame, or a frame and a dict of frames for the side outputs"
                )
            result, sides = result
        found = {} if result is None else {MAIN: fitted(result, self._set.outputs[MAIN], what="output=")}
        for name, frame in sides.items():
            if name not in self._set.outputs or name == MAIN:
                known = ", ".join(repr(side) for side in self._set.outputs if side) or "none"
                raise SchemaMismatch(f"the function gave a side output {name!r}: sides= has {known}")
            found[name] = fitted(frame, self._set.outputs[name], what=f"sides={{{name!r}: ...}}")
        for name, frame in found.items():
            if name in self._set.timed and frame.height:
                self._check_times(frame, times)
        return {name: written_out(frame) for name, frame in found.items()}

    def _check_times(self, frame: pl.DataFrame, times: Ticks) -> None:
        """Other times would be late, or early, by chance."""
        assert self._set.time is not None
        column = frame.get_column(self._set.time)
        given = frame.select(ticks(self._set.time, self._set.shift)).to_series().to_numpy()
        # As a rule a function gives a row for each row: comparing them is ten times as fast as looking them up.
        same = len(given) == len(times) and bool((given == times).all())
        if column.null_count() or not (same or np.isin(given, times).all()):
            raise SchemaMismatch(
                f"the function gave times in {self._set.time!r} that no row or timer of the call has: give each row "
                "the time of what it is made of, and put other times into a column of their own"
            )

    def _failed(
        self,
        made: _Made,
        error: BaseException,
        rows: pl.DataFrame | None,
        fired: pl.DataFrame | None,
        slots: Slots,
        times: Ticks,
        bound: int,
        clocks: _Clocks | Mapping[str, Any],
    ) -> None:
        """Calls again with the halves of what the function raised over, and so on."""
        height = 0 if rows is None else rows.height
        # What did not end in time would take as long again for each half.
        if len(slots) == 1 or (isinstance(error, TimeoutError) and not self.tolerates):
            failure = Failed(_offending(rows, fired), error)
            if not self.tolerates:
                raise RowsFailed(failure) from error
            made.failed.append(failure)
            return
        middle = (len(slots) + 1) // 2
        for low, high in ((0, middle), (middle, len(slots))):
            part = None if rows is None or low >= height else rows.slice(low, high - low)
            first = max(low - height, 0)
            woken = None if fired is None or high <= height else fired.slice(first, high - height - first)
            self._call(made, part, woken, slots[low:high], times[low:high], bound, clocks)
        if not self.tolerates and not isinstance(error, ProcessDied):
            # It raises over all of them and over no half: what it does depends on how rows are cut.
            raise RowsFailed(Failed(_offending(rows, fired), error)) from error

    def _keep_timers(self, found: Set, bound: int, clocks: _Clocks | Mapping[str, Any]) -> None:
        pending = self._at if found.clock == "stream" else self._after
        if found.times is None:
            pending.cancel(found.keys, found.name)
            if found.clock == "stream" and isinstance(clocks, _Clocks):
                clocks.set(found.name, self._dense[found.slots], FOREVER)
            return
        if found.clock == "wall":
            pending.set(found.keys, found.name, found.times)
            return
        # A time that has passed is now: for the key this is the time of its row, and never behind the watermark.
        times = np.maximum(found.times, np.maximum(self._calls.times(found.slots), self._closed))
        soon = times < bound
        if isinstance(clocks, _Clocks):
            # At the very end nothing fires that is set by then: else a timer that sets itself again never ends.
            fires = soon & (bound < FOREVER)
            clocks.set(found.name, self._dense[found.slots], np.where(fires, times, FOREVER))
        pending.cancel(found.keys.filter(pl.Series(soon)), found.name)
        pending.set(found.keys.filter(pl.Series(~soon)), found.name, times[~soon])

    def _forget(self, slots: Slots) -> None:
        """Keys that nothing is remembered for need no slot."""
        self._table.unreserve(slots)

    def _given(self, made: _Made) -> Made:
        frames = {name: self._in_form(name, pl.concat(frames)) for name, frames in made.outputs.items()}
        return Made(frames.pop(MAIN, None), None, frames, made.failed)

    def _in_form(self, name: str, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows in the order of time, with an origin that does not depend on how they were cut."""
        if name not in self._set.timed:
            return frame
        assert self._set.time is not None
        if not self._set.with_origin:
            return frame.sort(self._set.time, maintain_order=True)
        # All rows of one time are here; of one key they are in the order in which they were made.
        by = self._names if set(self._names) <= set(frame.columns) else _sortable(frame)
        frame = frame.sort([self._set.time, *by], maintain_order=True, nulls_last=False)
        values = {
            SOURCE: pl.lit(self._set.number),
            PARTITION: pl.lit(0),
            OFFSET: pl.int_range(pl.len()),
            ORDINAL: pl.lit(0),
        }
        return written_out(
            frame.with_columns(values[name].cast(ORIGIN_TYPES[name]).alias(name) for name in ORIGIN)
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def _parts(self) -> Mapping[str, KeyedTable | Pending]:
        return {"state": self._table, "timers": self._at, "clock": self._after}

    def delta(self) -> Mapping[str, pl.DataFrame]:
        kept = {of: part.delta() for of, part in self._parts().items()}
        return _flat(kept, self._waiting.delta())

    def snapshot(self) -> Mapping[str, pl.DataFrame]:
        kept = {of: part.snapshot() for of, part in self._parts().items()}
        return _flat(kept, self._waiting.snapshot())

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        if part == "waiting":
            self._waiting.restore(frame)
        else:
            of, _, rest = part.partition(".")
            self._parts()[of].restore(rest, frame)

    def restored(self, closed: int) -> None:
        self._closed = closed
        self._waiting.drop(closed)

    def view(self) -> pl.DataFrame:
        """What is remembered by key; of a step without state, the timers that wait."""
        return self._table.frame() if self._set.state else self._at.view()


class _Clocks:
    """The timers of the keys at hand that fire on the way, by name: times by the key's number, FOREVER where none is.

    Attributes:
        first: Of each key, the time of the timer that fires next.
    """

    def __init__(self, keys: int) -> None:
        self.first: Ticks = np.full(keys, FOREVER)
        self._times: dict[str, Ticks] = {}

    def set(self, name: str, keys: Slots, times: Ticks | int) -> None:
        """Sets the timers of keys."""
        if name not in self._times:
            self._times[name] = np.full(len(self.first), FOREVER)
        self._times[name][keys] = times
        self._look(keys)

    def fire(self, keys: Slots) -> pl.Series:
        """The timers of these keys that are next fire: their names."""
        names, open_ = np.zeros(len(keys), np.int64), np.ones(len(keys), np.bool_)
        ordered = sorted(self._times)
        for number, name in enumerate(ordered):
            here = open_ & (self._times[name][keys] == self.first[keys])
            names[here] = number
            open_ &= ~here
            self._times[name][keys[here]] = FOREVER
        self._look(keys)
        return pl.Series(ordered, dtype=pl.String).gather(names)

    def _look(self, keys: Slots) -> None:
        first = np.full(len(keys), FOREVER)
        for times in self._times.values():
            first = np.minimum(first, times[keys])
        self.first[keys] = first


Turns = Iterator[tuple[Indices, Slots]]
"""Rows by their place, and keys whose next timer fires: what a call is about."""


def _one_by_one(keys: Slots, times: Ticks, clocks: _Clocks) -> Turns:
    """The next thing of every key, again and again: a timer fires once no row up to its time is left."""
    order = _by_key(keys)
    count = len(clocks.first)
    end = np.cumsum(np.bincount(keys, minlength=count))
    at = np.append(0, end[:-1])
    sorted_times = np.append(times[order], FOREVER)
    active = np.arange(count)
    while len(active):
        more = at[active] < end[active]
        woken = clocks.first[active] < np.where(more, sorted_times[at[active]], FOREVER)
        taken = active[more & ~woken]
        rows = np.sort(order[at[taken]])
        at[taken] += 1
        if len(rows) or woken.any():
            yield rows, active[woken]
        active = active[(at[active] < end[active]) | (clocks.first[active] < FOREVER)]


def _by_key(keys: Slots) -> Indices:
    """``np.argsort(keys, kind="stable")`` of small numbers, in a fraction of its time: what is sorted are numbers."""
    bits = len(keys).bit_length()
    packed = (keys << bits) | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << bits) - 1)


def _several(keys: Slots, times: Ticks, clocks: _Clocks) -> Turns:
    """All rows of every key up to its next timer, then that, and so on."""
    left = np.ones(len(keys), np.bool_)
    while True:
        rows = np.flatnonzero(left & (times <= clocks.first[keys]))
        busy = np.zeros(len(clocks.first), np.bool_)
        busy[keys[rows]] = True
        woken = np.flatnonzero((clocks.first < FOREVER) & ~busy)
        if not len(rows) and not len(woken):
            return
        left[rows] = False
        yield rows, woken


def _occurrence(slots: Slots) -> Indices:
    """For each slot, how often it came before."""
    order = _by_key(slots)
    sorted_, numbers = slots[order], np.arange(len(slots))
    fresh = np.append(True, sorted_[1:] != sorted_[:-1])
    found = np.empty(len(slots), np.int64)
    found[order] = numbers - np.maximum.accumulate(np.where(fresh, numbers, 0))
    return found


def _sortable(frame: pl.DataFrame) -> list[str]:
    return [name for name, dtype in frame.schema.items() if not dtype.is_nested()]


def _offending(rows: pl.DataFrame | None, fired: pl.DataFrame | None) -> pl.DataFrame:
    if rows is not None:
        return rows
    assert fired is not None
    return fired


def _flat(
    kept: Mapping[str, Mapping[str, pl.DataFrame]], waiting: pl.DataFrame | None
) -> Mapping[str, pl.DataFrame]:
    found = {f"{of}.{part}": frame for of, parts in kept.items() for part, frame in parts.items()}
    return found if waiting is None else {**found, "waiting": waiting}
