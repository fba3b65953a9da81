"""Which rows of two sets have equal keys, as pairs of row numbers.

A large batch meets a large state in a hash join of Polars. But keys are often whole numbers that lie close together
(ids that count up): there a table that is addressed by the key itself is several times as fast, and it can be kept.
A small batch finds its few rows in a large state by an index, whose price is paid once for many batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mamba_stream.core.single import SAME, joined, joins_one_float
from mamba_stream.operators.columns import PREFIX

Rows = NDArray[np.int64]
Codes = NDArray[np.int64]
Pairs = tuple[Rows, Rows]

NONE: Final[Rows] = np.empty(0, np.int64)
NO_PAIRS: Final[Pairs] = (NONE, NONE)

_ROOM: Final = 65_536
"""How many numbers keys may span, beside four for each row, to be addressed directly."""
_FEW: Final = 8
"""A batch is small beside rows that are so many times as many."""
_MANY: Final = 65_536
"""Rows from which the streaming engine, which starts slowly, joins faster."""
_LEFT: Final = f"{PREFIX}left"
_RIGHT: Final = f"{PREFIX}right"
MOST_PAIRS: Final = 200_000_000
"""More of them at once would be more memory than a job should have to have."""
_LENGTH: Final = f"{PREFIX}length"
_WHOLE: Final = (pl.Date, pl.Datetime, pl.Duration, pl.Time, pl.Boolean)


class Keyed:
    """The keys of a set of rows, and what was made of them to find rows by."""

    def __init__(self, keys: pl.DataFrame) -> None:
        """Keys of rows.

        Args:
            keys: The key columns, called alike for both sets.
        """
        self.keys = keys
        self._met = False

    def __len__(self) -> int:
        return self.keys.height

    @property
    def bytes(self) -> int:
        """What is kept beside the rows themselves."""
        index = self.__dict__.get("_index")
        return 0 if index is None else int(index.bytes)

    @cached_property
    def exact(self) -> bool:
        """Whether a key is one whole number, which is its code."""
        dtypes = self.keys.dtypes
        return len(dtypes) == 1 and (
            (dtypes[0].is_integer() and dtypes[0] not in (pl.Int128, pl.UInt128))
            or isinstance(dtypes[0], _WHOLE)
        )

    @cached_property
    def present(self) -> Rows | None:
        """The rows whose keys hold no null, which meets nothing; ``None`` for all."""
        if not any(column.null_count() for column in self.keys):
            return None
        whole = self.keys.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
        return np.flatnonzero(whole.to_numpy())

    @cached_property
    def codes(self) -> Codes:
        """A number for each row of ``present``; equal keys have equal ones."""
        keys = self.keys if self.present is None else self.keys[self.present]
        if not self.exact:
            return keys.hash_rows(seed=0x6D61).to_numpy().view(np.int64)
        column = keys.to_series()
        if column.dtype == pl.UInt64:
            return column.to_numpy().view(np.int64)
        return column.cast(pl.Int64).to_numpy()

    @cached_property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the greatest code; ``None`` where there are none."""
        return (int(self.codes.min()), int(self.codes.max())) if len(self.codes) else None

    @property
    def distinct_addresses(self) -> bool:
        """Whether codes can be addresses, and no two rows have the same; to find out has its price."""
        return self.dense and isinstance(self._index, _Unique)

    @property
    def dense(self) -> bool:
        """Whether codes lie so close together that they can be addresses."""
        if not self.exact or self.bounds is None:
            return False
        return self.bounds[1] - self.bounds[0] <= 4 * len(self.codes) + _ROOM

    @cached_property
    def _index(self) -> _Unique | _Addressed | _Sorted:
        if not self.dense:
            return _sorted_index(self.codes)
        assert self.bounds is not None
        return _addressed(self.codes, *self.bounds)

    def part(self, rows: Rows) -> Keyed:
        """The keys of some of the rows."""
        return Keyed(self.keys[rows])

    def distinct(self) -> tuple[Keyed, Rows, Rows]:
        """The keys without null, each once; the rows that have one, and the number of each row's key."""
        rows = np.arange(len(self)) if self.present is None else self.present
        if self.exact:
            _, first, of = np.unique(self.codes, return_index=True, return_inverse=True)
            return self.part(rows[first]), rows, of
        numbered = self.keys[rows].with_columns(pl.int_range(pl.len()).alias(_LEFT))
        groups = numbered.group_by(self.keys.columns, maintain_order=True).agg(_LEFT)
        members = groups.get_column(_LEFT)
        of = np.empty(len(rows), np.int64)
        of[members.explode().to_numpy()] = np.repeat(np.arange(groups.height), members.list.len().to_numpy())
        return Keyed(groups.drop(_LEFT)), rows, of

    def meets(self, batch: Keyed) -> Pairs:
        """The pairs of a row of a batch and one of these rows that have equal keys, in no order."""
        if not len(self) or not len(batch):
            return NO_PAIRS
        if self.exact and self._apart(batch):
            return NO_PAIRS
        again, self._met = self._met, True
        few = len(batch) * _FEW < len(self)
        # An index is worth its price where it is used more than once, or where it is cheap.
        if (again and (few or self.dense)) or (self.dense and len(self) <= len(batch)):
            return self._found(batch)
        if batch.dense and len(batch) <= len(self):
            here, there = batch._found(self)
            return there, here
        return _joined(batch.keys, self.keys)

    @cached_property
    def _counted(self) -> pl.DataFrame:
        """How many rows each key has."""
        return self.keys.lazy().group_by(self.keys.columns).len(_LEFT).collect(engine=_engine(len(self)))

    @cached_property
    def _counts(self) -> NDArray[np.int64]:
        """The same by code, from the least on, where codes lie close together."""
        assert self.bounds is not None
        return np.bincount(self.codes - self.bounds[0])

    def pairs_with(self, batch: Keyed) -> int:
        """How many pairs ``meets`` would give, at a price in proportion to the rows."""
        if not len(self) or not len(batch) or (self.exact and self._apart(batch)):
            return 0
        if self.dense and batch.dense and self.bounds is not None and batch.bounds is not None:
            least, most = max(self.bounds[0], batch.bounds[0]), min(self.bounds[1], batch.bounds[1]) + 1
            mine = self._counts[least - self.bounds[0] : most - self.bounds[0]]
            theirs = batch._counts[least - batch.bounds[0] : most - batch.bounds[0]]
            return int(np.dot(mine, theirs))
        on = self.keys.columns
        both = joined(batch._counted, self._counted, left_on=on, right_on=on)
        return int(
            (both.get_column(_LEFT).cast(pl.Int64) * both.get_column(f"{_LEFT}_right").cast(pl.Int64)).sum()
        )

    def has(self, batch: Keyed) -> NDArray[np.bool_]:
        """Of each row of a batch, whether one of these has its key."""
        found = np.zeros(len(batch), np.bool_)
        if len(self) and len(batch):
            numbered = batch.keys.lazy().with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(_LEFT))
            query = numbered.join(self.keys.lazy(), on=self.keys.columns, how="semi").select(_LEFT)
            found[query.collect(engine=_engine(len(self) + len(batch))).to_series().to_numpy()] = True
        return found

    def _apart(self, batch: Keyed) -> bool:
        if self.bounds is None or batch.bounds is None:
            return True
        return self.bounds[0] > batch.bounds[1] or batch.bounds[0] > self.bounds[1]

    def _found(self, batch: Keyed) -> Pairs:
        there, here = self._index.find(batch.codes)
        there = there if batch.present is None else batch.present[there]
        here = here if self.present is None else self.present[here]
        if self.exact or not len(there):
            return there, here
        same = _equal(batch.keys[there], self.keys[here])
        return (there, here) if same.all() else (there[same], here[same])


