"""Each row of a stream meets the row of another that was the latest of its key at the row's own time.

Rows wait until the watermark says that nothing is missing up to their time. Of the other side, the last row of each
key is kept, and what is not past yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.operators.changes import OP_COLUMN, check_words
from mamba_stream.operators.columns import ORDER, ORIGIN, PREFIX, TIME, ticks
from mamba_stream.operators.in_order import InOrder
from mamba_stream.operators.joined import LEFT, RIGHT, JoinSource, Outcome, both_sides
from mamba_stream.operators.joinside import JoinSide
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.pairing import Keyed, keyed
from mamba_stream.operators.places import ascending
from mamba_stream.operators.runs import SLOT, Runs
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.tardiness import without_late
from mamba_stream.operators.times import as_time

Strategy = Literal["backward", "forward", "nearest"]

_PLACE: Final = f"{PREFIX}place"
_GONE: Final = f"{PREFIX}gone"
_ALL: Final = f"{PREFIX}all"


class AsofSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an as-of join is told by the plan.

    Attributes:
        sides: Left and right.
        how: Whether rows that meet none are kept, or only they, or only those that meet one.
        strategy: Which row of the other side: the last at or before the row's time, the first at or behind it, or the
            nearest.
        tolerance: How many ticks away it may be at most; ``None`` is any number, backwards.
        gone: Of the other side, whether a row says that its key has none from there on.
        outcome: The columns of the result.
        with_origin: Whether a later step needs the origin of rows.
    """

    sides: tuple[JoinSource, JoinSource]
    how: Literal["left", "inner", "semi", "anti"]
    strategy: Strategy
    tolerance: int | None
    gone: pl.Expr | None
    outcome: Outcome
    with_origin: bool


