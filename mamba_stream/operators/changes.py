"""Changelogs: rows that put others in their place, and the table that they fold to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl

from mamba_stream.operators.columns import INSERT, OP, OP_TYPE, OP_WORDS, PREFIX

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