class _Unique(msgspec.Struct, frozen=True):
    """Codes that are all different and lie close together: where each is, by its distance from the least."""

    least: int
    places: NDArray[np.int32]

    @property
    def bytes(self) -> int:
        return int(self.places.nbytes)

    def find(self, codes: Codes) -> Pairs:
        rows, places = _within(codes, self.least, len(self.places))
        found = self.places[places]
        hit = found >= 0
        if hit.all():
            return (np.arange(len(codes)) if rows is None else rows), found.astype(np.int64)
        which = np.flatnonzero(hit)
        return (which if rows is None else rows[which]), found[which].astype(np.int64)


class _Addressed(msgspec.Struct, frozen=True):
    """Codes that lie close together: where the rows of each begin in an order of all rows by code."""

    least: int
    begins: NDArray[np.int64]
    order: Rows

    @property
    def bytes(self) -> int:
        return int(self.begins.nbytes + self.order.nbytes)

    def find(self, codes: Codes) -> Pairs:
        rows, places = _within(codes, self.least, len(self.begins) - 1)
        begins, ends = self.begins[places], self.begins[places + 1]
        there, here = _spread(begins, ends)
        return (there if rows is None else rows[there]), self.order[here]


class _Sorted(msgspec.Struct, frozen=True):
    """Codes that lie anywhere, sorted."""

    codes: Codes
    order: Rows

    @property
    def bytes(self) -> int:
        return int(self.codes.nbytes + self.order.nbytes)

    def find(self, codes: Codes) -> Pairs:
        begins = np.searchsorted(self.codes, codes, side="left")
        ends = np.searchsorted(self.codes, codes, side="right")
        there, here = _spread(begins, ends)
        return there, self.order[here]


