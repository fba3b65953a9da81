"""Grouping and sorting by several keys at the price of one, where the keys are whole numbers underneath.

Polars groups by one integer column about twice as fast as by two, which it first encodes row by row. Integers, dates,
times and booleans of a batch lie within ranges; if the product of those fits into 63 bits, one number stands for all
keys of a row, and the keys are read off it again afterwards. If it is small, it is the place of the group in an array
(:mod:`mamba_stream.operators.folding`), and no hash table is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.single import twice, written_out
from mamba_stream.operators.folding import Folds

_CODE: Final = "__mamba_code"
_TWIN: Final = "__mamba_twin"
_ROOM: Final = 1 << 62
_LEAST: Final = -(1 << 63)
"""There is no number before it that could stand for a null."""
_WORTH_IT: Final = 2_048
"""Rows from which looking for the ranges costs less than it gains."""
_WORTH_ADDING: Final = 8_192
"""The same for a single key, by which Polars groups few rows sooner."""
_MANY: Final = 65_536
"""Rows from which the streaming engine, which starts slowly and keeps no order, is faster."""
_CELLS_A_ROW: Final = 2
"""Up to so many possible groups for each row, to look at all of them costs less than a hash table."""
_COMPANY: Final = 0.25
"""Up to this share of rows that are not the only ones of their group, these alone are grouped."""


class Panes(msgspec.Struct, frozen=True):
    """A key that is made of a column of times: the last of regular steps up to each.

    Attributes:
        name: The key.
        time: The column.
        shift: Ticks to add to it.
        origin: One of the steps.
        step: How far apart they are.
    """

    name: str
    time: str
    shift: int
    origin: int
    step: int


_NO_STEPS: Final[Mapping[str, int]] = {}

Codes = npt.NDArray[np.int64]

_Engine = Literal["streaming", "in-memory"]


class _Digit(msgspec.Struct, frozen=True):
    """One key as a digit of a number in mixed radix; a null is the digit 0.

    Attributes:
        name: The key.
        dtype: Its type.
        least: Its least value, as a whole number.
        most: Its greatest.
        nulls: Whether it may be null.
        step: All values are multiples of this apart from the least one.
        made_of: The column that it is made of, if that is another: each value is the last step up to one there.
        shift: What is added to that one.
    """

    name: str
    dtype: pl.DataType
    least: int
    most: int
    nulls: bool
    step: int = 1
    made_of: str = ""
    shift: int = 0

    @property
    def radix(self) -> int:
        return (self.most - self.least) // self.step + 1 + self.nulls

    def encoded(self, frame: pl.DataFrame) -> Codes:
        column = frame.get_column(self.made_of or self.name).to_physical().cast(pl.Int64)
        filled = column.fill_null(self.least) if self.nulls else column
        numbers = filled.to_numpy() - (self.least - self.shift)
        if self.step > 1:
            numbers //= self.step
        if self.nulls:
            numbers += 1
            numbers[column.is_null().to_numpy()] = 0
        return numbers

    def decoded(self, digits: Codes) -> pl.Series:
        numbers = digits * self.step
        numbers += self.least - (self.step if self.nulls else 0)
        column = pl.Series(self.name, numbers)
        if self.nulls:
            column = column.set(pl.Series(digits == 0), None)
        if isinstance(self.dtype, pl.Boolean):
            return column == 1
        return (column.cast(pl.Int32) if self.dtype == pl.Date else column).cast(self.dtype)


def grouped(
    frame: pl.DataFrame,
    keys: Sequence[str],
    exprs: Sequence[pl.Expr],
    *,
    nested: bool = False,
    folds: Folds | None = None,
    steps: Mapping[str, int] = _NO_STEPS,
) -> pl.DataFrame:
    """``frame.group_by(keys).agg(exprs)``, with the groups in any order.

    Args:
        frame: The rows, in any chunks.
        keys: The columns to group by.
        exprs: Aggregates whose value does not depend on the order of rows.
        nested: Whether some give structs or lists, with which the streaming engine is several times slower.
        folds: The same as ``exprs``, where there is such.
        steps: By key, what all its values are multiples of apart.
    """
    if frame.height == 1:
        pair = twice(frame).with_columns(pl.int_range(pl.len()).ge(1).alias(_TWIN))
        # Eagerly: a lazy query would move the filter before the grouping.
        return pair.group_by([*keys, _TWIN]).agg(exprs).filter(~pl.col(_TWIN)).drop(_TWIN)
    adds_up = folds is not None and frame.height >= _WORTH_ADDING
    digits = _digits(frame, keys, steps) if len(keys) > 1 or adds_up else None
    if digits is not None and (found := _folded(frame, digits, folds)) is not None:
        return found
    if digits is None or len(keys) == 1:
        rows = written_out(frame).lazy()
        return rows.group_by(keys).agg(exprs).collect(engine=_engine(frame, nested=nested))
    return _grouped_by_code(frame, digits, exprs, sort=False, engine=_engine(frame, nested=nested))


def run_of(
    frame: pl.DataFrame,
    keys: Sequence[str],
    exprs: Sequence[pl.Expr],
    *,
    nested: bool = False,
    folds: Folds | None = None,
    steps: Mapping[str, int] = _NO_STEPS,
) -> pl.DataFrame:
    """As :func:`grouped`, with the groups sorted by the first key; and by all of them, where that costs no more."""
    digits = _digits(frame, keys, steps)
    if digits is None:
        return grouped(frame, keys, exprs, nested=nested).sort(keys[0])
    found = _folded(frame, digits, folds)
    if found is not None:
        return found
    return _grouped_by_code(frame, digits, exprs, sort=True, engine=_engine(frame, nested=nested))


def run_by_panes(frame: pl.DataFrame, panes: Panes, keys: Sequence[str], folds: Folds) -> pl.DataFrame | None:
    """As :func:`run_of` by these panes and other keys, without a column of panes: a frame of numbers less to write.

    Returns:
        ``None`` where rows are not to be added up.
    """
    ticks = frame.get_column(panes.time).to_physical()
    others = _digits(frame, keys)
    if others is None or ticks.null_count() or not frame.height:
        return None
    ends: Any = (ticks.min(), ticks.max())
    least, most = (tick - (tick - panes.origin) % panes.step for tick in (end + panes.shift for end in ends))
    if least < -_ROOM or most > _ROOM:
        return None
    slots = _Digit(panes.name, pl.Int64(), least, most, False, panes.step, panes.time, panes.shift)
    return _folded(frame, [slots, *others], folds)


def combined(
    frame: pl.DataFrame,
    keys: Sequence[str],
    exprs: Sequence[pl.Expr],
    *,
    nested: bool = False,
    folds: Folds | None = None,
    steps: Mapping[str, int] = _NO_STEPS,
) -> pl.DataFrame | None:
    """As :func:`grouped`, with the groups sorted by all keys, of rows of which most are the only ones of their group.

    Rows that lie sorted in a few stretches are sorted at next to no cost, and only those that have company are grouped.

    Args:
        frame: The rows.
        keys: The columns to group by.
        exprs: Aggregates that have the names of columns, and leave a row as it is that is the only one of its group.
        nested: As for :func:`grouped`.
        folds: As for :func:`grouped`.
        steps: As for :func:`grouped`.

    Returns:
        ``None`` where the keys are no whole numbers, or the rows so few that it would cost more.
    """
    digits = _digits(frame, keys, steps)
    if digits is None:
        return None
    if (found := _folded(frame, digits, folds)) is not None:
        return found
    codes = _packed(frame, digits)
    order = np.argsort(codes, kind="stable")
    in_order = codes[order]
    begins = np.ones(len(order) + 1, np.bool_)
    np.not_equal(in_order[1:], in_order[:-1], out=begins[1:-1])
    alone = begins[1:] & begins[:-1]
    together = len(order) - int(np.count_nonzero(alone))
    if together > len(order) * _COMPANY:
        return _grouped_by_code(frame, digits, exprs, sort=True, engine=_engine(frame, nested=nested))
    rows = frame.select(*keys, *(expr.meta.output_name() for expr in exprs))
    if not together:
        return rows[order]
    several = _grouped_by_code(frame[order[~alone]], digits, exprs, sort=True, engine="in-memory")
    begins = begins[:-1]
    places = order[begins]
    places[~alone[begins]] = np.arange(rows.height, rows.height + several.height)
    return pl.concat([rows, several], rechunk=True)[places]


def _engine(frame: pl.DataFrame, *, nested: bool) -> _Engine:
    return "streaming" if frame.height >= _MANY and not nested else "in-memory"


def _folded(frame: pl.DataFrame, digits: Sequence[_Digit], folds: Folds | None) -> pl.DataFrame | None:
    """The groups, sorted by all keys, if it is worth while to have a cell for each there could be."""
    cells = math.prod(digit.radix for digit in digits)
    if folds is None or cells > _CELLS_A_ROW * frame.height:
        return None
    adding = folds.adding(cells)
    for piece in _pieces(frame):
        adding.add(piece, _packed(piece, digits))
    there, made = adding.results()
    return pl.DataFrame([*_unpacked(there, digits), *made])


def _pieces(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The frame, by chunks where these are long: to put them together would cost as much as to add them up."""
    lengths = frame.to_series().chunk_lengths()
    if len(lengths) == 1 or min(lengths) < max(2, _WORTH_IT):
        yield written_out(frame)
        return
    first = 0
    for length in lengths:
        yield frame.slice(first, length)
        first += length


