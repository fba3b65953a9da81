"""What ``Stream.join`` is given, checked and made into a node."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.trees import columns
from mamba_stream.dsl.arguments import names
from mamba_stream.dsl.tables import as_table
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.joins import IntervalJoin, join_name
from mamba_stream.plan.words import in_units

HOWS = ("inner", "left", "right", "full", "semi", "anti")
_TABLE_HOWS = ("inner", "left", "semi", "anti")
_WITHIN = "a length of time such as '10m', or two: ('0s', '15m') for the other row's time minus this row's"


def key_columns(on: Any, left_on: Any, right_on: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The key columns of both sides.

    Raises:
        PipelineRefused: They are given twice, not at all, or not as many on both sides.
    """
    if (on is None) == (left_on is None and right_on is None):
        raise PipelineRefused("join: give on=, or left_on= and right_on=")
    left = names(on if on is not None else left_on, what="join")
    right = names(on if on is not None else right_on, what="join")
    if not left or len(left) != len(right):
        raise PipelineRefused(f"join: {len(left)} columns on the left, {len(right)} on the right")
    return left, right


def lookup(
    place: n.Place, parent: n.Node, table: Any, on: tuple[Sequence[str], Sequence[str]], how: str, suffix: str
) -> n.Node:
    """A join with a table that stays as it is."""
    if how not in _TABLE_HOWS:
        raise PipelineRefused(f"join: how={how!r}; with a table choose 'inner', 'left', 'semi' or 'anti'")
    return n.Lookup(
        place=place,
        parent=parent,
        table=as_table(table, what="join"),
        left_on=tuple(on[0]),
        right_on=tuple(on[1]),
        how=how,  # type: ignore[arg-type]
        suffix=suffix,
    )


def stream_join(
    place: n.Place,
    sides: tuple[n.Node, n.Node],
    on: tuple[tuple[str, ...], tuple[str, ...]],
    how: str,
    *,
    within: Any,
    suffix: str,
    name: str | None,
) -> n.Node:
    """A join of two streams.

    Raises:
        PipelineRefused: An argument cannot be right.
    """
    if how not in HOWS:
        listed = ", ".join(map(repr, HOWS))
        raise PipelineRefused(f"join: how={how!r}{did_you_mean(str(how), HOWS)}; choose one of {listed}")
    if name is not None:
        check_name(name, "step")
    lower, upper, words = _bounds(within)
    return IntervalJoin(
        place=place,
        left=sides[0],
        right=sides[1],
        left_on=on[0],
        right_on=on[1],
        how=how,  # type: ignore[arg-type]
        suffix=suffix,
        lower=lower,
        upper=upper,
        bounds=words,
        name=name or join_name(list(zip(*on, strict=True)), how, words),
    )


def _bounds(within: Any) -> tuple[int, int | pl.Expr, str]:
    """The bounds in microseconds, and in words."""
    if isinstance(within, str | timedelta):
        reach = duration_us(within, what="join: within=")
        return -reach, reach, f"within {_text(within)}"
    if not isinstance(within, tuple | list) or len(within) != 2:
        raise PipelineRefused(f"join: within={within!r:.80} is not {_WITHIN}")
    first, last = within
    if isinstance(first, pl.Expr):
        raise PipelineRefused(
            "join: within=(an expression, ...): only the upper bound may be an expression, as the lower one says how "
            "long rows of the other stream are kept: join the other way round, or give a length of time"
        )
    lower = duration_us(first, what="join: the lower bound of within=", negative=True)
    if isinstance(last, pl.Expr):
        roots = ", ".join(sorted(columns(last))) or "constants"
        return lower, last, f"within {_text(first)} to a bound by {roots}"
    upper = duration_us(last, what="join: the upper bound of within=", negative=True)
    if lower > upper:
        raise PipelineRefused(f"join: within=({first!r}, {last!r}): no time lies between these: swap them")
    return lower, upper, f"within {_text(first)} to {_text(last)}"


def _text(length: str | timedelta) -> str:
    if isinstance(length, str):
        return length
    return f"-{in_units(-length)}" if length < timedelta() else in_units(length)