def _addressed(codes: Codes, least: int, most: int) -> _Unique | _Addressed:
    counts = np.bincount(codes - least, minlength=most - least + 1)
    if counts.max() == 1:
        places = np.full(len(counts), -1, np.int32)
        places[codes - least] = np.arange(len(codes), dtype=np.int32)
        return _Unique(least, places)
    begins = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=begins[1:])
    return _Addressed(least, begins, _order_of_places(codes - least, len(counts)))


def _sorted_index(codes: Codes) -> _Sorted:
    order = _order(codes)
    return _Sorted(codes[order], order)


def _order(codes: Codes) -> Rows:
    if bool((codes[1:] >= codes[:-1]).all()):
        return np.arange(len(codes))
    return np.argsort(codes)


def _order_of_places(places: Rows, most: int) -> Rows:
    """The order of non-negative numbers below a bound: 16 bits at a time, which NumPy sorts by counting."""
    if most > 1 << 32 or bool((places[1:] >= places[:-1]).all()):
        return _order(places)
    order = np.argsort(places.astype(np.uint16), kind="stable")
    if most > 1 << 16:
        order = order[np.argsort((places >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _within(codes: Codes, least: int, span: int) -> tuple[Rows | None, Rows]:
    """Which codes lie among so many from the least on, ``None`` for all, and how far from it."""
    with np.errstate(over="ignore"):
        places = codes - np.int64(least)
    # What lies below the least wraps around and lies above all.
    inside = places.view(np.uint64) < np.uint64(span)
    if inside.all():
        return None, places
    rows = np.flatnonzero(inside)
    return rows, places[rows]


def _spread(begins: Rows, ends: Rows) -> Pairs:
    """For each range its number, as often as it is long, and the places in it."""
    counts = ends - begins
    total = int(counts.sum())
    if not total:
        return NO_PAIRS
    which = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return which, np.arange(total) + np.repeat(begins - before, counts)


def _joined(batch: pl.DataFrame, rows: pl.DataFrame) -> Pairs:
    keys = batch.columns
    if joins_one_float(batch.schema, keys):
        keys, same = [*keys, SAME], pl.lit(value=True).alias(SAME)
        batch, rows = batch.with_columns(same), rows.with_columns(same)
    numbered = (
        frame.lazy().with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(name))
        for frame, name in ((batch, _LEFT), (rows, _RIGHT))
    )
    left, right = numbered
    found = (
        left.join(right, on=keys, how="inner")
        .select(_LEFT, _RIGHT)
        .collect(engine=_engine(batch.height + rows.height))
    )
    return found.get_column(_LEFT).to_numpy(), found.get_column(_RIGHT).to_numpy()


def bounded_pairs(rows: Keyed, batch: Keyed) -> Pairs:
    """``rows.meets(batch)``, where these are not more than can be held at once.

    Raises:
        ValueError: They are.
    """
    few = len(rows) * len(batch) <= MOST_PAIRS or rows.distinct_addresses or batch.distinct_addresses
    if not few and (pairs := rows.pairs_with(batch)) > MOST_PAIRS:
        raise ValueError(
            f"{len(batch):,} rows have the keys of {len(rows):,} of the other side in {pairs:,} pairs, which are too "
            "many to be held at once: join on further columns, or within= a length of time"
        )
    return rows.meets(batch)


def close_pairs(
    left: Keyed, lefts: NDArray[np.int64], right: Keyed, rights: NDArray[np.int64], lower: int, upper: int
) -> Pairs:
    """Pairs with equal keys of which the right time may lie between bounds of the left one, and few others.

    Where there are few keys and many rows, most pairs of equal keys lie far apart. Times are cut into lengths as long
    as the bounds are apart: what a row may meet lies in two of these.

    Args:
        left: The keys of left rows.
        lefts: Their times.
        right: The keys of right rows.
        rights: Their times.
        lower: Right time minus left time, at least.
        upper: At most.
    """
    length = max(upper - lower, 1)
    first = (lefts + lower) // length
    twice = pl.concat([left.keys.with_columns(pl.Series(_LENGTH, first + more)) for more in (0, 1)])
    here, there = _joined(twice, right.keys.with_columns(pl.Series(_LENGTH, rights // length)))
    return here % max(len(left), 1), there


def _engine(rows: int) -> Literal["streaming", "in-memory"]:
    return "streaming" if rows >= _MANY else "in-memory"


def _equal(one: pl.DataFrame, other: pl.DataFrame) -> NDArray[np.bool_]:
    columns = zip(one.get_columns(), other.get_columns(), strict=True)
    same = np.ones(one.height, np.bool_)
    for left, right in columns:
        same &= left.eq_missing(right).to_numpy()
    return same


def keyed(frame: pl.DataFrame, on: Sequence[str]) -> Keyed:
    """The keys of a frame's rows."""
    return Keyed(frame.select(pl.col(name).alias(f"{PREFIX}key{place}") for place, name in enumerate(on)))
