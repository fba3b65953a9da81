"""What is known about a stream after each step: its columns, which of them is its time, whether windows are whole.

Types come from Polars itself, which runs the step on an empty frame. What cannot be right is refused here, with
the place in the user's program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch

import msgspec
import polars as pl
from msgspec.structs import replace

from mamba_stream.connect import accepts_changes
from mamba_stream.core.durations import duration_in
from mamba_stream.core.names import did_you_mean
from mamba_stream.core.schemas import describe_difference, polars_schema
from mamba_stream.core.trees import columns
from mamba_stream.errors import ColumnNotFound, ExpressionRefused, PipelineRefused
from mamba_stream.operators.changes import OP_COLUMN, OP_WORD_TYPE
from mamba_stream.operators.columns import ORDER, ORDER_TYPES
from mamba_stream.operators.results import WINDOW_END, WINDOW_START
from mamba_stream.operators.retimed import REJECTED_REASON
from mamba_stream.operators.step import LATE_BY, LATE_REASON
from mamba_stream.operators.times import duration_type
from mamba_stream.plan import nodes as n
from mamba_stream.plan.aggregates import AggregatePlan, split
from mamba_stream.plan.carrying import carried, named
from mamba_stream.plan.refusing import check_columns, columns_are, refuse_engine_names, refusing
from mamba_stream.plan.rowwise import check_row_wise
from mamba_stream.plan.windows import check_windows

_NOT_YET = "only its topic says what its time is"


class NotYetKnown(Exception):
    """The shape depends on a topic that no log was asked about yet."""


class Changelog(msgspec.Struct, frozen=True):
    """Rows that stand for a table: later ones take earlier ones back.

    Attributes:
        key: The columns that tell the rows of the table apart; empty where none are known to.
    """

    key: tuple[str, ...] = ()

    def renamed(self, kept: Mapping[str, str]) -> Changelog:
        """The same after a step that gives on some columns unchanged, under new names."""
        return Changelog(tuple(kept[name] for name in self.key) if kept.keys() >= set(self.key) else ())


class Shape(msgspec.Struct, frozen=True):
    """A stream at one point of a pipeline.

    Attributes:
        schema: Its columns.
        time: Its time column, or ``None``.
        shift: Ticks between that column and the row's time: window rows carry ``window_end`` minus one.
        lost: Why there is no time, for the message.
        start: The column with the starts of windows, while every batch holds whole windows.
        changelog: What it is a changelog of; ``None`` where its rows stay.
    """

    schema: pl.Schema
    time: str | None = None
    shift: int = 0
    lost: str = ""
    start: str | None = None
    changelog: Changelog | None = None

    @property
    def time_type(self) -> pl.DataType:
        """The type of the time column."""
        assert self.time is not None
        return self.schema[self.time]

    @property
    def declared_time(self) -> str | None:
        """The column that an output topic declares as its time.

        Of window rows it is ``window_start``: the end belongs to the next window already, so that hours summed up
        by day over the topic would be put into the wrong day.
        """
        return self.start if self.shift else self.time


class TopicFacts(msgspec.Struct, frozen=True):
    """What a log knows about a topic that a pipeline reads."""

    schema: pl.Schema
    time: str | None


Facts = Mapping[str, TopicFacts]


def infer(node: n.Node, parents: Sequence[Shape]) -> Shape:
    """The shape of a node's rows, from its parents' shapes.

    Raises:
        PipelineRefused: The step cannot be right; the message names the user's line.
    """
    with refusing(node):
        if not node.takes_changes and any(parent.changelog for parent in parents):
            raise PipelineRefused(
                f"{node.verb} takes rows that stay, and these are a changelog, whose rows are taken back later: do it "
                "before the step that makes the changelog, or take the log itself as rows by .changes()"
            )
        return shape_of(node, parents)


def shapes(nodes: Sequence[n.Node], topics: Facts) -> dict[n.Node, Shape]:
    """The shapes of all nodes, which come parents first.

    Args:
        nodes: As :func:`mamba_stream.plan.nodes.walk` gives them.
        topics: What the log knows about the topics that are read.
    """
    found: dict[n.Node, Shape] = {}
    for node in nodes:
        if isinstance(node, n.TopicSource):
            found[node] = topic_shape(node, topics[node.topic])
        else:
            found[node] = infer(node, [found[parent] for parent in node.shaped_by])
    return found


def known_shapes(nodes: Sequence[n.Node]) -> dict[n.Node, Shape]:
    """The shapes that are known without a log: of frames, of bound topics, where a schema was given."""
    found: dict[n.Node, Shape] = {}
    for node in nodes:
        if isinstance(node, n.TopicSource):
            if node.bound is not None:
                found[node] = topic_shape(node, TopicFacts(node.bound.polars_schema, node.bound.time))
            elif node.declared is not None:
                found[node] = infer(node, [])
        elif (shape := infer_known(node, found)) is not None:
            found[node] = shape
    return found


def infer_known(node: n.Node, found: Mapping[n.Node, Shape]) -> Shape | None:
    """The shape of a node's rows, where those of its parents are known and suffice."""
    before = node.shaped_by
    if not all(parent in found for parent in before):
        return None
    try:
        return infer(node, [found[parent] for parent in before])
    except NotYetKnown:
        return None


