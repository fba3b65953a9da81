"""Rows of two streams meet where their keys are equal, however far apart in time.

Each side is a multiset of rows that only grows, or a changelog. What a batch of one side changes is what it makes of
the other side as it is. Rows that met none, where a join gives these too, are taken back when the first row that they
meet comes, and come again when the last one has gone.

Where the rows of a side all have different keys, those of the other side leave as soon as they have met
(:mod:`mamba_stream.operators.uniquekeys`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import written_out
from mamba_stream.operators.changes import takes_back
from mamba_stream.operators.columns import DELETE, INSERT, OP, OP_TYPE, PREFIX
from mamba_stream.operators.joined import LEFT, RIGHT, SIDES, How, Outcome, both_sides
from mamba_stream.operators.joinside import WEIGHT, JoinSide, consolidated
from mamba_stream.operators.lateness import NEVER
from mamba_stream.operators.pairing import Keyed, Pairs, Rows, bounded_pairs, keyed
from mamba_stream.operators.places import ascending
from mamba_stream.operators.rowstore import Mask
from mamba_stream.operators.step import NOTHING, Made
from mamba_stream.operators.uniquekeys import LeftOut, Wanted, check_unique, leaves_once_met

_SIGN: Final = f"{PREFIX}sign"
_LEFT_OUT: Final = "left out"

Weights = NDArray[np.int64]


class UnboundedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an unbounded join is told by the plan.

    Attributes:
        on: The key columns of both sides.
        how: What becomes of rows that meet none, or several.
        changes: Which of the sides are changelogs.
        outcome: The columns of the result.
        gives_changes: Whether the result is a changelog.
        types: The types of the columns of both sides.
        unique: Which of the sides have no two rows of one key; no changelog is one.
        said: How the user said so.
        wanted: What a filter behind the join asks of the rows of the one side that is unique.
    """

    on: tuple[Sequence[str], Sequence[str]]
    how: How
    changes: tuple[bool, bool]
    outcome: Outcome
    gives_changes: bool
    types: tuple[Mapping[str, pl.DataType], Mapping[str, pl.DataType]]
    unique: tuple[bool, bool] = (False, False)
    said: str = ""
    wanted: Wanted | None = None


