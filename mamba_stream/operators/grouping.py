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

from mamba_stream.operators.single import twice

_CODE: Final = "__mamba_code"
_TWIN: Final = "__mamba_twin"
_ROOM: Final = 1 << 62
_WORTH_IT: Final = 2_048
"""Rows from which looking for the ranges costs less than it gains."""
_MANY: Final = 65_536
"""Rows from which the streaming engine, which starts slowly and keeps no order, is faster."""


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
    many = frame.height >= _MANY and not nested
    engine: Literal["streaming", "in-memory"] = "streaming" if many else "in-memory"
    digits = _digits(frame, keys) if len(keys) > 1 else None
    if digits is None:
        return frame.lazy().group_by(keys).agg(exprs).collect(engine=engine)
    packed = frame.lazy().group_by(_packed(digits)).agg(exprs)
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
        if most >= _ROOM:
            return None
        digit = _Digit(name, dtype, least, bool(nulls), most - least + 1 + bool(nulls))
        room *= digit.radix
        digits.append(digit)
        if room > _ROOM:
            return None
    return digits


def _is_whole(dtype: pl.DataType) -> bool:
    return dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime | pl.Duration | pl.Time | pl.Boolean)
