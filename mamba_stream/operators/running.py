"""Running totals: aggregates by key over all rows so far, as a changelog.

Each batch is reduced to partial results, which are merged with those of its keys; the keys whose results are others
then say so. Different values are counted in a table of their own (:mod:`mamba_stream.operators.distinct`), and
what does not decompose is evaluated anew over the rows of the keys that a batch touched.

Of a table, whose rows are taken away again, partial results are made of what comes and of what goes, and those of what
goes are subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import twice, written_out
from mamba_stream.operators.changes import Emitted, differences, takes_back, with_op
from mamba_stream.operators.columns import DELETE, OP, PREFIX, TIME, tick_values
from mamba_stream.operators.distinct import DistinctValues, Groups
from mamba_stream.operators.evaluated import GROUP, Evaluated, Read, over_key
from mamba_stream.operators.failures import FAILURES, RowsFailed, worked
from mamba_stream.operators.folding import Fold
from mamba_stream.operators.grouping import grouped
from mamba_stream.operators.keyed import TOUCHED, KeyedTable
from mamba_stream.operators.keyindex import Slots
from mamba_stream.operators.lateness import FOREVER, NEVER
from mamba_stream.operators.members import PLACE, places_of
from mamba_stream.operators.remembering import Part, Remembering
from mamba_stream.operators.results import Aggregation
from mamba_stream.operators.rowstore import Mask, picked, stacked, where
from mamba_stream.operators.step import NOTHING, Failed, Made

ALL: Final = f"{PREFIX}all"
"""The key of all rows, where there is none."""

_SIGN: Final = f"{PREFIX}sign"
TABLE: Final = "table"
_CHECKED_ROWS: Final = f"{PREFIX}rows"


class DistinctCount(Protocol):
    """A count of different values."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> pl.Expr: ...
    @property
    def keep(self) -> Sequence[pl.Expr]: ...


class RunningAggregation(Aggregation, Protocol):
    """How aggregates are split; see ``mamba_stream.plan.aggregates``."""

    @property
    def distinct(self) -> Sequence[DistinctCount]: ...


class RunningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a step of running totals is told by the plan.

    Attributes:
        schema: The columns of its input.
        keys: The columns that rows are grouped by.
        aggregation: The aggregates, split.
        rows: The name of the partial result that counts a group's rows.
        time: The time column, where there is one that is needed.
        shift: Ticks to add to it.
        order: What orders the rows of a group, where one is kept or needed.
        table: Whether its input is a changelog.
        ttl: How long a key without rows is kept, in ticks.
        number: The step's own number, where a later step needs the origin of the rows it makes.
    """

    schema: Mapping[str, pl.DataType]
    keys: tuple[str, ...]
    aggregation: RunningAggregation
    rows: str
    time: str | None
    shift: int
    order: Mapping[str, pl.DataType]
    table: bool
    ttl: int | None
    number: int | None


class RunningTotals(Remembering):
    """The state of running totals, and what rows do to it."""

    def __init__(self, settings: RunningSettings) -> None:
        self._set = settings
        self.tolerates = False
        self.adds_whole = True
        split = settings.aggregation
        self._keys = list(settings.keys) or [ALL]
        keys = {name: settings.schema[name] for name in settings.keys} or {ALL: pl.Int8()}
        self._partial = list(split.partial_schema)
        self._counts = [one.name for one in split.distinct]
        kept = {name: split.output_schema[name] for name in split.kept}
        values = {
            **split.partial_schema,
            **dict.fromkeys(self._counts, pl.Int64()),
            **kept,
            GROUP: pl.Int64(),
        }
        # Results may have the name of what is kept under it, or of a key's column in the state of another version.
        self._stored = {name: f"{PREFIX}kept_{place}" for place, name in enumerate(kept)}
        values = {self._stored.get(name, name): dtype for name, dtype in values.items()}
        self._table = KeyedTable(keys, values, timed=settings.ttl is not None)
        self._values = list(values)
        self._distinct = _distinct_values(settings)
        self._evaluated = _evaluated(settings, self._stored)
        self._nested = any(dtype.is_nested() for dtype in split.partial_schema.values())
        self._emitted = Emitted(settings.number)
        self._next_group = 0
        self._greatest = NEVER + 1
        distinct = {f"distinct {place}": values for place, values in enumerate(self._distinct)}
        parts: dict[str, Part | None] = {TABLE: self._table, "emitted": self._emitted}
        if self._evaluated is not None:
            parts.update(members=self._evaluated.members, failing=self._evaluated.failing)
        super().__init__(**parts, **distinct)

    def add(self, frame: pl.DataFrame, port: int = 0) -> Made:
        """Takes rows in; gives the keys whose results are others now."""
        if not frame.height:
            return NOTHING
        frame = self._with_keys_and_time(frame)
        signs = self._signs(frame)
        batch = self._batch(frame)
        keys = picked(batch, self._keys)
        apart = bool(self._distinct) or self._evaluated is not None
        places = places_of(frame, keys) if apart else pl.Series(dtype=pl.Int64)
        pairs = [values.reduced(frame, places, signs) for values in self._distinct]
        # From here on no row is to blame, and the state changes.
        self.adds_whole = False
        slots = self._table.slots(keys, insert=True)
        known = self._table.present(slots)
        old = self._table.get(slots)
        groups = self._groups(old.get_column(GROUP), known)
        had = known & (old.get_column(self._set.rows).fill_null(0).to_numpy() > 0)
        before = self._results(keys, old, self._computed(groups, had), tolerates=True)
        merged = self._merged(old, known, batch)
        if self._distinct:
            merged = stacked([merged, self._distinct_of(pairs, groups, old)])
        kept = None
        try:
            if self._evaluated is not None:
                self._evaluated.take(frame, groups[places.to_numpy()], signs)
                kept = self._evaluated.of(groups, tolerates=self.tolerates)
                merged = stacked([merged, kept.rows])
            new = picked(stacked([merged, pl.DataFrame({GROUP: groups})]), self._values)
            counts = new.get_column(self._set.rows).to_numpy()
            has = counts > 0
            after = self._results(
                keys, new, has if kept is None else has & kept.there, tolerates=self.tolerates
            )
        except RowsFailed as error:
            place = error.failed.frame.item(0, PLACE)
            raise RowsFailed(self._left_out(keys, place, error.failed.error)) from error.failed.error
        made = differences(before.rows, after.rows, before.there, after.there)
        left = counts != 0
        times = batch.get_column(TIME).to_numpy() if self._set.ttl is not None else None
        if left.all():
            self._table.put(slots, new, self._latest(slots, known, times))
        else:
            times = self._latest(slots, known, times)
            self._table.put(slots[left], new.filter(left), None if times is None else times[left])
            self._table.remove(slots[~left])
        errors = after.errors if kept is None else {**kept.errors, **after.errors}
        # A key that had no result before is known to have none.
        failed = [
            self._left_out(keys, place, error)
            for place, error in errors.items()
            if before.there[place] or not had[place]
        ]
        self.adds_whole = True
        return Made(None if made is None else self._emitted.numbered(made), failed=failed)

    def advance(self, watermark: int) -> Iterator[Made]:
        """Lets go of keys whose time is over."""
        self._closed = watermark
        if self._set.ttl is None or watermark == NEVER:
            return
        # Where sources are over, time has come as far as their rows, and no further.
        reached = self._greatest if watermark == FOREVER else watermark
        gone = self._table.expire(max(NEVER + 1, reached - self._set.ttl))
        if not gone.height:
            return
        there = self._computed(gone.get_column(GROUP).to_numpy(), np.ones(gone.height, np.bool_))
        self._forget(gone)
        shown = self._results(gone.select(self._keys), gone, there, tolerates=True).rows
        yield Made(self._emitted.numbered(with_op(shown, DELETE)))

    def _left_out(self, keys: pl.DataFrame, place: int, error: BaseException) -> Failed:
        return over_key(keys[place].select(self._set.keys), error)

    def _computed(self, groups: Groups, had: Mask) -> Mask:
        """Which groups had a result, as far as their rows are concerned."""
        return had if self._evaluated is None else had & self._evaluated.computed(groups)

    def _with_keys_and_time(self, frame: pl.DataFrame) -> pl.DataFrame:
        added: list[pl.Expr | pl.Series] = []
        if not self._set.keys:
            added.append(pl.lit(0, dtype=pl.Int8).alias(ALL))
        if self._set.ttl is not None or TIME in self._set.order:
            time = self._set.time
            ticks = pl.lit(0, dtype=pl.Int64) if time is None else tick_values(frame, time) + self._set.shift
            added.append(ticks.alias(TIME))
        return written_out(frame.with_columns(added)) if added else frame

    def _signs(self, frame: pl.DataFrame) -> pl.Series | None:
        """Of a table, which rows come and which go; ``None`` where all come."""
        return 1 - 2 * (frame.get_column(OP) % 2) if self._set.table else None

    def _batch(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Partial results of the rows, by key."""
        if not self._set.table:
            return self._reduced(frame)
        minus = frame.filter(takes_back())
        if not minus.height:
            return self._reduced(frame)
        taken = self._reduced(minus).with_columns(_negated(self._set.aggregation.partial_schema))
        if minus.height == frame.height:
            return taken
        both = pl.concat([self._reduced(frame.filter(~takes_back())), taken])
        return self._of_partials(both)

    def _of_partials(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Partial results of several batches as those of one."""
        return grouped(frame, self._keys, self._merge_exprs(), nested=self._nested)

    def _reduced(self, frame: pl.DataFrame) -> pl.DataFrame:
        exprs, folds = list(self._set.aggregation.partial_exprs), self._set.aggregation.partial_folds
        if self._set.ttl is not None:
            exprs.append(pl.col(TIME).max())
            folds = folds and folds.beside(TIME, pl.Int64(), Fold("greatest", pl.col(TIME)))
        return grouped(frame, self._keys, exprs, nested=self._nested, folds=folds)

    def _merge_exprs(self) -> list[pl.Expr]:
        ttl = [pl.col(TIME).max()] if self._set.ttl is not None else []
        return [*self._set.aggregation.merge_exprs, *ttl]

    def _groups(self, stored: pl.Series, known: Mask) -> Groups:
        """The numbers of the groups; new ones for new keys."""
        if known.all():
            return stored.to_numpy()
        groups = stored.fill_null(0).to_numpy().copy()
        fresh = int(np.count_nonzero(~known))
        groups[~known] = np.arange(self._next_group, self._next_group + fresh)
        self._next_group += fresh
        return groups

    def _merged(self, old: pl.DataFrame, known: Mask, batch: pl.DataFrame) -> pl.DataFrame:
        """Partial results with those that were there, row by row."""
        partials = picked(batch, self._partial)
        if not known.any():
            return partials
        place = pl.int_range(pl.len()).alias(PLACE)
        before = where(picked(old, self._partial).with_columns(place), known)
        exprs, folds = self._set.aggregation.merge_exprs, self._set.aggregation.merge_folds
        if known.all():
            both = pl.concat([before, partials.with_columns(place)])
            return grouped(both, [PLACE], exprs, nested=True, folds=folds).sort(PLACE).drop(PLACE)
        touched = partials.with_columns(place)
        both = pl.concat([before, touched.filter(known)])
        merged = grouped(both, [PLACE], exprs, nested=True, folds=folds)
        return pl.concat([merged.select(touched.columns), touched.filter(~known)]).sort(PLACE).drop(PLACE)

    def _distinct_of(self, pairs: Sequence[pl.DataFrame], groups: Groups, old: pl.DataFrame) -> pl.DataFrame:
        counts = {}
        for values, of in zip(self._distinct, pairs, strict=True):
            for name, change in values.take(of, groups).items():
                counts[name] = old.get_column(name).fill_null(0).to_numpy() + change
        return pl.DataFrame(counts)

    def _results(self, keys: pl.DataFrame, values: pl.DataFrame, of: Mask, *, tolerates: bool) -> Read:
        """The results of those keys that have any.

        Raises:
            RowsFailed: What is read off a key's values raises, and is not tolerated; the row has ``PLACE``.
        """
        if not of.all():
            keys, values = keys.filter(of), values.filter(of)
        try:
            return Read(self._read_off(keys, values), of, {})
        except FAILURES:
            place = pl.DataFrame({PLACE: np.flatnonzero(of)})
            rows = stacked([picked(keys, self._keys), picked(values, self._values), place])
        found, failed = worked(lambda piece: self._read_off(piece, piece), rows, tolerates=tolerates)
        errors = {one.frame.item(0, PLACE): one.error for one in failed}
        there = of.copy()
        there[list(errors)] = False
        types = {
            **{name: keys.schema[name] for name in self._set.keys},
            **self._set.aggregation.output_schema,
        }
        return Read(pl.concat(found) if found else pl.DataFrame(schema=types), there, errors)

    def _read_off(self, keys: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
        split = self._set.aggregation
        exprs = [
            pl.col(self._stored[name]).alias(name)
            if name in split.kept
            else split.final_exprs[name].alias(name)
            for name in split.output_schema
        ]
        shown = twice(values) if values.height == 1 else values
        return stacked([picked(keys, self._set.keys), written_out(shown.select(exprs).head(values.height))])

    def _latest(self, slots: Slots, known: Mask, times: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        if times is None:
            return None
        times = times.copy()
        self._greatest = max(self._greatest, int(times.max()))
        times[known] = np.maximum(times[known], self._table.times(slots[known]))
        return times

    def _forget(self, gone: pl.DataFrame) -> None:
        if self._evaluated is not None:
            self._evaluated.forget(gone.select(GROUP))
        if self._distinct:
            left = self._table.frame().get_column(GROUP).to_numpy()
            for values in self._distinct:
                values.forget(left, sum(int(gone.get_column(name).sum()) for name in self._counts))

    def restore(self, part: str, frame: pl.DataFrame) -> None:
        """Takes back what a delta or a snapshot gave."""
        super().restore(part, frame)
        if GROUP in frame.columns and frame.height:
            # Also of values: those of a group that is gone are there until it is worth looking for them.
            greatest: int = frame.get_column(GROUP).max()  # type: ignore[assignment]
            self._next_group = max(self._next_group, greatest + 1)
            if part.startswith(f"{TABLE}/") and self._set.ttl is not None:
                latest: int = frame.get_column(TOUCHED).max()  # type: ignore[assignment]
                self._greatest = max(self._greatest, latest)

    def view(self) -> pl.DataFrame:
        """The totals, in the order of their keys."""
        all_ = self._table.frame().filter(pl.col(self._set.rows) > 0)
        there = self._computed(all_.get_column(GROUP).to_numpy(), np.ones(all_.height, np.bool_))
        return self._results(all_.select(self._keys), all_, there, tolerates=True).rows


def _evaluated(settings: RunningSettings, stored: Mapping[str, str]) -> Evaluated | None:
    """What does not decompose."""
    split = settings.aggregation
    if not split.kept:
        return None
    return Evaluated(
        {stored[name]: expr for name, expr in split.kept.items()},
        {stored[name]: split.output_schema[name] for name in split.kept},
        {name: settings.schema[name] for name in split.kept_columns},
        settings.order,
    )


def _distinct_values(settings: RunningSettings) -> list[DistinctValues]:
    """Counts of the same values share their pairs."""
    by_value: dict[str, tuple[pl.Expr, dict[str, pl.Expr | None]]] = {}
    for one in settings.aggregation.distinct:
        condition = pl.all_horizontal(one.keep) if one.keep else None
        by_value.setdefault(str(one.value), (one.value, {}))[1][one.name] = condition
    empty = pl.DataFrame(schema=settings.schema)
    return [
        DistinctValues(
            value, empty.select(value.alias("value")).schema["value"], counts, table=settings.table
        )
        for value, counts in by_value.values()
    ]


def _negated(schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """Partial results of rows that go; those of unsigned types wrap around, as their sums do."""
    return [
        (pl.lit(0, dtype=dtype) - pl.col(name) if dtype.is_unsigned_integer() else -pl.col(name)).alias(name)
        for name, dtype in schema.items()
    ]
