"""Grouping and sorting by several keys at the price of one, where the keys are whole numbers underneath.

Polars groups by one integer column about twice as fast as by two, which it first encodes row by row. Integers, dates,
times and booleans of a batch lie within ranges; if the product of those fits into 63 bits, one number stands for all
keys of a row, and the keys are read off it again afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mamba_stream.core.single import twice

_CODE: Final = "__mamba_code"
_TWIN: Final = "__mamba_twin"
_ROOM: Final = 1 << 62
_LEAST: Final = -(1 << 63)
"""There is no number before it that could stand for a null."""
_WORTH_IT: Final = 2_048
"""Rows from which looking for the ranges costs less than it gains."""
_MANY: Final = 65_536
"""Rows from which the streaming engine, which starts slowly and keeps no order, is faster."""
_COMPANY: Final = 0.25
"""Up to this share of rows that are not the only ones of their group, these alone are grouped."""

_Engine = Literal["streaming", "in-memory"]


@dataclass(frozen=True, slots=True)
class _Digit:
    """One key as a digit of a number in mixed radix; a null is the digit 0."""

    name: str
    dtype: pl.DataType
    least: int
    nulls: bool
    radix: int

    def encoded(self) -> pl.Expr:
        number = _physical(self.name) - self.least
        return (number + 1).fill_null(0) if self.nulls else number

    def decoded(self, code: pl.Expr) -> pl.Expr:
        digit = code % self.radix
        number = digit + (self.least - 1 if self.nulls else self.least)
        if self.nulls:
            number = pl.when(digit > 0).then(number)
        if isinstance(self.dtype, pl.Boolean):
            return (number == 1).alias(self.name)
        return (number.cast(pl.Int32) if self.dtype == pl.Date else number).cast(self.dtype).alias(self.name)


def _physical(name: str) -> pl.Expr:
    return pl.col(name).to_physical().cast(pl.Int64)


def grouped(
    frame: pl.DataFrame, keys: Sequence[str], exprs: Sequence[pl.Expr], *, nested: bool = False
) -> pl.DataFrame:
    """``frame.group_by(keys).agg(exprs)``, with the groups in any order.

    Args:
        frame: The rows.
        keys: The columns to group by.
        exprs: Aggregates whose value does not depend on the order of rows.
        nested: Whether some give structs or lists, with which the streaming engine is several times slower.
    """
    if frame.height == 1:
        pair = twice(frame).with_columns(pl.int_range(pl.len()).ge(1).alias(_TWIN))
        # Eagerly: a lazy query would move the filter before the grouping.
        return pair.group_by([*keys, _TWIN]).agg(exprs).filter(~pl.col(_TWIN)).drop(_TWIN)
    digits = _digits(frame, keys) if len(keys) > 1 else None
    if digits is None:
        return frame.lazy().group_by(keys).agg(exprs).collect(engine=_engine(frame, nested=nested))
    return _grouped_by_code(frame, digits, exprs, sort=False, engine=_engine(frame, nested=nested))


def run_of(
    frame: pl.DataFrame, keys: Sequence[str], exprs: Sequence[pl.Expr], *, nested: bool = False
) -> pl.DataFrame:
    """As :func:`grouped`, with the groups sorted by the first key; and by all of them, where that costs no more."""
    digits = _digits(frame, keys)
    if digits is None:
        return grouped(frame, keys, exprs, nested=nested).sort(keys[0])
    return _grouped_by_code(frame, digits, exprs, sort=True, engine=_engine(frame, nested=nested))


def combined(
    frame: pl.DataFrame, keys: Sequence[str], exprs: Sequence[pl.Expr], *, nested: bool = False
) -> pl.DataFrame | None:
    """As :func:`grouped`, with the groups sorted by all keys, of rows of which most are the only ones of their group.

    Rows that lie sorted in a few stretches are sorted at next to no cost, and only those that have company are grouped.

    Args:
        frame: The rows.
        keys: The columns to group by.
        exprs: Aggregates that have the names of columns, and leave a row as it is that is the only one of its group.
        nested: As for :func:`grouped`.

    Returns:
        ``None`` where the keys are no whole numbers, or the rows so few that it would cost more.
    """
    digits = _digits(frame, keys)
    if digits is None:
        return None
    codes = frame.select(_packed(digits)).to_series().to_numpy()
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


def _grouped_by_code(
    frame: pl.DataFrame, digits: Sequence[_Digit], exprs: Sequence[pl.Expr], *, sort: bool, engine: _Engine
) -> pl.DataFrame:
    packed = frame.lazy().group_by(_packed(digits)).agg(exprs)
    if sort:
        packed = packed.sort(_CODE)
    # Exponents grow from the last key to the first.
    code, decoded = pl.col(_CODE), []
    for digit in reversed(digits):
        decoded.append(digit.decoded(code))
        code = code // digit.radix
    made = [pl.col(expr.meta.output_name()) for expr in exprs]
    return packed.select(*reversed(decoded), *made).collect(engine=engine)


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
    return frame.sort(keys if digits is None else _packed(digits))


def codes_of(frame: pl.DataFrame, keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """A number from 0 on for each row, equal where the keys are; there is at least one row."""
    digits = _digits(frame, keys, always=True)
    if digits is not None:
        return frame.select(_packed(digits)).to_series().to_numpy()
    numbered = frame.select(keys).with_row_index(_CODE)
    return numbered.select(pl.col(_CODE).first().over(keys).cast(pl.Int64)).to_series().to_numpy()


def _packed(digits: Sequence[_Digit]) -> pl.Expr:
    first, *others = digits
    code = first.encoded()
    for digit in others:
        code = code * digit.radix + digit.encoded()
    return code.alias(_CODE)


def _digits(frame: pl.DataFrame, keys: Sequence[str], *, always: bool = False) -> list[_Digit] | None:
    """The keys as digits; ``None`` where they are no whole numbers, or too far apart, or so few that it costs more."""
    dtypes = [frame.schema[name] for name in keys]
    if (frame.height < _WORTH_IT and not always) or not all(_is_whole(dtype) for dtype in dtypes):
        return None
    ranges = frame.lazy().select(
        expr
        for place, name in enumerate(keys)
        for expr in (
            pl.col(name).to_physical().min().alias(f"{place}min"),
            pl.col(name).to_physical().max().alias(f"{place}max"),
            pl.col(name).null_count().alias(f"{place}nulls"),
        )
    )
    found = ranges.collect(engine="in-memory").row(0)
    digits, room = [], 1
    for place, (name, dtype) in enumerate(zip(keys, dtypes, strict=True)):
        least, most, nulls = found[3 * place : 3 * place + 3]
        least, most = (0, 0) if least is None else (int(least), int(most))
        if most >= _ROOM or (nulls and least == _LEAST):
            return None
        digit = _Digit(name, dtype, least, bool(nulls), most - least + 1 + bool(nulls))
        room *= digit.radix
        digits.append(digit)
        if room > _ROOM:
            return None
    return digits


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime | pl.Duration | pl.Time | pl.Boolean)
