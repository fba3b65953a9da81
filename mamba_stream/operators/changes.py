"""Changelogs: rows that put others in their place, and the table that they fold to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from mamba_stream.core.single import written_out
from mamba_stream.errors import InvalidInput
from mamba_stream.operators.columns import (
    DELETE,
    INSERT,
    OFFSET,
    OP,
    OP_TYPE,
    OP_WORDS,
    ORDINAL,
    ORIGIN_TYPES,
    PARTITION,
    PREFIX,
    SOURCE,
    UPDATE_AFTER,
    UPDATE_BEFORE,
)
from mamba_stream.operators.rowstore import Mask, where

OP_COLUMN: Final = "_op"
"""Where users and topics see what a row does."""

OP_WORD_TYPE: Final = pl.String()

_COUNT: Final = f"{PREFIX}count"


def with_op(frame: pl.DataFrame, op: int = INSERT) -> pl.DataFrame:
    """Rows that all do the same, unless they say what they do already."""
    return frame if OP in frame.columns else frame.with_columns(pl.lit(op, dtype=OP_TYPE).alias(OP))


def in_words(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of a changelog with what they do as an ordinary column, the first."""
    words = pl.col(OP).replace_strict(range(len(OP_WORDS)), OP_WORDS, return_dtype=OP_WORD_TYPE)
    return frame.select(words.alias(OP_COLUMN), pl.exclude(OP, OP_COLUMN))


def check_words(words: pl.Series) -> None:
    """Raises InvalidInput unless all of these say what a row of a changelog does."""
    known = words.is_in(list(OP_WORDS)).fill_null(value=False)
    if not known.all():
        raise InvalidInput(
            f"column {OP_COLUMN!r} holds {words.filter(~known)[0]!r}, and should say {', '.join(OP_WORDS)}"
        )


def takes_back() -> pl.Expr:
    """Whether a row takes an earlier one back."""
    return pl.col(OP) % 2 == 1


def folded(frame: pl.DataFrame, key: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """The table that a changelog amounts to, in the order of its key, or of its columns where it has none.

    Args:
        frame: The changelog from its beginning on, in order.
        key: What tells the rows of the table apart; empty where nothing does.
        columns: The columns of the table.
    """
    if key:
        last = frame.group_by(key, maintain_order=True).agg(pl.exclude(key).last())
        return last.filter(~takes_back()).select(columns).sort(key, nulls_last=False, maintain_order=True)
    sign = pl.when(takes_back()).then(-1).otherwise(1)
    counted = frame.group_by(columns, maintain_order=True).agg(sign.sum().alias(_COUNT))
    there = counted.filter(pl.col(_COUNT) > 0)
    return there.select(pl.col(columns).repeat_by(_COUNT).explode())


def table_of(rows: pl.DataFrame) -> pl.DataFrame:
    """The table that rows with ``_op`` amount to.

    Example:
        >>> rows = pl.DataFrame({"_op": ["+I", "-U", "+U"], "key": ["a", "a", "a"], "n": [1, 1, 2]})
        >>> table_of(rows).rows()
        [('a', 2)]
    """
    codes = pl.col(OP_COLUMN).replace_strict(OP_WORDS, range(len(OP_WORDS)), return_dtype=OP_TYPE)
    columns = [name for name in rows.columns if name != OP_COLUMN]
    return folded(rows.select(codes.alias(OP), *columns), (), columns)


def differences(old: pl.DataFrame, new: pl.DataFrame, was: Mask, now: Mask) -> pl.DataFrame | None:
    """The rows of a changelog between two states of some rows; ``None`` where nothing changed.

    Args:
        old: Those rows as they were that were there.
        new: Those rows as they are that are there, of the same columns.
        was: Which of all rows were there.
        now: Which are there.
    """
    had, has = np.flatnonzero(was), np.flatnonzero(now)
    changed = was & now
    if changed.any():
        # Both have the rows that stayed, in the same order.
        left, right = where(old, now[had]), where(new, was[has])
        other = left.select(
            pl.any_horizontal(pl.col(name).ne_missing(right.get_column(name)) for name in left.columns)
        )
        changed[changed] = other.to_series().to_numpy()
    before = np.flatnonzero(~now[had] | changed[had])
    after = np.flatnonzero(~was[has] | changed[has])
    if not len(before) + len(after):
        return None
    goes, comes = had[before], has[after]
    ops = np.concatenate(
        [
            np.where(now[goes], UPDATE_BEFORE, DELETE).astype(np.int8),
            np.where(was[comes], UPDATE_AFTER, INSERT).astype(np.int8),
        ]
    )
    if not len(before):
        made = new if len(after) == new.height else new[after]
    else:
        # What takes a row back stands before what comes in its place.
        order = np.argsort(np.concatenate([2 * goes, 2 * comes + 1]), kind="stable")
        ops = ops[order]
        made = pl.concat([old, new])[np.concatenate([before, after + old.height])[order]]
    return written_out(made.with_columns(pl.Series(OP, ops)))


class Emitted:
    """Numbers the rows of a changelog in the order in which they are given, for steps that depend on order."""

    rows = bytes = 0

    def __init__(self, source: int | None) -> None:
        """Nothing was given yet.

        Args:
            source: The number of the step; ``None`` where no step needs to know.
        """
        self._source = source
        self._next = 0

    def numbered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows with their origin."""
        if self._source is None:
            return frame
        first, self._next = self._next, self._next + frame.height
        values = {
            SOURCE: pl.lit(self._source),
            PARTITION: pl.lit(0),
            OFFSET: pl.int_range(first, self._next),
            ORDINAL: pl.lit(0),
        }
        return written_out(
            frame.with_columns(value.cast(ORIGIN_TYPES[name]).alias(name) for name, value in values.items())
        )

    def delta(self) -> pl.DataFrame | None:
        """How many there were, as a part of a step's state."""
        return None if self._source is None else pl.DataFrame({OFFSET: [self._next]})

    def snapshot(self) -> pl.DataFrame | None:
        """The same."""
        return self.delta()

    def restore(self, frame: pl.DataFrame) -> None:
        """Takes back what was saved."""
        self._next = frame.item(0, OFFSET)
