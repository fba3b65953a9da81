"""Verbs that look at one row at a time, run one after the other over a frame in a single Polars query.

A selector (``pl.all()``, ``cs.numeric()``) would see the hidden columns too: a verb that ``selects`` is run without
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from mamba_stream.core.single import twice, written_out
from mamba_stream.core.trees import Node, nodes
from mamba_stream.errors import InvalidInput
from mamba_stream.operators.columns import ORDINAL, ORIGIN_TYPES, PREFIX, hidden, ticks
from mamba_stream.operators.results import WINDOW_START
from mamba_stream.operators.times import as_time

_TWIN = f"{PREFIX}twin"
_PLACE = f"{PREFIX}place"
_MOST_ELEMENTS = 1 << 20
_DEEPEST = 1 << 42
_PLAIN = frozenset({"Agg.Max", "Agg.Min", "Agg.Sum", "Agg.Count", "Agg.First", "Agg.Last"})
"""Aggregates that compute alike over any number of groups; a mean divides."""
_MANY = 16_384
"""Rows from which a query more costs less than to copy them."""

RowVerb = Callable[[pl.LazyFrame, list[str]], pl.LazyFrame]
"""Takes the rows and the names of the hidden columns among them."""


class Filtered(msgspec.Struct, frozen=True, eq=False):
    """Rows for which all predicates are true."""

    predicates: Sequence[pl.Expr]
    selects: bool = False

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        if not (self.selects and hidden):
            return rows.filter(*self.predicates)
        frame = rows.collect(engine="in-memory")
        return frame.filter(frame.drop(hidden).select(pl.all_horizontal(self.predicates)).to_series()).lazy()


class Selected(msgspec.Struct, frozen=True, eq=False):
    """Only these columns."""

    exprs: Sequence[pl.Expr]
    selects: bool = False

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        if not (self.selects and hidden):
            return rows.select(*self.exprs, *hidden)
        return _without(hidden, rows, lambda frame: frame.select(*self.exprs))


class Extended(msgspec.Struct, frozen=True, eq=False):
    """Further columns, or others in place of some."""

    exprs: Sequence[pl.Expr]
    selects: bool = False

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        if not (self.selects and hidden):
            return rows.with_columns(*self.exprs)
        return _without(hidden, rows, lambda frame: frame.with_columns(*self.exprs))


class Dropped(msgspec.Struct, frozen=True, eq=False):
    """Without these columns."""

    names: Sequence[str]

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        return rows.drop(self.names)


class Renamed(msgspec.Struct, frozen=True, eq=False):
    """Other names for columns."""

    names: Mapping[str, str]

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        return rows.rename(dict(self.names))


class Converted(msgspec.Struct, frozen=True, eq=False):
    """Other types for columns."""

    types: Mapping[str, pl.DataType]
    strict: bool

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        return rows.cast(pl.Schema(self.types), strict=self.strict) if self.types else rows


class Exploded(msgspec.Struct, frozen=True, eq=False):
    """A row for each element of these lists."""

    lists: Mapping[str, pl.DataType]
    empty_as_null: bool
    keep_nulls: bool

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        if ORDINAL not in hidden:
            return self._exploded(rows, [*self.lists])
        # Which element of its list a row is goes into its origin: that tells it from the others.
        name, dtype = next(iter(self.lists.items()))
        lists = pl.col(name) if isinstance(dtype, pl.List) else pl.col(name).arr.to_list()
        places = rows.with_columns(pl.int_ranges(lists.list.len().cast(pl.Int64)).alias(_PLACE))
        ordinal = pl.struct(ORDINAL, _PLACE).map_batches(_ordinal, return_dtype=ORIGIN_TYPES[ORDINAL])
        exploded = self._exploded(places, [*self.lists, _PLACE])
        return exploded.with_columns(ordinal.alias(ORDINAL)).drop(_PLACE)

    def _exploded(self, rows: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return rows.explode(names, empty_as_null=self.empty_as_null, keep_nulls=self.keep_nulls)


def _ordinal(of: pl.Series) -> pl.Series:
    before, place = of.struct.field(ORDINAL), of.struct.field(_PLACE).fill_null(0)
    most: Any = place.max()
    deepest: Any = before.max()
    if len(of) and (most >= _MOST_ELEMENTS or deepest >= _DEEPEST):
        raise InvalidInput(
            f"a list of {most + 1:,} elements, or lists in lists in lists: a later step depends on the order of rows, "
            f"and that of elements is known for {_MOST_ELEMENTS:,} at three levels"
        )
    return before * _MOST_ELEMENTS + place


class Unnested(msgspec.Struct, frozen=True, eq=False):
    """A column for each field of these structs."""

    names: Sequence[str]
    separator: str | None

    def __call__(self, rows: pl.LazyFrame, hidden: list[str]) -> pl.LazyFrame:
        return rows.unnest(*self.names, separator=self.separator)


class RowSteps:
    """A chain of verbs as one step."""

    def __init__(self, verbs: Sequence[RowVerb], *, in_chunks: bool = False) -> None:
        """The verbs, in order.

        Args:
            verbs: What each does.
            in_chunks: Whether whoever takes the rows takes them in chunks.
        """
        self._verbs = tuple(verbs)
        self._look_around = tuple(_looks_around(verb) for verb in verbs)
        self._by_window = tuple(_computes_by_window(verb) for verb in verbs)
        self._once = all(map(_only_picks, verbs[1:]))
        self._makes_columns = any(isinstance(verb, Extended | Selected) for verb in verbs)
        self._sifting = _sifting(verbs)
        self._behind = RowSteps(verbs[self._sifting :]) if self._sifting else None
        self._stays = in_chunks and self._sifting == len(verbs)
        self.only_picks = all(map(_only_picks, verbs))
        """Whether these verbs compute nothing and keep all rows, so that chunks do not matter to them."""

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows that the verbs give; hidden columns stay with their rows."""
        if self.only_picks:
            return _together(self._verbs, frame)
        if self._behind is not None and _lies_in_long_chunks(frame):
            # What is left is put together, and not first of all what is there.
            left = _together(self._verbs[: self._sifting], frame)
            return left if self._stays else self._behind(written_out(left))
        result = self._alike(written_out(frame))
        return written_out(result) if self._makes_columns and result.height else result

    def _alike(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows, each computed as it would be among others."""
        if frame.height == 0:
            return _together(self._verbs, frame)
        if frame.height > 1 and not any(self._by_window):
            result = _together(self._verbs, frame)
            if result.height > 1 or self._once:
                return result
        # There is one row or one window only, or there may have been somewhere on the way.
        for verb, looks_around, by_window in zip(
            self._verbs, self._look_around, self._by_window, strict=True
        ):
            frame = _alone(verb, frame, looks_around=looks_around and (by_window or frame.height == 1))
        return frame

    @property
    def whole(self) -> str | None:
        """The column whose equal values must be together, where a verb looks at all rows of a window."""
        return WINDOW_START if any(self._look_around) else None

    def culprit(self, frame: pl.DataFrame) -> int:
        """Which verb fails on these rows, by number."""
        for number, verb in enumerate(self._verbs):
            try:
                frame = RowSteps([verb])(frame)
            except (Exception, pl.exceptions.PanicException):  # noqa: BLE001 - the caller has seen and raises it
                return number
        return len(self._verbs) - 1


def _without(
    hidden: Sequence[str], rows: pl.LazyFrame, verb: Callable[[pl.DataFrame], pl.DataFrame]
) -> pl.LazyFrame:
    """What a verb gives that must not see the hidden columns, and gives a row for each row."""
    frame = rows.collect(engine="in-memory")
    return verb(frame.drop(hidden)).hstack(frame.select(hidden)).lazy()


def _together(verbs: Sequence[RowVerb], frame: pl.DataFrame) -> pl.DataFrame:
    names = hidden(frame)
    rows = frame.lazy()
    for verb in verbs:
        rows = verb(rows, names)
    return rows.collect(engine="in-memory")


def _alone(verb: RowVerb, frame: pl.DataFrame, *, looks_around: bool) -> pl.DataFrame:
    """What a verb gives for rows that may be one row, or one window, as if there were others."""
    if looks_around and frame.height and frame.item(0, WINDOW_START) == frame.item(-1, WINDOW_START):
        pair = _together([verb], _beside_another_window(frame))
        return pair.filter(~pl.col(_TWIN)).drop(_TWIN)
    if frame.height == 1:
        pair = _together([verb], twice(frame))
        return pair.head(pair.height // 2)
    return _together([verb], frame)


def _beside_another_window(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of one window, and once more as those of a window that begins a tick later."""
    twin = pl.int_range(pl.len()).ge(frame.height)
    start = as_time(ticks(WINDOW_START) + twin.cast(pl.Int64), frame.schema[WINDOW_START])
    return twice(frame).with_columns(start.alias(WINDOW_START), twin.alias(_TWIN))


def _looks_around(verb: RowVerb) -> bool:
    """Whether a verb's expressions see other rows of their window: there one row is not two."""
    return any(True for _ in _overs(verb))


def _computes_by_window(verb: RowVerb) -> bool:
    """Whether a verb computes with one value for each window: with one window only, that is a single row.

    Counting rows and aggregating a column is no such thing.
    """
    return not all(_is_plain(over.children[0]) for over in _overs(verb))


def _overs(verb: RowVerb) -> Iterator[Node]:
    exprs = verb.predicates if isinstance(verb, Filtered) else getattr(verb, "exprs", ())
    return (node for expr in exprs for node in nodes(expr).walk() if node.kind == "Over")


def _is_plain(node: Node) -> bool:
    if node.kind in _PLAIN:
        return all(child.kind == "Column" for child in node.children)
    return node.kind == "Len"


def _sifting(verbs: Sequence[RowVerb]) -> int:
    """How many verbs there are up to a filter that may come before rows are put together; 0 if there is none."""
    first = next((place for place, verb in enumerate(verbs) if not _only_picks(verb)), len(verbs))
    if first == len(verbs):
        return 0
    verb = verbs[first]
    return first + 1 if isinstance(verb, Filtered) and not verb.selects and not _looks_around(verb) else 0


def _lies_in_long_chunks(frame: pl.DataFrame) -> bool:
    """Whether rows are many and lie in chunks, the same for all columns and none of one row."""
    if frame.height < _MANY or frame.n_chunks() == 1 or len(set(frame.n_chunks("all"))) > 1:
        return False
    return min(frame.to_series().chunk_lengths()) > 1


def _only_picks(verb: RowVerb) -> bool:
    if isinstance(verb, Selected):
        return not verb.selects and all(expr.meta.is_column() for expr in verb.exprs)
    return isinstance(verb, Dropped | Renamed)