class UnboundedJoin:
    """The state of one join, and what rows do to it."""

    def __init__(self, settings: UnboundedSettings) -> None:
        self._set = settings
        how = settings.how
        self._filters = how in ("semi", "anti")
        self._pads = (how in ("left", "full"), how in ("right", "full"))
        self._once = how == "semi" and not any(settings.changes)
        self._leaves = tuple(
            leaves_once_met(side, how, settings.unique, settings.changes) for side in (LEFT, RIGHT)
        )
        self._left_out = LeftOut(settings.on[self._leaves.index(True) ^ 1]) if settings.wanted else None
        self._kept = tuple(
            list(dict.fromkeys((*settings.on[side], *settings.outcome.of_side(side))))
            for side in (LEFT, RIGHT)
        )
        self._sides = tuple(
            JoinSide(settings.on[side], merge=consolidated if settings.changes[side] else None)
            for side in (LEFT, RIGHT)
        )
        self._closed = NEVER

    @property
    def bytes(self) -> int:
        """The size of the state."""
        return sum(side.bytes for side in self._all_sides)

    @property
    def rows(self) -> int:
        """Rows of both sides, and keys of those that a filter leaves out."""
        return sum(side.rows for side in self._all_sides)

    @property
    def _all_sides(self) -> list[JoinSide]:
        return [*self._sides] if self._left_out is None else [*self._sides, self._left_out.side]

    @property
    def closed(self) -> int:
        """How far time has come, which does nothing here."""
        return self._closed

    @property
    def horizon(self) -> int:
        """The rows that come out have no time."""
        return self._closed

    def add(self, frame: pl.DataFrame, port: int) -> Made:
        """Takes rows of one side in: gives what that changes in the result."""
        weights = self._signs(frame, port)
        frame = frame.select(self._kept[port])
        batch = keyed(frame, self._set.on[port])
        if self._set.unique[port]:
            self._check_unique(batch, port)
            if self._left_out is not None:
                frame, batch = self._wanted(frame, batch, port)
                if not frame.height:
                    return NOTHING
        met = np.zeros(frame.height, np.bool_) if self._leaves[port] else None
        appeared, vanished = self._turned(batch, weights, port)
        made = []
        if not self._filters:
            other = 1 - port
            if self._pads[other]:
                made.append(self._others_alone(appeared, other, DELETE))
            made.append(self._pairs(frame, batch, weights, port, met))
            if self._pads[other]:
                made.append(self._others_alone(vanished, other, INSERT))
            if self._pads[port]:
                made.append(self._own_alone(frame, batch, weights, port, met=False))
        elif port == LEFT:
            made.append(self._own_alone(frame, batch, weights, LEFT, met=self._set.how == "semi"))
        else:
            first, last = (INSERT, DELETE) if self._set.how == "semi" else (DELETE, INSERT)
            made.append(self._others_alone(appeared, LEFT, first))
            made.append(self._others_alone(vanished, LEFT, last))
        if met is not None and self._left_out is not None:
            self._left_out.mark(batch, met)
        self._store(frame, batch, weights, port, appeared, met)
        rows = [piece for piece in made if piece is not None and piece.height]
        return Made(written_out(pl.concat(rows))) if rows else NOTHING

    def _signs(self, frame: pl.DataFrame, port: int) -> Weights | None:
        """1 for a row that is added, -1 for one that is taken back; ``None`` where all are added."""
        if not self._set.changes[port]:
            return None
        sign = pl.when(takes_back()).then(-1).otherwise(1).cast(pl.Int64)
        return frame.select(sign.alias(_SIGN)).to_series().to_numpy()

    def _check_unique(self, batch: Keyed, port: int) -> None:
        sides = [self._sides[port]] if self._left_out is None else [self._sides[port], self._left_out.side]
        runs = [run.keys for side in sides for run in side.runs()]
        check_unique(batch, runs, self._set.on[port], self._set.said)

    def _wanted(self, frame: pl.DataFrame, batch: Keyed, port: int) -> tuple[pl.DataFrame, Keyed]:
        """The rows that may come through the filter; of the others the keys are kept, and who has these leaves."""
        assert self._set.wanted is not None
        assert self._left_out is not None
        wanted = self._set.wanted.of(frame)
        if wanted is None:
            return frame, batch
        others = frame.filter(~wanted)
        self._left_out.add(others)
        self._sides[1 - port].remove(keyed(others, self._set.on[port]))
        frame = frame.filter(wanted)
        return frame, keyed(frame, self._set.on[port])

    def _store(
        self,
        frame: pl.DataFrame,
        batch: Keyed,
        weights: Weights | None,
        port: int,
        appeared: Keyed | None,
        met: Mask | None,
    ) -> None:
        rows: Rows | None = None
        if self._filters and port == RIGHT and weights is None:
            # Of rows that only matter by being there, the first of each key is enough.
            assert appeared is not None
            rows = _first_of_each(appeared, batch)
        elif self._once and port == LEFT:
            # One that has come out does so once, whatever comes.
            rows = np.flatnonzero(~self._meets_any(batch, RIGHT))
        elif met is not None:
            if batch.present is not None:
                met |= _null_keys(batch)
            rows = np.flatnonzero(~met) if met.any() else None
        elif batch.present is not None and not (self._filters or self._pads[port]):
            rows = batch.present
        if rows is not None:
            frame = frame[rows]
            weights = None if weights is None else weights[rows]
        if weights is not None:
            frame = frame.with_columns(pl.Series(WEIGHT, weights))
        self._sides[port].add(frame)
        if self._once and port == RIGHT and appeared is not None and len(appeared):
            self._sides[LEFT].remove(appeared)
        elif self._leaves[1 - port]:
            self._sides[1 - port].remove(batch)

    # -- what there is of a key ------------------------------------------------------------------------------------

    def _counts(self, keys: Keyed, side: int) -> Weights:
        """For each of some keys how many rows a side has of it."""
        counts = np.zeros(len(keys), np.int64)
        for run in self._sides[side].runs():
            here, there = run.keys.meets(keys)
            if len(here):
                weights = run.weights
                counts += np.bincount(
                    here, None if weights is None else weights[there], minlength=len(keys)
                ).astype(np.int64)
        return counts

    def _meets_any(self, batch: Keyed, side: int) -> NDArray[np.bool_]:
        return self._counts(batch, side) > 0

    def _turned(self, batch: Keyed, weights: Weights | None, port: int) -> tuple[Keyed | None, Keyed | None]:
        """The keys of which a side has rows now and had none before, and the other way round."""
        asked = port == RIGHT if self._filters else self._pads[1 - port]
        if not asked:
            return None, None
        # Null keys meet nothing: no row of theirs turns anything.
        keys, rows, of = batch.distinct()
        before = self._counts(keys, port)
        change = np.bincount(of, None if weights is None else weights[rows], minlength=len(keys))
        after = before + change.astype(np.int64)
        appeared, vanished = (before <= 0) & (after > 0), (before > 0) & (after <= 0)
        return keys.part(np.flatnonzero(appeared)), keys.part(np.flatnonzero(vanished))

    def _matching(self, keys: Keyed, side: int) -> pl.DataFrame:
        """The rows that a side has of some keys."""
        found = []
        for run in self._sides[side].runs():
            there = ascending(run.keys.meets(keys)[1])
            if len(there):
                found.append(run.frame[there])
        columns = [*self._kept[side], *([WEIGHT] if self._set.changes[side] else [])]
        if not found:
            types = {**self._set.types[side], WEIGHT: pl.Int64()}
            return pl.DataFrame(schema={name: types[name] for name in columns})
        rows = pl.concat(found)
        return consolidated(rows) if self._set.changes[side] else rows

    # -- what comes out --------------------------------------------------------------------------------------------

    def _pairs(
        self, frame: pl.DataFrame, batch: Keyed, weights: Weights | None, port: int, met: Mask | None
    ) -> pl.DataFrame | None:
        """The pairs of a batch with what there is of the other side, in the order of the batch.

        Where it matters, ``met`` says afterwards which rows of the batch are in one.
        """
        other = 1 - port
        made = []
        if self._set.changes[other]:
            candidates = self._matching(batch, other)
            rows = keyed(candidates, self._set.on[other])
            found = [(candidates, bounded_pairs(rows, batch))]
        else:
            found = [(run.frame, bounded_pairs(run.keys, batch)) for run in self._sides[other].runs()]
        for theirs, pairs in found:
            if not len(pairs[0]):
                continue
            if met is not None:
                met[pairs[0]] = True
            here, there, times = self._ordered(pairs, weights, theirs)
            pair = ((frame, here), (theirs, there))
            left, right = pair if port == LEFT else pair[::-1]
            made.append(self._with_op(self._set.outcome.pairs(*left, *right), times < 0))
        return pl.concat(made) if made else None

    def _ordered(
        self, pairs: Pairs, weights: Weights | None, theirs: pl.DataFrame
    ) -> tuple[Rows, Rows, Weights]:
        """Pairs in the order of the batch, as often as they are there, and whether each is added or taken back."""
        here, there = pairs
        if self._set.gives_changes:
            order = np.argsort(here, kind="stable")
            here, there = here[order], there[order]
        times = np.ones(len(here), np.int64) if weights is None else weights[here]
        if WEIGHT in theirs.columns:
            times = times * theirs.get_column(WEIGHT).to_numpy()[there]
            often = np.abs(times)
            if (often > 1).any():
                here, there, times = (np.repeat(part, often) for part in (here, there, times))
        return here, there, times

    def _own_alone(
        self, frame: pl.DataFrame, batch: Keyed, weights: Weights | None, port: int, *, met: bool
    ) -> pl.DataFrame | None:
        """The rows of a batch that meet none, or some, of the other side as it is."""
        rows = np.flatnonzero(self._meets_any(batch, 1 - port) == met)
        if not len(rows):
            return None
        back = np.zeros(len(rows), np.bool_) if weights is None else weights[rows] < 0
        return self._with_op(self._set.outcome.alone(port, frame[rows]), back)

    def _others_alone(self, keys: Keyed | None, side: int, op: int) -> pl.DataFrame | None:
        """All rows of some keys that a side has, as rows that meet none."""
        if keys is None or not len(keys):
            return None
        rows = self._matching(keys, side)
        if WEIGHT in rows.columns:
            rows = _repeated(rows)
        if not rows.height:
            return None
        return self._with_op(self._set.outcome.alone(side, rows), np.full(rows.height, op == DELETE))

    def _with_op(self, made: pl.DataFrame, back: NDArray[np.bool_]) -> pl.DataFrame:
        if not self._set.gives_changes:
            return made
        return made.with_columns(pl.Series(OP, np.where(back, DELETE, INSERT)).cast(OP_TYPE))

    # -- time and state --------------------------------------------------------------------------------------------

    def advance(self, watermark: int) -> Iterator[Made]:
        """Time changes nothing."""
        self._closed = max(self._closed, watermark)
        yield from ()

    def delta(self) -> dict[str, pl.DataFrame]:
        """What came since the last delta or snapshot."""
        return self._parts([side.delta() for side in self._all_sides])

    def snapshot(self) -> dict[str, pl.DataFrame]:
        """All that is there."""
        return self._parts([side.snapshot() for side in self._all_sides])

    @staticmethod
    def _parts(of_sides: Sequence[Mapping[str, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
        return {
            f"{name}.{part}": frame
            for name, parts in zip((*SIDES, _LEFT_OUT), of_sides, strict=False)
            for part, frame in parts.items()
        }

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        name, _, rest = part.partition(".")
        self._all_sides[(*SIDES, _LEFT_OUT).index(name)].restore(rest, frame)

    def restored(self, closed: int) -> None:
        """Lets go of what has come out for good."""
        self._closed = closed
        leaving = [LEFT] if self._once else [side for side in (LEFT, RIGHT) if self._leaves[side]]
        for side in leaving:
            met = (
                [self._sides[1 - side]]
                if self._left_out is None
                else [self._sides[1 - side], self._left_out.side]
            )
            for run in [run for other in met for run in other.runs()]:
                self._sides[side].remove(run.keys)

    def view(self) -> pl.DataFrame:
        """The rows of both sides, and on which side each is."""
        shown = []
        for side, changes in enumerate(self._set.changes):
            schema = {name: self._set.types[side][name] for name in self._kept[side]}
            rows = pl.concat([pl.DataFrame(schema=schema), *self._rows_of(side, changes=changes)])
            shown.append((schema, [rows]))
        return both_sides(shown)

    def _rows_of(self, side: int, *, changes: bool) -> list[pl.DataFrame]:
        frames = [run.frame for run in self._sides[side].runs()]
        if not changes or not frames:
            return frames
        whole = consolidated(pl.concat(frames))
        return [_repeated(whole).drop(WEIGHT)]


def _repeated(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as often as they are there."""
    counts = np.maximum(rows.get_column(WEIGHT).to_numpy(), 0)
    return rows if (counts == 1).all() else rows[np.repeat(np.arange(rows.height), counts)]


def _null_keys(batch: Keyed) -> Mask:
    """Which rows of a batch have a key that meets nothing."""
    null = np.ones(len(batch), np.bool_)
    null[batch.present] = False
    return null


def _first_of_each(keys: Keyed, batch: Keyed) -> Rows:
    """The first row of a batch that has each of some keys."""
    here, there = keys.meets(batch)
    order = np.argsort(here, kind="stable")
    return np.sort(here[order][np.unique(there[order], return_index=True)[1]])