class AsofJoin:
    """The state of one as-of join, and what rows and watermarks do to it."""

    adds_whole = True

    def __init__(self, settings: AsofSettings) -> None:
        self._set = settings
        left, right = settings.sides
        self._waiting = InOrder()
        self._coming = Runs(lambda frame: frame.sort(SLOT, maintain_order=True))
        # Without a key, all rows have the same.
        self._on = (tuple(left.on) or (_ALL,), tuple(right.on) or (_ALL,))
        self._past = JoinSide(self._on[RIGHT], reach=settings.tolerance, merge=self._latest)
        # How long a row waits for what comes behind it.
        self._patience = 0 if settings.strategy == "backward" else settings.tolerance or 0
        self._kept = (
            list(dict.fromkeys((*self._on[LEFT], *settings.outcome.of_side(LEFT), *ORDER))),
            list(dict.fromkeys((*self._on[RIGHT], *settings.outcome.of_side(RIGHT), *ORDER))),
        )
        self._closed = NEVER

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return self._waiting.bytes + self._coming.bytes + self._past.bytes

    @property
    def rows(self) -> int:
        """Rows that wait, and rows of the other side."""
        return self._waiting.rows + self._coming.rows + self._past.rows

    @property
    def closed(self) -> int:
        """How far time has come."""
        return self._closed

    @property
    def horizon(self) -> int:
        """A row keeps its time, and comes out when what it may meet is past."""
        return self._reached(self._closed)

    def _reached(self, watermark: int) -> int:
        """Rows before this meet nothing any more that is still to come."""
        return watermark if watermark in (NEVER, FOREVER) else max(watermark - self._patience, NEVER + 1)

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Takes rows in; gives back those that came too late."""
        side = self._set.sides[port]
        if port == RIGHT and self._set.gone is not None:
            check_words(frame.get_column(OP_COLUMN))
        timed = frame.with_columns(ticks(side.time, side.shift).alias(TIME))
        timed, late = without_late(timed, self._closed, side.dtype)
        if not side.on:
            timed = timed.with_columns(pl.lit(0, dtype=pl.Int8).alias(_ALL))
        if port == LEFT:
            self._waiting.add(timed.select(self._kept[LEFT]))
        elif timed.height:
            if self._set.gone is not None:
                timed = timed.with_columns(self._set.gone.alias(_GONE))
            gone = [_GONE] if self._set.gone is not None else []
            rows = timed.select(*self._kept[RIGHT], *gone).drop_nulls(list(self._on[RIGHT]))
            self._coming.add(rows.rename({TIME: SLOT}).sort(SLOT, maintain_order=True))
        return NOTHING if late is None else Made(late=late)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Gives the rows that time has passed, with what they meet, in the order of the stream."""
        if watermark <= self._closed:
            return
        rows = self._waiting.release(self._reached(watermark))
        heads = self._coming.head(watermark)
        came = None if not heads else pl.concat(heads).sort(SLOT, *ORIGIN).rename({SLOT: TIME})
        made = None if rows is None else self._met(rows, came)
        if self._set.strategy == "backward":
            self._coming.drop(watermark)
            if came is not None:
                self._past.add(self._latest(came))
            self._past.expire(watermark)
        else:
            self._coming.drop(self._oldest(watermark))
        self._closed = watermark
        if made is not None and made.height:
            yield Made(made)

    def _oldest(self, watermark: int) -> int:
        """Rows of the other side before this are of no use to rows that still wait, where these look forward too."""
        back = self._patience if self._set.strategy == "nearest" else 0
        reached = self._reached(watermark)
        return reached if reached in (NEVER, FOREVER) else max(reached - back, NEVER + 1)

    def _latest(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The last row of each key."""
        on = list(self._on[RIGHT])
        return rows.sort(ORDER).unique(on, keep="last", maintain_order=True)

    def _met(self, rows: pl.DataFrame, came: pl.DataFrame | None) -> pl.DataFrame:
        """Rows, in order, with what they meet."""
        candidates = self._candidates(keyed(rows, self._on[LEFT]), came)
        places = self._places(rows, candidates)
        if self._set.gone is not None and candidates is not None:
            gone = candidates.get_column(_GONE).gather(places)
            places = pl.select(pl.when(~gone).then(places)).to_series()
        met = places.is_not_null()
        how = self._set.how
        if how in ("inner", "semi"):
            rows, places = rows.filter(met), places.filter(met)
        elif how == "anti":
            rows, places = rows.filter(~met), places.filter(~met)
        columns = []
        for name, part in self._set.outcome.columns.items():
            assert part is not None
            side, own = part
            if side == LEFT:
                columns.append(rows.get_column(own).alias(name))
            elif candidates is None:
                empty = pl.Series(name, [None], self._set.outcome.types[name])
                columns.append(empty.new_from_index(0, rows.height))
            else:
                columns.append(candidates.get_column(own).gather(places).alias(name))
        origin = [rows.get_column(name) for name in ORIGIN] if self._set.with_origin else []
        return written_out(pl.DataFrame([*columns, *origin]))

    def _candidates(self, keys: Keyed, came: pl.DataFrame | None) -> pl.DataFrame | None:
        """What there is of the other side for some keys, in order."""
        found = []
        for run in self._past.runs():
            there = ascending(run.keys.meets(keys)[1])
            if len(there):
                found.append(run.frame[there])
        # What is past lies before what came since, but may lie in several runs itself.
        past = [pl.concat(found).sort(ORDER)] if found else []
        parts = [*past, *([came.select(past[0].columns) if past else came] if came is not None else [])]
        return pl.concat(parts) if parts else None

    def _places(self, rows: pl.DataFrame, candidates: pl.DataFrame | None) -> pl.Series:
        """For each row which of the candidates it meets; null for none."""
        if candidates is None:
            return pl.Series(_PLACE, [None], pl.UInt32).new_from_index(0, rows.height)
        left, right = self._on
        names = [f"{PREFIX}key{place}" for place in range(len(left))]
        mine = rows.select(TIME, *(pl.col(on).alias(name) for on, name in zip(left, names, strict=True)))
        theirs = candidates.select(
            TIME,
            pl.int_range(pl.len(), dtype=pl.UInt32).alias(_PLACE),
            *(pl.col(on).alias(name) for on, name in zip(right, names, strict=True)),
        )
        joined = mine.join_asof(
            theirs,
            on=TIME,
            by=names,
            strategy=self._set.strategy,
            tolerance=self._set.tolerance,
            check_sortedness=False,
        )
        return joined.get_column(_PLACE)

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot."""
        return _named(self._waiting.delta(), self._coming.delta(), self._past.delta())

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is there."""
        return _named(self._waiting.snapshot(), self._coming.snapshot(), self._past.snapshot())

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        name, _, rest = part.partition(".")
        if name == "past":
            self._past.restore(rest, frame)
        else:
            (self._waiting if name == "waiting" else self._coming).restore(frame)

    def restored(self, closed: int) -> None:
        """Lets go of what had gone on before."""
        self._closed = closed
        if closed == NEVER:
            return
        self._waiting.drop(self._reached(closed))
        backward = self._set.strategy == "backward"
        self._coming.drop(closed if backward else self._oldest(closed))
        self._past.expire(closed)

    def view(self) -> pl.DataFrame:
        """The rows that wait, and those of the other side that they may meet."""
        left, right = self._set.sides
        waiting = self._waiting.release(FOREVER)
        past = [run.frame for run in self._past.runs()]
        coming = [head.rename({SLOT: TIME}) for head in self._coming.head(FOREVER)]
        theirs = [self._latest(pl.concat(past)), *coming] if past else coming
        return both_sides(
            [
                self._shown(left, LEFT, [] if waiting is None else [waiting]),
                self._shown(right, RIGHT, theirs),
            ]
        )

    def _shown(
        self, side: JoinSource, port: int, frames: Sequence[pl.DataFrame]
    ) -> tuple[dict[str, pl.DataType], list[pl.DataFrame]]:
        names = dict.fromkeys((*side.on, side.time, *self._set.outcome.of_side(port)))
        schema = {name: side.types[name] for name in names if name in side.types}
        time = as_time(pl.col(TIME) - side.shift, side.dtype).alias(side.time)
        return schema, [
            frame.select(time if name == side.time else pl.col(name) for name in schema) for frame in frames
        ]


def _named(
    waiting: pl.DataFrame | None, coming: pl.DataFrame | None, past: dict[str, pl.DataFrame]
) -> dict[str, pl.DataFrame]:
    parts = {"waiting": waiting, "coming": coming, **{f"past.{part}": frame for part, frame in past.items()}}
    return {name: frame for name, frame in parts.items() if frame is not None}