def topic_shape(node: n.TopicSource, facts: TopicFacts) -> Shape:
    """The shape of a topic's rows, once the topic is known."""
    with refusing(node):
        if node.declared is not None and dict(node.declared) != dict(facts.schema):
            difference = describe_difference(
                pl.DataFrame(schema=facts.schema).to_arrow().schema,
                pl.DataFrame(schema=node.declared).to_arrow().schema,
            )
            raise PipelineRefused(f"topic {node.topic!r} is not as schema= says: {difference}")
        return _source_shape(
            node, facts.schema, node.time or facts.time, f"topic {node.topic!r} declares no time column"
        )


def _source_shape(node: n.Source, schema: pl.Schema, time: str | None, undeclared: str) -> Shape:
    """The shape of a source's rows.

    Args:
        node: The source.
        schema: Its columns.
        time: Its time column.
        undeclared: What to say where a later step misses it.
    """
    refuse_engine_names(schema)
    if isinstance(node, n.TopicSource) and node.by_append:
        if n.APPEND_TIME in schema:
            raise PipelineRefused(
                f"time=append_time adds a column {n.APPEND_TIME!r}, and the topic has one: take its time from a column"
            )
        schema = pl.Schema({**schema, n.APPEND_TIME: n.APPEND_TIME_TYPE})
    if time is None:
        return Shape(schema, lost=f"{undeclared}: name it with mamba.stream(..., time=)")
    _check_time(time, schema)
    duration_in(node.lateness, schema[time], what="lateness")
    return Shape(schema, time)


def _check_time(time: str, schema: pl.Schema) -> None:
    if time not in schema:
        raise ColumnNotFound(f"no column {time!r} to take the time from{columns_are(time, schema)}")
    if not isinstance(schema[time], (pl.Datetime, pl.Date)):
        raise PipelineRefused(f"time={time!r} is {schema[time]}: a time column is a Datetime or a Date")


def need_time(shape: Shape, what: str) -> str:
    """The time column, where a step cannot do without."""
    if shape.lost is _NOT_YET:
        raise NotYetKnown
    if shape.time is None:
        raise PipelineRefused(f"{what} needs the stream's time, and {shape.lost}")
    return shape.time


def check_key_types(by: Sequence[str], schema: pl.Schema, verb: str) -> None:
    """Refuses columns whose values cannot be told apart."""
    for name in by:
        dtype = schema[name]
        if (dtype.is_nested() and not isinstance(dtype, pl.Struct)) or dtype == pl.Object:
            raise PipelineRefused(f"{verb}: a column of type {dtype} cannot be a key ({name!r})")


def split_window(node: n.Window, shape: Shape) -> AggregatePlan:
    """How a window step over rows of this shape aggregates."""
    return split(node.aggregates, pl.Schema({**shape.schema, **ORDER_TYPES}), ORDER)


@singledispatch
def shape_of(node: n.Node, parents: Sequence[Shape]) -> Shape:
    """The rule for a kind of node; verbs in modules of their own register theirs."""
    raise TypeError(f"no shape is known for {type(node).__name__}")


@shape_of.register
def _(node: n.FrameSource, parents: Sequence[Shape]) -> Shape:
    return _source_shape(node, node.frame.schema, node.time, "the frame has no time column yet")


@shape_of.register
def _(node: n.ConnectorSource, parents: Sequence[Shape]) -> Shape:
    schema = polars_schema(node.source.schema)
    return _source_shape(node, schema, node.time, f"{node.source.name} has no time column yet")


