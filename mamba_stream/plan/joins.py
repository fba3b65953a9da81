"""Joins of streams as nodes of a plan, and what is known of their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Final

import polars as pl

from mamba_stream.core.durations import duration_in, ticks_per_day
from mamba_stream.core.trees import columns as columns_in, fingerprint, short
from mamba_stream.errors import ColumnNotFound, ExpressionRefused, PipelineRefused
from mamba_stream.operators.joined import LEFT, RIGHT, How, Outcome
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis, in_order
from mamba_stream.plan.columns import columns_of, columns_read, present_columns
from mamba_stream.plan.explain import remarks_on, words_of
from mamba_stream.plan.layouts import described_state
from mamba_stream.plan.refusing import check_columns, columns_are, refuse_engine_names
from mamba_stream.plan.rowwise import check_row_wise
from mamba_stream.plan.shapes import Changelog, Shape, need_time, shape_of

JOIN_TIME: Final = "join_time"
"""The time of the later row of a pair, where no column of either side always holds it."""

Columns = Mapping[str, tuple[int, str] | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamJoin(n.Stateful):
    """Rows of two streams with equal keys.

    Attributes:
        left: The stream that ``join`` was called on.
        right: The other one.
        left_on: Key columns of the one.
        right_on: Key columns of the other.
        how: As in Polars.
        suffix: For columns of the right side that the left has too.
    """

    keeps_rows: ClassVar[bool] = True  # what orders its results is the origin of the rows that they are of

    left: n.Node
    right: n.Node
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str

    @property
    def parents(self) -> tuple[n.Node, ...]:
        return (self.left, self.right)

    @property
    def verb(self) -> str:
        return "join"

    def on(self, port: int) -> tuple[str, ...]:
        """The key columns of a side."""
        return self.right_on if port else self.left_on


@dataclass(frozen=True, eq=False, kw_only=True)
class IntervalJoin(StreamJoin):
    """Rows of two streams with equal keys, whose times lie within bounds of each other.

    Attributes:
        lower: Least difference, time of the right row minus that of the left, in microseconds.
        upper: The greatest; or an expression over the left row that gives it as a duration.
        bounds: The bounds in words.
    """

    lower: int
    upper: int | pl.Expr
    bounds: str


@dataclass(frozen=True, eq=False, kw_only=True)
class UnboundedJoin(StreamJoin):
    """Rows of two streams, or tables, with equal keys, however far apart in time."""

    by_time: ClassVar[bool] = False
    takes_changes: ClassVar[bool] = True


def join_name(node_on: Sequence[tuple[str, str]], how: str, words: str) -> str:
    """A join's name.

    Example:
        >>> join_name([("id", "auction")], "inner", "within 10m")
        'inner join on id = auction within 10m'
    """
    pairs = ", ".join(left if left == right else f"{left} = {right}" for left, right in node_on)
    return f"{how} join on {pairs}{' ' + words if words else ''}"


# -- keys and columns ------------------------------------------------------------------------------------------------


def check_keys(node: StreamJoin, left: Shape, right: Shape) -> None:
    """Refuses keys that are not there, or that cannot be compared."""
    check_columns(node.left_on, left.schema)
    for one, other in zip(node.left_on, node.right_on, strict=True):
        if other not in right.schema:
            raise ColumnNotFound(
                f"the other stream has no column {other!r}{columns_are(other, right.schema)}"
            )
        mine, theirs = left.schema[one], right.schema[other]
        if mine != theirs:
            raise PipelineRefused(
                f"join: {one!r} is {mine}, and {other!r} of the other stream is {theirs}: cast one of them with "
                ".cast({...}) before the join"
            )
        if mine.is_nested() or mine == pl.Object:
            raise PipelineRefused(f"join: a column of type {mine} cannot be a key: {one!r}")


def joined_columns(node: StreamJoin, left: pl.Schema, right: pl.Schema) -> dict[str, tuple[int, str]]:
    """The columns of a join's result, as Polars has them: for each its side, and its name there."""
    if node.how in ("semi", "anti"):
        return {name: (LEFT, name) for name in left}
    gone = node.left_on if node.how == "right" else ()
    found = {name: (LEFT, name) for name in left if name not in gone}
    mine = set(found)
    gone = node.right_on if node.how in ("inner", "left") else ()
    for name in right:
        if name in gone:
            continue
        new = f"{name}{node.suffix}" if name in mine else name
        if new in found:
            raise PipelineRefused(
                f"join: the result would have two columns {new!r}: rename one before, or give another suffix="
            )
        found[new] = (RIGHT, name)
    refuse_engine_names(found)
    return found


