"""What is known of joins of streams: the columns and the time of their results, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import polars as pl

from mamba_stream.core.durations import duration_in, ticks_per_day
from mamba_stream.core.trees import columns as columns_in, fingerprint, has_selector, short
from mamba_stream.errors import ColumnNotFound, ExpressionRefused, PipelineRefused
from mamba_stream.operators.changes import OP_COLUMN
from mamba_stream.operators.joined import LEFT, RIGHT, Outcome
from mamba_stream.operators.results import WINDOW_END, WINDOW_START
from mamba_stream.operators.uniquekeys import Wanted, leaves_once_met
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis, in_order
from mamba_stream.plan.columns import columns_of, columns_read, present_columns
from mamba_stream.plan.explain import remarks_on, words_of
from mamba_stream.plan.joins import (
    AsofJoin,
    IntervalJoin,
    PeriodicLookup,
    StreamJoin,
    UnboundedJoin,
    WindowJoin,
    join_name,
)
from mamba_stream.plan.layouts import described_state
from mamba_stream.plan.refusing import check_columns, columns_are, refuse_engine_names
from mamba_stream.plan.rowwise import check_row_wise
from mamba_stream.plan.shapes import Changelog, Shape, need_time, shape_of
from mamba_stream.plan.windows import check_windows

JOIN_TIME: Final = "join_time"
"""The time of the later row of a pair, where no column of either side always holds it."""

Columns = Mapping[str, tuple[int, str] | None]


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


def result_columns(node: StreamJoin, left: Shape, right: Shape) -> Columns:
    """The columns of a join's result that come of its rows."""
    if isinstance(node, IntervalJoin):
        return _timed_columns(node, left, right)[0]
    if isinstance(node, AsofJoin):
        gone = (OP_COLUMN if is_log_of(node, right) else "", "" if node.keeps_time else right.time)
        shown = pl.Schema({name: dtype for name, dtype in right.schema.items() if name not in gone})
        return joined_columns(node, left.schema, shown)
    return joined_columns(node, left.schema, right.schema)


def outcome_of(node: StreamJoin, analysis: Analysis) -> Outcome:
    """The columns of a join's result that a later step needs."""
    left, right = (analysis.shapes[parent] for parent in node.parents)
    found = result_columns(node, left, right)
    needed = {name: found[name] for name in analysis.needed[node] if name in found}
    return Outcome(needed, types_of(needed, (left, right)))


def check_times(left: Shape, right: Shape, what: str) -> None:
    """Refuses streams without time, or with times that cannot be compared."""
    times = [need_time(shape, what) for shape in (left, right)]
    if left.time_type != right.time_type:
        raise PipelineRefused(
            f"join: the times of the two streams are of different types: {times[0]!r} is {left.time_type}, and "
            f"{times[1]!r} of the other stream is {right.time_type}: give both topics or frames one type of time"
        )


# -- what all have in common -----------------------------------------------------------------------------------------


@columns_read.register
def _(node: StreamJoin, port: int, found: Mapping[n.Node, Shape], need: set[str]) -> set[str]:
    left, right = (found[parent] for parent in node.parents)
    parts = result_columns(node, left, right)
    read = {part[1] for name in need if (part := parts.get(name)) is not None and part[0] == port}
    if port == LEFT and isinstance(node, IntervalJoin) and isinstance(node.upper, pl.Expr):
        read |= columns_of((node.upper,), left)
    if port == RIGHT and isinstance(node, AsofJoin) and is_log_of(node, right):
        read.add(OP_COLUMN)
    time = (left, right)[port].time
    return read | set(node.on(port)) | ({time} if node.by_time and time is not None else set())


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
    return isinstance(node, AsofJoin)


def _described(node: StreamJoin, analysis: Analysis) -> dict[str, Any]:
    left, right = (analysis.shapes[parent] for parent in node.parents)
    pairs = zip(node.left_on, node.right_on, strict=True)
    outcome = outcome_of(node, analysis)
    described: dict[str, Any] = {
        "how": node.how,
        "keys": [[one, other, str(left.schema[one])] for one, other in pairs],
        "columns": [[*part] if part else None for part in outcome.columns.values()],
        "types": [str(dtype) for dtype in outcome.types.values()],
    }
    if node.by_time:
        described["time"] = [str(left.time_type), left.shift, right.shift]
        described["ordered"] = "by sides" if node in analysis.by_sides else node in analysis.ordered
    return described


@words_of.register
def _(node: StreamJoin) -> str:
    bounds = ""
    if isinstance(node, IntervalJoin):
        bounds = node.bounds
    elif isinstance(node, WindowJoin):
        bounds = f"in {node.spec.words}"
    elif isinstance(node, AsofJoin):
        bounds = "as of its time" if node.strategy == "backward" else f"{node.strategy} in time"
    return join_name(list(zip(node.left_on, node.right_on, strict=True)), node.how, bounds)


# -- interval joins --------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: IntervalJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    check_times(left, right, "join(..., within=)")
    check_keys(node, left, right)
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


@described_state.register
def _(node: IntervalJoin, analysis: Analysis) -> dict[str, Any]:
    upper = node.upper if isinstance(node.upper, int) else fingerprint(node.upper)
    return {**_described(node, analysis), "within": [node.lower, upper]}