def _grouped_by_code(
    frame: pl.DataFrame, digits: Sequence[_Digit], exprs: Sequence[pl.Expr], *, sort: bool, engine: _Engine
) -> pl.DataFrame:
    coded = written_out(frame).with_columns(pl.Series(_CODE, _packed(frame, digits)))
    query = coded.lazy().group_by(_CODE).agg(exprs)
    found = (query.sort(_CODE) if sort else query).collect(engine=engine)
    code, *made = found.get_columns()
    return pl.DataFrame([*_unpacked(code.to_numpy(), digits), *made])


def grouped_in_order(
    frame: pl.DataFrame, keys: Sequence[str], exprs: Sequence[pl.Expr], *, single: bool
) -> pl.DataFrame:
    """``frame.group_by(keys, maintain_order=True).agg(exprs)``, with the groups sorted.

    Args:
        frame: The rows.
        keys: The columns to group by.
        exprs: Any aggregations; they see each group's rows in order.
        single: Whether there is one group only, which must give what it gives beside others.
    """
    if not single:
        query = frame.lazy().group_by(keys, maintain_order=True).agg(exprs).sort(keys)
        return query.collect(engine="in-memory")
    pair = twice(frame).with_columns(pl.int_range(pl.len()).ge(frame.height).alias(_TWIN))
    # Eagerly: a lazy query would move the filter before the grouping.
    groups = pair.group_by([*keys, _TWIN], maintain_order=True).agg(exprs)
    return groups.filter(~pl.col(_TWIN)).drop(_TWIN)


