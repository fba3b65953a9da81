"""Rows of two streams meet where their keys are equal and their times lie close enough together.

A row meets what is there of the other side when it comes, and waits for what may still come: its own pairs are given
at once. What has met none by the time that it cannot meet any more comes out then, where the join asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import written_out
from mamba_stream.operators.columns import (
    ORIGIN,
    ORIGIN_TYPES,
    PREFIX,
    TIME,
    ticks,
)
from mamba_stream.operators.in_order import InOrder
from mamba_stream.operators.joined import (
    LEFT,
    RIGHT,
    SIDES,
    How,
    JoinSource,
    Outcome,
    both_sides,
    numbered,
    origin_names,
)
from mamba_stream.operators.joinside import UNTIL, JoinSide, Reach, Run
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.pairing import Keyed, Pairs, bounded_pairs, close_pairs, keyed
from mamba_stream.operators.places import ascending
from mamba_stream.operators.rows import Extended, RowSteps
from mamba_stream.operators.step import NOTHING, Late, Made
from mamba_stream.operators.tardiness import without_late
from mamba_stream.operators.times import as_time

_HELD: Final = "held"
_MANY: Final = 4_000_000
"""Pairs of equal keys from which it is worth looking at times first."""
_ORIGINS: Final = (origin_names(LEFT), origin_names(RIGHT))
_SPAN: Final = f"{PREFIX}span"


class IntervalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an interval join is told by the plan.

    Attributes:
        sides: Left and right.
        how: What becomes of rows that meet none, or several.
        lower: Ticks between the time of a left row and that of the first right row that it may meet.
        upper: The same for the last; ``None`` if ``span`` says so.
        span: The same in ticks for each left row, as an expression; null if it meets none.
        outcome: The columns of the result.
        number: The step's own number, for the origin of the rows it makes.
        with_origin: Whether a later step needs the origin of the rows it makes.
        by_sides: Whether that of both rows will do, with which results need not wait for their place.
    """

    sides: tuple[JoinSource, JoinSource]
    how: How
    lower: int
    upper: int | None
    span: pl.Expr | None
    outcome: Outcome
    number: int
    with_origin: bool
    by_sides: bool