def types_of(found: Columns, shapes: Sequence[Shape]) -> dict[str, pl.DataType]:
    """The types of the columns of a result."""
    return {
        name: shapes[LEFT].time_type if part is None else shapes[part[0]].schema[part[1]]
        for name, part in found.items()
    }


def _timed_columns(node: IntervalJoin, left: Shape, right: Shape) -> tuple[Columns, str, int]:
    """The columns of an interval join's result, and which of them is its time, less how many ticks."""
    found: dict[str, tuple[int, str] | None] = dict(joined_columns(node, left.schema, right.schema))
    always = None
    if node.how in ("semi", "anti") or (
        node.how in ("inner", "left") and isinstance(node.upper, int) and node.upper <= 0
    ):
        always = (LEFT, left)
    elif node.how in ("inner", "right") and node.lower >= 0:
        always = (RIGHT, right)
    if always is not None:
        side, shape = always
        name = next((name for name, part in found.items() if part == (side, shape.time)), None)
        if name is not None:
            return found, name, shape.shift
    if JOIN_TIME in found:
        raise PipelineRefused(
            f"join adds a column {JOIN_TIME!r}, the time of the later row, and the result has one: rename it before"
        )
    found[JOIN_TIME] = None
    return found, JOIN_TIME, 0


def outcome_of(node: IntervalJoin, analysis: Analysis) -> Outcome:
    """The columns of a join's result that a later step needs."""
    shapes = [analysis.shapes[parent] for parent in node.parents]
    found, _, _ = _timed_columns(node, *shapes)
    needed = {name: found[name] for name in analysis.needed[node]}
    return Outcome(needed, types_of(needed, shapes))


# -- interval joins --------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: IntervalJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    times = [need_time(shape, "join(..., within=)") for shape in parents]
    check_keys(node, left, right)
    if left.time_type != right.time_type:
        raise PipelineRefused(
            f"join: the times of the two streams are of different types: {times[0]!r} is {left.time_type}, and "
            f"{times[1]!r} of the other stream is {right.time_type}: give both topics or frames one type of time"
        )
    duration_in(node.lower, left.time_type, what="within=")
    if isinstance(node.upper, int):
        duration_in(node.upper, left.time_type, what="within=")
    else:
        span_of(node.upper, left)
    found, time, shift = _timed_columns(node, left, right)
    return Shape(pl.Schema(types_of(found, parents)), time, shift)


def span_of(upper: pl.Expr, left: Shape) -> pl.Expr:
    """An upper bound that is an expression, in ticks."""
    check_columns(sorted(columns_in(upper, left.schema)), left.schema)
    check_row_wise(upper, verb="join", schema=left.schema)
    made = pl.DataFrame(schema=left.schema).select(upper).schema
    dtype = next(iter(made.values()))
    if len(made) != 1 or not isinstance(dtype, pl.Duration):
        raise ExpressionRefused(
            f"join: within=(..., {short(upper)}) is {', '.join(map(str, made.values()))}, and must be one Duration: "
            "a difference of two times, or pl.duration(...)"
        )
    scale = Fraction(ticks_per_day(left.time_type), ticks_per_day(dtype))
    # Rounded down: a row is before a bound between two ticks when it is not after the tick before.
    return upper.to_physical().cast(pl.Int64) * scale.numerator // scale.denominator


def bounds_of(node: IntervalJoin, left: Shape) -> tuple[int, int | None, pl.Expr | None]:
    """The bounds of a join in ticks: the lower one, and the upper one or an expression for it."""
    lower = duration_in(node.lower, left.time_type, what="within=")
    if isinstance(node.upper, int):
        return lower, duration_in(node.upper, left.time_type, what="within="), None
    return lower, None, span_of(node.upper, left)


# -- unbounded joins ------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: UnboundedJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    check_keys(node, left, right)
    found = joined_columns(node, left.schema, right.schema)
    lost = (
        f"the join at {node.place} brings together rows that are any time apart, so that what comes out has none: "
        "give it within="
    )
    changelog = _table_of(node, left, right, found) if gives_changes(node, parents) else None
    return Shape(pl.Schema(types_of(found, parents)), lost=lost, changelog=changelog)


def gives_changes(node: UnboundedJoin, parents: Sequence[Shape]) -> bool:
    """Whether rows of the result are taken back later."""
    return any(shape.changelog for shape in parents) or node.how not in ("inner", "semi")


