"""Steps in which a row sees other rows of its key: those of a time before it, an earlier one, a sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import polars as pl
from msgspec.structs import replace

from mamba_stream.core.durations import duration_in
from mamba_stream.core.trees import columns, fingerprint, short
from mamba_stream.errors import ExpressionRefused, PipelineRefused
from mamba_stream.operators.matching import MATCH_END, MATCH_START
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.columns import Shapes, columns_of, columns_read, present_columns
from mamba_stream.plan.explain import remarks_on, words_of
from mamba_stream.plan.layouts import described_state
from mamba_stream.plan.refusing import check_columns, refuse_engine_names
from mamba_stream.plan.rowwise import check_aggregate, check_row_wise
from mamba_stream.plan.shapes import Shape, check_key_types, need_time, shape_of


@dataclass(frozen=True, eq=False, kw_only=True)
class Rolling(n.Stateful, n.Step):
    """Aggregates over the time before each row.

    Attributes:
        period: How far back, in microseconds.
        words: The same as the user wrote it.
        by: The key.
        aggregates: By the name of their result.
        keeps_columns: Whether the row's own columns stay.
    """

    keeps_rows: ClassVar[bool] = True

    period: int
    words: str
    by: tuple[str, ...]
    aggregates: Mapping[str, pl.Expr]
    keeps_columns: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Lag(n.Stateful, n.Step):
    """Values of an earlier row of the key, or the differences from them.

    Attributes:
        columns: The columns.
        results: What to call the results.
        steps: How many rows back.
        by: The key.
        differs: Whether it is the difference.
    """

    keeps_rows: ClassVar[bool] = True

    columns: tuple[str, ...]
    results: tuple[str, ...]
    steps: int
    by: tuple[str, ...]
    differs: bool

    @property
    def verb(self) -> str:
        return "diff" if self.differs else "lag"


class MatchLink(msgspec.Struct, frozen=True):
    """One row of a sequence, as the user says it; times in microseconds."""

    name: str
    condition: pl.Expr
    within: int | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Match(n.Stateful, n.Step):
    """Sequences of rows of one key.

    Attributes:
        links: The rows of a sequence.
        within: How far apart its first and last row lie at most, in microseconds.
        words: The same as the user wrote it.
        by: The key.
        overlapping: Whether a row may be in several.
        aggregates: What to make of each, over ``link.column``.
    """

    links: tuple[MatchLink, ...]
    within: int
    words: str
    by: tuple[str, ...]
    overlapping: bool
    aggregates: Mapping[str, pl.Expr]


# -- shapes ------------------------------------------------------------------------------------------------------------


@shape_of.register
def _(node: Rolling, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    time = need_time(shape, "rolling")
    check_columns(node.by, shape.schema)
    check_key_types(node.by, shape.schema, "rolling")
    duration_in(node.period, shape.time_type, what=f"rolling period {node.words!r}")
    made: dict[str, pl.DataType] = {}
    for name, expr in node.aggregates.items():
        check_columns(sorted(columns(expr, shape.schema)), shape.schema)
        check_aggregate(expr, verb=f"rolling(...).agg({name}=...)")
        made[name] = _aggregate_type(name, expr, shape.schema)
    refuse_engine_names(made)
    if node.keeps_columns:
        if taken := next((result for result in made if result in (time, *node.by)), None):
            raise PipelineRefused(
                f"rolling: the result {taken!r} would replace the step's time or key: rename it"
            )
        start = None if shape.start in made else shape.start
        return replace(shape, schema=pl.Schema({**shape.schema, **made}), start=start)
    names = list(dict.fromkeys([*node.by, time]))
    if twice := next((name for name in made if name in names), None):
        raise PipelineRefused(f"rolling: the result would have two columns {twice!r}: rename one")
    return replace(
        shape, schema=pl.Schema({**{name: shape.schema[name] for name in names}, **made}), start=None
    )


def _aggregate_type(name: str, expr: pl.Expr, schema: pl.Schema) -> pl.DataType:
    """The type of an aggregate over some rows, as Polars gives it."""
    key = "__mamba_key"
    frame = pl.LazyFrame(schema={key: pl.Int8(), **schema})
    found = frame.group_by(key).agg(expr.alias(name)).collect_schema()
    if list(found) != [key, name]:
        raise ExpressionRefused(
            f"rolling: {short(expr)} gives {len(found) - 1} columns: name each of its own"
        )
    return found[name]


@shape_of.register
def _(node: Lag, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    need_time(shape, node.verb)
    check_columns([*node.columns, *node.by], shape.schema)
    check_key_types(node.by, shape.schema, node.verb)
    if twice := next((result for result in node.results if result in shape.schema), None):
        raise PipelineRefused(f"{node.verb}: there is a column {twice!r} already: give another suffix=")
    refuse_engine_names(node.results)
    made = {}
    for name, result in zip(node.columns, node.results, strict=True):
        expr = pl.col(name) - pl.col(name).shift(1) if node.differs else pl.col(name)
        # It runs: some types show only then that they cannot be subtracted.
        made[result] = pl.DataFrame(schema=shape.schema).select(expr.alias(result)).schema[result]
    return replace(shape, schema=pl.Schema({**shape.schema, **made}))


@shape_of.register
def _(node: Match, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    time = need_time(shape, "match")
    check_columns(node.by, shape.schema)
    check_key_types(node.by, shape.schema, "match")
    duration_in(node.within, shape.time_type, what=f"match within {node.words!r}")
    for link in node.links:
        check_columns(sorted(columns(link.condition, shape.schema)), shape.schema)
        check_row_wise(link.condition, verb=f"match, step {link.name!r}", schema=shape.schema)
        dtype = (
            pl.LazyFrame(schema=shape.schema).select(link.condition.alias("holds")).collect_schema()["holds"]
        )
        if dtype != pl.Boolean:
            raise ExpressionRefused(
                f"match, step {link.name!r}: {short(link.condition)} is {dtype}, and must be Boolean"
            )
        if link.within is not None:
            duration_in(link.within, shape.time_type, what=f"within of step {link.name!r}")
    wide = _linked(node, shape.schema)
    made = {}
    for name, expr in node.aggregates.items():
        check_columns(sorted(columns(expr, wide)), wide)
        check_row_wise(expr, verb=f"match(...).agg({name}=...)", schema=wide)
        made[name] = pl.LazyFrame(schema=wide).select(expr.alias(name)).collect_schema()[name]
    schema = {name: shape.schema[name] for name in node.by}
    ends = {MATCH_START: shape.schema[time], MATCH_END: shape.schema[time]}
    if twice := next((name for name in made if name in {**schema, **ends}), None):
        raise PipelineRefused(f"match: the result would have two columns {twice!r}: rename one")
    refuse_engine_names(made)
    return Shape(pl.Schema({**schema, **ends, **made}), MATCH_END, shape.shift)


def _linked(node: Match, schema: pl.Schema) -> pl.Schema:
    """The columns that the results of a match may read: ``link.column``, and the key."""
    linked = {f"{link.name}.{name}": dtype for link in node.links for name, dtype in schema.items()}
    return pl.Schema({**{name: schema[name] for name in node.by}, **linked})


# -- columns -----------------------------------------------------------------------------------------------------------


@columns_read.register
def _(node: Rolling, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    assert before.time is not None
    own = {name for name in need if name in before.schema and name not in node.aggregates}
    read = columns_of(tuple(node.aggregates.values()), before)
    return {*node.by, before.time} | read | (own if node.keeps_columns else set())


@columns_read.register
def _(node: Lag, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    assert before.time is not None
    return {name for name in need if name in before.schema} | {*node.by, *node.columns, before.time}


@columns_read.register
def _(node: Match, port: int, found: Shapes, need: set[str]) -> set[str]:
    before = found[node.parent]
    assert before.time is not None
    conditions = columns_of([link.condition for link in node.links], before)
    return {*node.by, before.time, *linked_columns(node, before.schema)} | conditions


def linked_columns(node: Match, schema: pl.Schema) -> list[str]:
    """The columns of rows that the results of a match read."""
    wide = _linked(node, schema)
    read = set().union(*(columns(expr, wide) for expr in node.aggregates.values()))
    return [name for name in schema if any(f"{link.name}.{name}" in read for link in node.links)]


@present_columns.register
def _(
    node: Rolling, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    if not node.keeps_columns:
        return found[node].schema.names()
    return [name for name in found[node].schema if name in present[node.parent] or name in node.aggregates]


@present_columns.register
def _(
    node: Lag, found: Shapes, present: Mapping[n.Node, Sequence[str]], needed: Sequence[str]
) -> Sequence[str]:
    return [name for name in found[node].schema if name in present[node.parent] or name in node.results]


# -- state and words ---------------------------------------------------------------------------------------------------


def _described(node: Rolling | Lag | Match, analysis: Analysis) -> dict[str, Any]:
    before = analysis.shapes[node.parent]
    held = {name: str(before.schema[name]) for name in analysis.present[node.parent]}
    return {
        "keys": {name: str(before.schema[name]) for name in node.by},
        "time": [before.time, str(before.time_type), before.shift],
        "columns": held,
    }


@described_state.register
def _(step: Rolling, analysis: Analysis) -> dict[str, Any]:
    results = {name: fingerprint(expr) for name, expr in step.aggregates.items()}
    return {**_described(step, analysis), "period": step.period, "aggregates": results}


@described_state.register
def _(step: Lag, analysis: Analysis) -> dict[str, Any]:
    return {**_described(step, analysis), "lags": [step.columns, step.steps, step.differs]}


@described_state.register
def _(step: Match, analysis: Analysis) -> dict[str, Any]:
    links = [[link.name, fingerprint(link.condition), link.within] for link in step.links]
    results = {name: fingerprint(expr) for name, expr in step.aggregates.items()}
    return {**_described(step, analysis), "links": links, "within": step.within, "results": results}


@words_of.register
def _(node: Rolling) -> str:
    return f"over the {node.words} before each row{_by(node.by)}"


@words_of.register
def _(node: Lag) -> str:
    rows = "row" if node.steps == 1 else f"{node.steps} rows"
    return f"{', '.join(node.columns)} of the {rows} before{_by(node.by)}"


@words_of.register
def _(node: Match) -> str:
    links = ", then ".join(f"{link.name}: {short(link.condition)}" for link in node.links)
    return f"{links}, within {node.words}{_by(node.by)}"


@remarks_on.register(Rolling)
@remarks_on.register(Lag)
@remarks_on.register(Match)
def _(node: Rolling | Lag | Match, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return ["acts on rows in their order, once the watermark has passed them", f"named {node.name!r}"]


def _by(by: Sequence[str]) -> str:
    return f" by {', '.join(by)}" if by else ""