@shape_of.register
def _(node: n.TopicSource, parents: Sequence[Shape]) -> Shape:
    assert node.declared is not None
    shape = _source_shape(node, node.declared, node.time, "")
    return shape if shape.time is not None else replace(shape, lost=_NOT_YET)


@shape_of.register
def _(node: n.Filter, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    _check_exprs(node, node.predicates, shape)
    empty = pl.DataFrame(schema=shape.schema)
    for predicate in node.predicates:
        for name, dtype in empty.select(predicate).schema.items():
            if dtype not in (pl.Boolean, pl.Null):
                raise ExpressionRefused(
                    f"filter: {predicate} is {dtype} (column {name!r}), and must be Boolean"
                )
    return replace(shape, schema=_run(shape.schema, lambda rows: rows.filter(*node.predicates)))


@shape_of.register
def _(node: n.Select, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    _check_exprs(node, node.exprs, shape)
    if not any(columns(expr, shape.schema) for expr in node.exprs):
        raise ExpressionRefused(
            "select: none of these reads a column, which would give one row; use with_columns"
        )
    schema = _run(shape.schema, lambda rows: rows.select(*node.exprs))
    kept: dict[str, str] = {}
    for expr in node.exprs:
        kept.update(carried(expr, shape.schema))
    return follow(node, shape, schema, kept)


@shape_of.register
def _(node: n.WithColumns, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    _check_exprs(node, node.exprs, shape)
    schema = _run(shape.schema, lambda rows: rows.with_columns(*node.exprs))
    kept = {name: name for name in shape.schema}
    for expr in node.exprs:
        made = pl.DataFrame(schema=shape.schema).select(expr).columns
        given = {new: old for old, new in carried(expr, shape.schema).items()}
        for name in made:
            if given.get(name) != name:
                kept.pop(name, None)
    return follow(node, shape, schema, kept)


@shape_of.register
def _(node: n.Drop, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if node.strict:
        check_columns([name for name in node.columns if isinstance(name, str)], shape.schema)
    schema = _run(shape.schema, lambda rows: rows.drop(*node.columns, strict=node.strict))
    if not schema:
        raise PipelineRefused("drop: no column would be left")
    return follow(node, shape, schema, {name: name for name in schema})


@shape_of.register
def _(node: n.Rename, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if isinstance(node.names, Mapping) and node.strict:
        check_columns(list(node.names), shape.schema)
    schema = _run(shape.schema, lambda rows: rows.rename(node.names, strict=node.strict))
    return follow(node, shape, schema, dict(zip(shape.schema, schema, strict=True)))


@shape_of.register
def _(node: n.Cast, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if isinstance(node.dtypes, Mapping):
        check_columns([name for name in node.dtypes if isinstance(name, str)], shape.schema)
    schema = _run(shape.schema, lambda rows: rows.cast(node.dtypes, strict=node.strict))
    for name, dtype in schema.items():
        if isinstance(dtype, pl.Categorical) and shape.schema[name] != dtype:
            raise PipelineRefused(
                f"cast: column {name!r} to Categorical, whose codes depend on the order of rows; use String or Enum"
            )
    return follow(node, shape, schema, {k: k for k in schema if schema[k] == shape.schema[k]})


@shape_of.register
def _(node: n.Explode, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    lists = _named(node.columns, shape.schema)
    for name in lists:
        if not isinstance(shape.schema[name], pl.List | pl.Array):
            raise PipelineRefused(
                f"explode: column {name!r} is {shape.schema[name]}, and neither a List nor an Array"
            )
    schema = _run(shape.schema, lambda rows: rows.explode(*lists, empty_as_null=True, keep_nulls=True))
    if shape.changelog is not None:
        shape = replace(shape, changelog=Changelog())
    return follow(node, shape, schema, {name: name for name in schema if name not in lists})


@shape_of.register
def _(node: n.Unnest, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    structs = _named(node.columns, shape.schema)
    for name in structs:
        if not isinstance(shape.schema[name], pl.Struct):
            raise PipelineRefused(f"unnest: column {name!r} is {shape.schema[name]}, and no Struct")
    schema = _run(shape.schema, lambda rows: rows.unnest(*structs, separator=node.separator))
    return follow(node, shape, schema, {name: name for name in shape.schema if name not in structs})


def _named(columns: Sequence[object], schema: pl.Schema) -> list[str]:
    """The columns that names and selectors mean; at least one."""
    check_columns([name for name in columns if isinstance(name, str)], schema)
    found = named(columns, schema)
    if not found:
        raise PipelineRefused("no column is named")
    return found


@shape_of.register
def _(node: n.MapBatches, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    schema = node.schema if node.schema is not None else shape.schema
    refuse_engine_names(schema)
    kept = {name: name for name, dtype in schema.items() if shape.schema.get(name) == dtype}
    return replace(follow(node, shape, schema, kept), start=None)


@shape_of.register
def _(node: n.Inspect, parents: Sequence[Shape]) -> Shape:
    return parents[0]


@shape_of.register
def _(node: n.Lookup, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_columns(node.left_on, shape.schema)
    for left, right in zip(node.left_on, node.right_on, strict=True):
        if right not in node.table.schema:
            raise ColumnNotFound(
                f"the table on the right has no column {right!r}{columns_are(right, node.table.schema)}"
            )
        if shape.schema[left] != node.table.schema[right]:
            raise PipelineRefused(
                f"join: {left!r} is {shape.schema[left]}, and {right!r} of the table is "
                f"{node.table.schema[right]}: cast one"
            )
    joined = pl.DataFrame(schema=shape.schema).join(
        node.table.clear(),
        left_on=list(node.left_on),
        right_on=list(node.right_on),
        how=node.how,
        suffix=node.suffix,
    )
    refuse_engine_names(joined.schema)
    kept = {name: name for name in shape.schema}
    if shape.changelog is not None and multiplies(node):
        shape = replace(shape, changelog=Changelog())
    return follow(node, shape, joined.schema, kept)


def multiplies(node: n.Lookup) -> bool:
    """Whether a row may meet several rows of the table."""
    return node.how in ("left", "inner") and bool(node.table.select(node.right_on).is_duplicated().any())


@shape_of.register
def _(node: n.Concat, parents: Sequence[Shape]) -> Shape:
    first, *others = parents
    for number, other in enumerate(others, 2):
        if dict(other.schema) != dict(first.schema):
            raise PipelineRefused(
                f"concat: stream {number} differs from the first: {_difference(first, other)}"
            )
    times = {(shape.time, shape.shift) for shape in parents}
    changelog = Changelog() if any(shape.changelog for shape in parents) else None
    if len(times) == 1:
        return replace(first, start=None, changelog=changelog)
    named = ", ".join(shape.time or "none" for shape in parents)
    lost = f"the streams in the concat at {node.place} have different time columns: {named}"
    return Shape(first.schema, lost=lost, changelog=changelog)


@shape_of.register
def _(node: n.Window, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    time = need_time(shape, "a window")
    check_columns(node.by, shape.schema)
    check_windows(node.spec, shape.schema[time])
    results = [*node.by, WINDOW_START, WINDOW_END, *node.aggregates]
    if twice := next((name for name in results if results.count(name) > 1), None):
        raise PipelineRefused(f"window: the result would have two columns {twice!r}: rename one")
    refuse_engine_names(results)
    empty = pl.DataFrame(schema={name: shape.schema[name] for name in node.by})
    check_key_types(node.by, shape.schema, "window")
    outputs = split_window(node, shape).output_schema
    ends = {WINDOW_START: shape.schema[time], WINDOW_END: shape.schema[time]}
    schema = pl.Schema({**empty.schema, **ends, **outputs})
    if node.changing is not None:
        for what, length in (("every", node.changing.every), ("corrections", node.changing.corrections)):
            duration_in(length or 0, shape.schema[time], what=f"window {what}")
        edges = (WINDOW_START, WINDOW_END) if node.spec.kind == "cumulative" else (WINDOW_START,)
        return Shape(schema, WINDOW_END, shift=-1, changelog=Changelog((*node.by, *edges)))
    return Shape(schema, WINDOW_END, shift=-1, start=WINDOW_START if node.spec.closes_together else None)


@shape_of.register
def _(node: n.WithTime, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if before := next((found for found in n.walk([node.parent]) if isinstance(found, n.Stateful)), None):
        raise PipelineRefused(
            f"with_time judges rows in the order of the partition that they come from, and behind {before.verb} at "
            f"{before.place} there is none: call it before"
        )
    _check_time(node.time, shape.schema)
    duration_in(node.lateness, shape.schema[node.time], what="lateness")
    return Shape(shape.schema, node.time)


@shape_of.register
def _(node: n.LateRows, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents  # of the rows that the window takes
    for name in (LATE_BY, LATE_REASON):
        if name in shape.schema:
            raise PipelineRefused(
                f"late adds a column {name!r}, and the stream has one: rename it before the window"
            )
    added = {LATE_BY: duration_type(shape.time_type), LATE_REASON: pl.String()}
    return replace(shape, schema=pl.Schema({**shape.schema, **added}), start=None)


@shape_of.register
def _(node: n.RejectedRows, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if REJECTED_REASON in shape.schema:
        raise PipelineRefused(
            f"rejected adds a column {REJECTED_REASON!r}, and the source has one: rename it"
        )
    schema = pl.Schema({**shape.schema, REJECTED_REASON: pl.String()})
    return Shape(schema, lost="rejected rows have no time, or one that cannot be")


@shape_of.register
def _(node: n.Changes, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if shape.changelog is None:
        raise PipelineRefused("changes is for changelogs, and the rows of this stream stay as they are")
    lost = (
        f"the changes that changes at {node.place} gives come when they come, whatever the time of their rows"
    )
    return replace(_in_words(shape), time=None, shift=0, lost=shape.lost or lost)


@shape_of.register
def _(node: n.Output, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    check_columns(node.key, shape.schema)
    if shape.changelog is None:
        return shape
    if not node.key and (node.partitions or 1) > 1:
        raise PipelineRefused(
            f"to({node.topic!r}, partitions={node.partitions}) of a table: give key= too, columns of the table's key "
            f"({', '.join(shape.changelog.key) or 'it has none'}), so that the changes of a row stay in one partition"
        )
    if shape.changelog.key and not set(node.key) <= set(shape.changelog.key):
        raise PipelineRefused(
            f"to({node.topic!r}, key={list(node.key)}) of a table by {', '.join(shape.changelog.key)}: a row may "
            "change these columns, and its changes would be in several partitions: choose from the table's key"
        )
    return _in_words(shape)


@shape_of.register
def _(node: n.SinkOutput, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    if shape.changelog is None:
        return shape
    if not accepts_changes(node.sink):
        raise PipelineRefused(
            f"sink {node.sink.name!r} takes rows that stay, and these are a changelog, whose rows are taken "
            f"back later: "
            "write to a sink that accepts changes, or let a window make rows that stay"
        )
    return _in_words(shape)


def _in_words(shape: Shape) -> Shape:
    """A changelog as rows that say themselves what they do."""
    if OP_COLUMN in shape.schema:
        raise PipelineRefused(f"a changelog has a column {OP_COLUMN!r} of its own: rename yours")
    return replace(
        shape, schema=pl.Schema({OP_COLUMN: OP_WORD_TYPE, **shape.schema}), changelog=None, start=None
    )


def _run(schema: pl.Schema, verb: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.Schema:
    """The columns that Polars gives for these; it runs, since some mistakes show only then."""
    made = verb(pl.LazyFrame(schema=schema)).collect(engine="in-memory").schema
    refuse_engine_names(made)
    return made


def _check_exprs(node: n.Node, exprs: Sequence[pl.Expr], shape: Shape) -> None:
    for expr in exprs:
        check_columns(sorted(columns(expr, shape.schema)), shape.schema)
        check_row_wise(expr, verb=node.verb, over=shape.start, schema=shape.schema)


def follow(node: n.Node, shape: Shape, schema: pl.Schema, kept: Mapping[str, str]) -> Shape:
    """The shape after a step that gives on ``kept`` columns unchanged, under new names."""
    changelog = shape.changelog and shape.changelog.renamed(kept)
    start = WINDOW_START if shape.start and kept.get(shape.start) == WINDOW_START else None
    if shape.time is None:
        return replace(shape, schema=schema, start=start, changelog=changelog)
    if shape.time in kept:
        return Shape(schema, kept[shape.time], shape.shift, start=start, changelog=changelog)
    lost = f"{node.verb} at {node.place} changed or dropped its time column {shape.time!r}"
    return Shape(schema, lost=lost, start=start, changelog=changelog)


def _difference(first: Shape, other: Shape) -> str:
    have, want = other.schema, first.schema
    for name, dtype in want.items():
        if name not in have:
            return f"it lacks column {name!r}{did_you_mean(name, set(have) - set(want))}"
        if have[name] != dtype:
            return f"column {name!r} is {have[name]}, and {dtype} in the first"
    extra = next(name for name in have if name not in want)
    return f"it has a column {extra!r} more"