def ordered(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """``frame.sort(keys)``: nulls first."""
    digits = _digits(frame, keys) if len(keys) > 1 else None
    return frame.sort(keys if digits is None else pl.lit(pl.Series(_packed(frame, digits))))


def codes_of(frame: pl.DataFrame, keys: Sequence[str]) -> Codes:
    """A number from 0 on for each row, equal where the keys are; there is at least one row."""
    digits = _digits(frame, keys, always=True)
    if digits is not None:
        return _packed(frame, digits)
    numbered = frame.select(keys).with_row_index(_CODE)
    return numbered.select(pl.col(_CODE).first().over(keys).cast(pl.Int64)).to_series().to_numpy()


def _packed(frame: pl.DataFrame, digits: Sequence[_Digit]) -> Codes:
    """The number that stands for the keys of each row."""
    first, *others = digits
    codes = first.encoded(frame)
    for digit in others:
        codes *= digit.radix
        codes += digit.encoded(frame)
    return codes


def _unpacked(codes: Codes, digits: Sequence[_Digit]) -> list[pl.Series]:
    """The keys that numbers stand for."""
    first, *others = digits
    columns = []
    # Exponents grow from the last key to the first.
    for digit in reversed(others):
        rest = codes // digit.radix
        columns.append(digit.decoded(codes - rest * digit.radix))
        codes = rest
    return [first.decoded(codes), *reversed(columns)]


def _digits(
    frame: pl.DataFrame, keys: Sequence[str], steps: Mapping[str, int] = _NO_STEPS, *, always: bool = False
) -> list[_Digit] | None:
    """The keys as digits; ``None`` where they are no whole numbers, or too far apart, or so few that it costs more."""
    dtypes = [frame.schema[name] for name in keys]
    if (frame.height < _WORTH_IT and not always) or not all(_is_whole(dtype) for dtype in dtypes):
        return None
    digits, room = [], 1
    for name, dtype in zip(keys, dtypes, strict=True):
        column = frame.get_column(name)
        nulls, numbers = column.null_count(), column.to_physical()
        least: Any = numbers.min()
        most: Any = numbers.max()
        least, most = (0, 0) if least is None else (int(least), int(most))
        if most >= _ROOM or (nulls and least == _LEAST):
            return None
        digit = _Digit(name, dtype, least, most, bool(nulls), steps.get(name, 1))
        room *= digit.radix
        digits.append(digit)
        if room > _ROOM:
            return None
    return digits


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime | pl.Duration | pl.Time | pl.Boolean)