def _table_of(node: UnboundedJoin, left: Shape, right: Shape, found: Columns) -> Changelog:
    """What tells the rows of the result apart: what tells those of both sides apart."""
    sides = (left,) if node.how in ("semi", "anti") else (left, right)
    same = dict(zip(node.right_on, node.left_on, strict=True))
    key = []
    for side, shape in enumerate(sides):
        if shape.changelog is None or not shape.changelog.key:
            return Changelog()
        for name in shape.changelog.key:
            parts = [(side, name)]
            if node.how in ("inner", "left") and side == RIGHT and name in same:
                parts.append((LEFT, same[name]))
            if node.how == "right" and side == LEFT and name in node.left_on:
                parts.append((RIGHT, node.right_on[node.left_on.index(name)]))
            shown = next((new for new, part in found.items() if part in parts), None)
            if shown is None:
                return Changelog()
            key.append(shown)
    return Changelog(tuple(dict.fromkeys(key)))


def unbounded_outcome(node: UnboundedJoin, analysis: Analysis) -> Outcome:
    """The columns of an unbounded join's result that a later step needs."""
    shapes = [analysis.shapes[parent] for parent in node.parents]
    found = joined_columns(node, *(shape.schema for shape in shapes))
    needed: dict[str, tuple[int, str] | None] = {name: found[name] for name in analysis.needed[node]}
    return Outcome(needed, types_of(needed, shapes))


@columns_read.register
def _(node: UnboundedJoin, port: int, found: Mapping[n.Node, Shape], need: set[str]) -> set[str]:
    parts = joined_columns(node, *(found[parent].schema for parent in node.parents))
    return {parts[name][1] for name in need if parts[name][0] == port} | set(node.on(port))


@described_state.register
def _(node: UnboundedJoin, analysis: Analysis) -> dict[str, Any]:
    return {
        **_described(node, analysis, unbounded_outcome(node, analysis)),
        "changes": [analysis.shapes[parent].changelog is not None for parent in node.parents],
    }


@remarks_on.register
def _(node: UnboundedJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return ["rows of both sides are kept for ever: within= or ttl= would free them", f"named {node.name!r}"]


# -- interval joins, and what all have in common -----------------------------------------------------------------------


@columns_read.register
def _(node: IntervalJoin, port: int, found: Mapping[n.Node, Shape], need: set[str]) -> set[str]:
    left, right = (found[parent] for parent in node.parents)
    parts, _, _ = _timed_columns(node, left, right)
    shape = (left, right)[port]
    assert shape.time is not None
    read = {part[1] for name in need if (part := parts[name]) is not None and part[0] == port}
    if port == LEFT and isinstance(node.upper, pl.Expr):
        read |= columns_of((node.upper,), left)
    return read | {*node.on(port), shape.time}


@present_columns.register(StreamJoin)
def _(
    node: StreamJoin,
    found: Mapping[n.Node, Shape],
    present: Mapping[n.Node, Sequence[str]],
    needed: Sequence[str],
) -> Sequence[str]:
    return list(needed)


@in_order.register
def _(node: StreamJoin, found: Mapping[n.Node, Shape]) -> bool:
    return False


def _described(node: StreamJoin, analysis: Analysis, outcome: Outcome) -> dict[str, Any]:
    left = analysis.shapes[node.left]
    pairs = zip(node.left_on, node.right_on, strict=True)
    return {
        "how": node.how,
        "keys": [[one, other, str(left.schema[one])] for one, other in pairs],
        "columns": [[*part] if part else None for part in outcome.columns.values()],
        "types": [str(dtype) for dtype in outcome.types.values()],
    }


@described_state.register
def _(node: IntervalJoin, analysis: Analysis) -> dict[str, Any]:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    upper = node.upper if isinstance(node.upper, int) else fingerprint(node.upper)
    return {
        **_described(node, analysis, outcome_of(node, analysis)),
        "within": [node.lower, upper],
        "time": [str(left.time_type), left.shift, right.shift],
        "ordered": node in analysis.ordered,
    }


@words_of.register
def _(node: StreamJoin) -> str:
    bounds = node.bounds if isinstance(node, IntervalJoin) else ""
    return join_name(list(zip(node.left_on, node.right_on, strict=True)), node.how, bounds)


@remarks_on.register
def _(node: IntervalJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    kept = "rows of both sides are kept until time has passed all that they could meet"
    return [kept, f"named {node.name!r}"]