class IntervalJoin:
    """The state of one interval join, and what rows and watermarks do to it."""

    def __init__(self, settings: IntervalSettings) -> None:
        self._set = settings
        self.adds_whole = True
        how, upper = settings.how, settings.upper
        self._filters = how in ("semi", "anti")
        self._alone = (how in ("left", "full", "semi", "anti"), how in ("right", "full"))
        self._given_alone = (how in ("left", "full", "anti"), how in ("right", "full"))
        self._sides = (
            JoinSide(
                settings.sides[LEFT].on, reach=upper, own_reach=upper is None, flagged=self._alone[LEFT]
            ),
            JoinSide(
                settings.sides[RIGHT].on,
                reach=-settings.lower,
                own_reach=False,
                flagged=self._alone[RIGHT],
            ),
        )
        self._span = RowSteps([Extended([settings.span.alias(_SPAN)])]) if settings.span is not None else None
        self._kept = [self._kept_columns(side) for side in (LEFT, RIGHT)]
        origins = [name for names in _ORIGINS for name in names.values()]
        self._waiting = [*settings.outcome.columns, TIME, *origins]
        self._held = InOrder(origins) if settings.with_origin and not settings.by_sides else None
        self._closed = NEVER

    def _kept_columns(self, side: int) -> list[str]:
        mine, other = self._set.sides[side], self._set.outcome.of_side(side)
        origin = ORIGIN if self._set.with_origin else ()
        own = (UNTIL,) if side == LEFT and self._span is not None else ()
        return list(dict.fromkeys((*mine.on, *other, TIME, *own, *origin)))

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return sum(side.bytes for side in self._sides) + (0 if self._held is None else self._held.bytes)

    @property
    def rows(self) -> int:
        """Rows of both sides, and pairs that wait for their place."""
        return sum(side.rows for side in self._sides) + (0 if self._held is None else self._held.rows)

    @property
    def closed(self) -> int:
        """How far time has come."""
        return self._closed

    @property
    def horizon(self) -> int:
        """Pairs have the time of the later row, which is not behind ``closed``; a row that met none has its own."""
        if self._closed in (NEVER, FOREVER):
            return self._closed
        if self._set.upper is None and self._alone[LEFT]:
            left = self._sides[LEFT].first_unmet
        else:
            left = self._closed - max(self._set.upper or 0, 0) if self._alone[LEFT] else FOREVER
        right = self._closed - max(-self._set.lower, 0) if self._alone[RIGHT] else FOREVER
        return max(min(self._closed, left, right), NEVER + 1)

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Takes rows of one side in: gives their pairs with those that are there, and those that came too late."""
        side = self._set.sides[port]
        timed = frame.with_columns(ticks(side.time, side.shift).alias(TIME))
        timed, late = without_late(timed, self._closed, side.dtype)
        prepared = self._prepared(timed, port) if timed.height else None
        self.adds_whole = False
        rows = [] if prepared is None else self._met(prepared, port)
        if timed.height:
            # Of rows that may only meet earlier ones, time may have passed what they could meet before they came. They
            # come out now: a restored step takes what ``closed`` has passed for given.
            rows += self._expired(port, self._closed)
        made = self._given(rows, late)
        self.adds_whole = True
        return made

    def _prepared(self, frame: pl.DataFrame, port: int) -> pl.DataFrame:
        if port == LEFT and self._span is not None:
            # A row whose bound is null or before its own lower one meets none, now or later.
            frame = self._span(frame)
            until = pl.col(TIME) + pl.col(_SPAN)
            nothing = pl.col(TIME) + (self._set.lower - 1)
            frame = frame.with_columns(pl.max_horizontal(until, nothing).alias(UNTIL))
        frame = frame.select(self._kept[port])
        if self._alone[port]:
            return frame
        on = self._set.sides[port].on
        nulls = any(frame.get_column(name).null_count() for name in on)
        return frame.drop_nulls(list(on)) if nulls else frame

    def _met(self, frame: pl.DataFrame, port: int) -> list[pl.DataFrame]:
        """The pairs of new rows; they are stored, to meet what comes."""
        other = 1 - port
        mine, theirs = self._sides[port], self._sides[other]
        batch = keyed(frame, self._set.sides[port].on)
        met = np.zeros(frame.height, np.bool_) if self._alone[port] else None
        made = []
        for run in [*theirs.runs()]:
            here, there = self._in_time(frame, run, self._pairs(frame, batch, run, port), port)
            if not len(here):
                continue
            if met is not None:
                new = ascending(here[~met[here]])
                met[new] = True
                if self._set.how == "semi":
                    made.append(self._single(LEFT, frame[new]))
            if self._alone[other]:
                if self._set.how == "semi":
                    made.append(self._single(LEFT, run.frame[run.unmet(there)]))
                theirs.mark(run, there)
            if not self._filters:
                pair = ((frame, here), (run.frame, there))
                left, right = pair if port == LEFT else pair[::-1]
                made.append(self._paired(*left, *right))
        if self._filters and met is not None:
            # One that has met another is done with.
            left_over = np.flatnonzero(~met)
            frame, met = frame[left_over], met[left_over]
        mine.add(frame, met, after=None if self._alone[port] else self._closed)
        if self._filters and port == RIGHT:
            theirs.forget_met()
        return made

    def _pairs(self, frame: pl.DataFrame, batch: Keyed, run: Run, port: int) -> Pairs:
        """Rows of a batch and of a run that have equal keys, and may be close enough together in time.

        Raises:
            ValueError: There are more than can be held at once.
        """
        many = max(_MANY, 4 * (len(batch) + run.rows))
        few = len(batch) * run.rows <= many
        if self._set.upper is None or few or run.keys.pairs_with(batch) <= many:
            return bounded_pairs(run.keys, batch)
        sides = (batch, frame.get_column(TIME).to_numpy()), (run.keys, run.times())
        (left, lefts), (right, rights) = sides if port == LEFT else sides[::-1]
        found = close_pairs(left, lefts, right, rights, self._set.lower, self._set.upper)
        return found if port == LEFT else found[::-1]

    def _in_time(self, frame: pl.DataFrame, run: Run, pairs: Pairs, port: int) -> Pairs:
        """Those of the pairs whose times are close enough together."""
        here, there = pairs
        if not len(here):
            return pairs
        times = frame.get_column(TIME).to_numpy()
        if port == LEFT:
            until = None if self._set.upper is not None else frame.get_column(UNTIL).to_numpy()
            left, right = Reach(times, until, self._set.lower, self._set.upper), run.times()
            good = left.meets(here, right, there)
        else:
            left = run.reach(self._set.lower, self._set.upper)
            good = left.meets(there, times, here)
        return pairs if good.all() else (here[good], there[good])

    def _paired(
        self,
        left: pl.DataFrame,
        lefts: NDArray[np.int64],
        right: pl.DataFrame,
        rights: NDArray[np.int64],
    ) -> pl.DataFrame:
        made = self._set.outcome.pairs(left, lefts, right, rights)
        if not self._set.with_origin:
            return made
        later = np.maximum(left.get_column(TIME).to_numpy()[lefts], right.get_column(TIME).to_numpy()[rights])
        origins = [
            frame.select(pl.col(name).alias(new) for name, new in names.items())[rows]
            for frame, rows, names in ((left, lefts, _ORIGINS[LEFT]), (right, rights, _ORIGINS[RIGHT]))
        ]
        return pl.concat([made, pl.DataFrame({TIME: later}), *origins], how="horizontal")

    def _single(self, side: int, frame: pl.DataFrame) -> pl.DataFrame:
        """A result of one row of one side only."""
        made = self._set.outcome.alone(side, frame)
        if not self._set.with_origin:
            return made
        own = frame.select(TIME, *(pl.col(name).alias(new) for name, new in _ORIGINS[side].items()))
        none = pl.select(
            pl.repeat(None, frame.height, dtype=ORIGIN_TYPES[name]).alias(new)
            for name, new in _ORIGINS[1 - side].items()
        )
        return pl.concat([made, own, none], how="horizontal")

    def _given(self, rows: list[pl.DataFrame], late: Late | None) -> Made:
        rows = [frame for frame in rows if frame.height]
        if not rows:
            return NOTHING if late is None else Made(late=late)
        together = rows[0] if len(rows) == 1 else pl.concat(frame.select(rows[0].columns) for frame in rows)
        if self._held is None:
            return Made(written_out(together), late)
        self._held.add(together.select(self._waiting))
        return Made(late=late)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Lets go of rows that can meet no more; those that met none come out, where the join asks for them."""
        if watermark <= self._closed:
            return
        for side in (LEFT, RIGHT):
            for frame in self._expired(side, watermark):
                made = self._given([frame], None)
                if made.rows is not None:
                    yield made
        self._closed = watermark
        if self._held is not None and (released := self._held.release(self.horizon)) is not None:
            yield Made(self._numbered(released))

    def _expired(self, port: int, watermark: int) -> list[pl.DataFrame]:
        """Lets go of rows of one side that can meet no more; the results of those that met none."""
        alone = self._sides[port].expire(watermark)
        return [self._single(port, frame) for frame in alone] if self._given_alone[port] else []

    def _numbered(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Results in their one order: by time, then by the rows that they are of."""
        return written_out(numbered(rows, list(self._set.outcome.columns), TIME, self._set.number))

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot."""
        parts = {
            f"{name}.{part}": frame
            for name, side in zip(SIDES, self._sides, strict=True)
            for part, frame in side.delta().items()
        }
        held = None if self._held is None else self._held.delta()
        return parts if held is None else {**parts, _HELD: held}

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is there."""
        parts = {
            f"{name}.{part}": frame
            for name, side in zip(SIDES, self._sides, strict=True)
            for part, frame in side.snapshot().items()
        }
        held = None if self._held is None else self._held.snapshot()
        return parts if held is None else {**parts, _HELD: held}

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        if part == _HELD:
            assert self._held is not None
            self._held.restore(frame)
            return
        name, _, rest = part.partition(".")
        self._sides[SIDES.index(name)].restore(rest, frame)

    def restored(self, closed: int) -> None:
        """Lets go of what had left before."""
        self._closed = closed
        if closed > NEVER:
            for side in self._sides:
                side.expire(closed)
            if self._held is not None:
                self._held.drop(self.horizon)

    def view(self) -> pl.DataFrame:
        """The rows of both sides that may still meet others, and on which side each is."""
        shown = []
        for side, mine in enumerate(self._set.sides):
            schema = {name: mine.types[name] for name in self._visible(side)}
            rows = self._sides[side].waiting(self._closed)
            shown.append(
                (schema, [frame.select(self._shown(mine, name) for name in schema) for frame in rows])
            )
        return both_sides(shown)

    def _visible(self, side: int) -> list[str]:
        mine = self._set.sides[side]
        return list(dict.fromkeys((*mine.on, mine.time, *self._set.outcome.of_side(side))))

    def _shown(self, side: JoinSource, name: str) -> pl.Expr:
        return (
            as_time(pl.col(TIME) - side.shift, side.dtype).alias(name) if name == side.time else pl.col(name)
        )