@remarks_on.register
def _(node: IntervalJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    kept = "rows of both sides are kept until time has passed all that they could meet"
    return [kept, f"named {node.name!r}"]


# -- joins in windows ------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: WindowJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    check_times(left, right, "join(..., window=)")
    check_keys(node, left, right)
    check_windows(node.spec, left.time_type)
    types = types_of(joined_columns(node, left.schema, right.schema), parents)
    for name in (WINDOW_START, WINDOW_END):
        if name in types:
            raise PipelineRefused(f"join adds a column {name!r}, and the result has one: rename it before")
    ends = {WINDOW_START: left.time_type, WINDOW_END: left.time_type}
    return Shape(pl.Schema({**types, **ends}), WINDOW_END, shift=-1, start=WINDOW_START)


@described_state.register
def _(node: WindowJoin, analysis: Analysis) -> dict[str, Any]:
    spec = node.spec
    windows = [spec.kind, spec.size, spec.every, spec.origin, spec.calendar, spec.offset]
    return {**_described(node, analysis), "windows": windows}


@remarks_on.register
def _(node: WindowJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return ["rows of both sides are kept until their window is over", f"named {node.name!r}"]


# -- as-of joins -----------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: AsofJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    check_times(
        left, right, "join_asof" if node.called == "join_asof" else "a join with a table as of a row's time"
    )
    check_keys(node, left, right)
    if node.tolerance is not None:
        duration_in(node.tolerance, left.time_type, what="tolerance=")
    found = result_columns(node, left, right)
    return Shape(pl.Schema(types_of(found, parents)), left.time, left.shift)


def is_log_of(node: AsofJoin, right: Shape) -> bool:
    """Whether the other side's rows are those of a table, and say themselves in ``_op`` what they do to it."""
    return node.called == "join" and OP_COLUMN in right.schema


@described_state.register
def _(node: AsofJoin, analysis: Analysis) -> dict[str, Any]:
    return {**_described(node, analysis), "asof": [node.strategy, node.tolerance]}


@remarks_on.register
def _(node: AsofJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    if node.strategy != "backward":
        kept = "rows of the other stream are kept for as long as tolerance= says"
    elif node.tolerance is None:
        kept = "of the other stream, the last row of each key is kept"
    else:
        kept = "of the other stream, the last row of each key is kept until it is older than tolerance="
    return ["rows wait for the watermark to pass their time", kept, f"named {node.name!r}"]


# -- unbounded joins -------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: UnboundedJoin, parents: Sequence[Shape]) -> Shape:
    left, right = parents
    check_keys(node, left, right)
    for unique, side, words in zip(node.unique, parents, ("this stream", "the other stream"), strict=True):
        if unique and side.changelog is not None:
            raise PipelineRefused(
                f"join: validate={node.validate!r} is about rows that stay, and those of {words} are taken back "
                "later: leave validate= out"
            )
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
    """What tells the rows of the result apart: what tells those of both sides apart.

    Nothing does in a full join: a row of either side whose key is null stands there alone, with nulls for the other's.
    """
    if node.how == "full":
        return Changelog()
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


@described_state.register
def _(node: UnboundedJoin, analysis: Analysis) -> dict[str, Any]:
    changes = [analysis.shapes[parent].changelog is not None for parent in node.parents]
    described = {**_described(node, analysis), "changes": changes}
    if any(node.unique):
        described["validate"] = node.validate
        wanted = wanted_of(node, analysis)
        described["wanted"] = [] if wanted is None else [fingerprint(expr) for expr in wanted.predicates]
    return described


def wanted_of(node: UnboundedJoin, analysis: Analysis) -> Wanted | None:
    """What the one filter behind a join asks of the rows of the side whose keys are unique, and of these alone."""
    behind = [other for other in analysis.nodes if node in other.parents]
    changes = [analysis.shapes[parent].changelog is not None for parent in node.parents]
    leaving = [leaves_once_met(side, node.how, node.unique, changes) for side in (LEFT, RIGHT)]
    if node.how != "inner" or not any(leaving):
        return None
    if len(behind) != 1 or not isinstance(behind[0], n.Filter):
        return None
    side = node.unique.index(True)
    columns = outcome_of(node, analysis).columns
    names = {name: part[1] for name, part in columns.items() if part is not None and part[0] == side}
    schema = analysis.shapes[node].schema
    asked = [
        (expr, read)
        for expr in behind[0].predicates
        if not has_selector(expr) and (read := columns_in(expr, schema)) and read <= set(names)
    ]
    if not asked:
        return None
    read_of_all = set().union(*(read for _, read in asked))
    return Wanted([expr for expr, _ in asked], {name: names[name] for name in sorted(read_of_all)})


@remarks_on.register
def _(node: UnboundedJoin, shapes: Mapping[n.Node, Shape]) -> list[str]:
    # A topic that is not known yet is taken for rows that stay.
    changes = [parent in shapes and shapes[parent].changelog is not None for parent in node.parents]
    leaving = [side for side in (LEFT, RIGHT) if leaves_once_met(side, node.how, node.unique, changes)]
    if leaving:
        many, one = ("this stream", "the other")[:: 1 if leaving == [LEFT] else -1]
        kept = f"rows of {one} are kept for ever, those of {many} until they have met theirs"
    else:
        kept = "rows of both sides are kept for ever"
    return [f"{kept}: within= or ttl= would free them", f"named {node.name!r}"]


# -- tables that are read again ---------------------------------------------------------------------------------------


@words_of.register
def _(node: PeriodicLookup) -> str:
    on = join_name(list(zip(node.left_on, node.right_on, strict=True)), node.how, "")
    return f"{on}, with a table that is read again every {node.often} by the machine's clock"


@remarks_on.register
def _(node: PeriodicLookup, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return ["what a row meets depends on when it is worked on"]
