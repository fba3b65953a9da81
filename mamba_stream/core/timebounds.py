"""Bounds on a time column that follow from a predicate, so that batches outside them need not be read.

Bounds are microseconds since the epoch and inclusive: a row whose time lies outside cannot satisfy the
predicate. They are up to a millisecond wider than the literals, since Polars compares times of different
units in the coarser one, after truncating the other (12:00:00.0009 equals the literal 12:00:00 in
milliseconds). A Date counts as its midnight, a naive time as UTC. None means: no bound known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import polars as pl

from mamba_stream.core.trees import Node, nodes

Bounds = tuple[int | None, int | None]

_UNKNOWN: Bounds = (None, None)
_MIRRORED = {"Gt": "Lt", "GtEq": "LtEq", "Lt": "Gt", "LtEq": "GtEq"}
_DAY = 86_400_000_000
#: In microseconds: the part of a time that truncating it to the coarsest unit, a millisecond, can lose.
_LOST = 999


def time_bounds(predicate: pl.Expr, column: str) -> Bounds:
    """The range of times outside of which no row satisfies a predicate.

    Understood are comparisons of the bare column to a time literal, ``is_between``, ``&`` and ``|``,
    ``all_horizontal`` and ``any_horizontal``, also as Polars' optimiser writes them; anything else bounds
    nothing. Never narrower than the truth, in any time unit: strict comparisons are taken as inclusive.

    Args:
        predicate: A Boolean expression.
        column: The name of a Datetime or Date column.

    Returns:
        Lowest and highest time in microseconds since the epoch, each None where nothing is known.

    Raises:
        ExpressionRefused: The predicate cannot be looked into.
    """
    return _bounds(nodes(predicate), column)


def _bounds(node: Node, column: str) -> Bounds:
    kind, _, comparison = node.kind.partition(".")
    if node.kind == "Alias":
        return _bounds(node.children[0], column)
    if node.kind == "Boolean.IsBetween":
        subject, low, high = node.children
        return _both(_compared(subject, "GtEq", low, column), _compared(subject, "LtEq", high, column))
    if node.kind in ("Operator.And", "Operator.LogicalAnd", "Boolean.AllHorizontal"):
        return reduce(_both, (_bounds(child, column) for child in node.children), _UNKNOWN)
    if node.kind in ("Operator.Or", "Operator.LogicalOr", "Boolean.AnyHorizontal") and node.children:
        return reduce(_either, (_bounds(child, column) for child in node.children))
    if kind == "Operator":
        left_node, right_node = node.children
        if right_node.kind == "Column":
            left_node, right_node, comparison = right_node, left_node, _MIRRORED.get(comparison, comparison)
        return _compared(left_node, comparison, right_node, column)
    return _UNKNOWN


def _compared(subject: Node, comparison: str, literal: Node, column: str) -> Bounds:
    if subject.kind != "Column" or subject.params != column:
        return _UNKNOWN
    value = _microseconds(literal)
    if value is None:
        return _UNKNOWN
    low, high = value
    if comparison in ("Eq", "EqValidity"):
        return low, high
    if comparison in ("Gt", "GtEq"):
        return low, None
    if comparison in ("Lt", "LtEq"):
        return None, high
    return _UNKNOWN


def _microseconds(literal: Node) -> tuple[int, int] | None:
    """The earliest and the latest microsecond that may compare equal to the literal."""
    scalar: Any = literal.params.get("Scalar") if literal.kind == "Literal" else None
    if not isinstance(scalar, dict):
        return None
    if "Date" in scalar:
        return scalar["Date"] * _DAY, scalar["Date"] * _DAY
    if "Datetime" in scalar:
        ticks, unit = scalar["Datetime"][:2]
        if unit == "Milliseconds":
            return ticks * 1000 - _LOST, ticks * 1000 + _LOST
        if unit == "Microseconds":
            return ticks - _LOST, ticks + _LOST
        if unit == "Nanoseconds":
            return ticks // 1000 - _LOST, -(-ticks // 1000) + _LOST
    return None


def _both(one: Bounds, other: Bounds) -> Bounds:
    return _inner(max, one[0], other[0]), _inner(min, one[1], other[1])


def _either(one: Bounds, other: Bounds) -> Bounds:
    return _outer(min, one[0], other[0]), _outer(max, one[1], other[1])


def _inner(pick: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return pick(one, other)


def _outer(pick: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else pick(one, other)
