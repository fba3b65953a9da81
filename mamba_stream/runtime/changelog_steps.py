"""The operators of verbs whose results change."""

from __future__ import annotations

import polars as pl

from mamba_stream.core.durations import duration_in
from mamba_stream.operators.best import BestOfTable, BestOfWindows, BestSettings
from mamba_stream.operators.bestrows import BestOfRows
from mamba_stream.operators.columns import ORDER_TYPES, ORIGIN_TYPES
from mamba_stream.operators.firsts import Firsts, FirstsOnArrival, FirstsSettings
from mamba_stream.operators.joined import both_origins
from mamba_stream.operators.latest import Latest, LatestSettings, Retold
from mamba_stream.operators.running import RunningSettings, RunningTotals
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan import changelogs as c, nodes as n
from mamba_stream.plan.aggregates import AggregatePlan
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.partials import ROWS
from mamba_stream.plan.shapes import Shape
from mamba_stream.runtime.steps import step_of


@step_of.register
def _(node: c.Totals, analysis: Analysis) -> StatefulStep:
    return RunningTotals(totals_settings(node, analysis))


def totals_settings(node: c.Totals, analysis: Analysis) -> RunningSettings:
    """What a step of running totals is told."""
    before = analysis.shapes[node.parent]
    split = c.split_totals(node, before)
    present = analysis.present[node.parent]
    return RunningSettings(
        schema={**before.schema, **ORDER_TYPES},
        keys=node.by,
        aggregation=split,
        rows=ROWS,
        time=before.time if before.time in present else None,
        shift=before.shift,
        order=_order(split, before),
        table=before.changelog is not None,
        ttl=ticks_of(node.ttl, before),
        number=_number(node, analysis),
    )


@step_of.register
def _(node: c.Table, analysis: Analysis) -> StatefulStep:
    before, after = analysis.shapes[node.parent], analysis.shapes[node]
    if before.changelog is not None:
        return Retold(analysis.needed[node])
    columns = analysis.needed[node]
    log = c.is_log(node, before)
    return Latest(
        LatestSettings(
            keys={name: after.schema[name] for name in node.key},
            values={name: after.schema[name] for name in columns if name not in node.key},
            columns=columns,
            log=log,
            time=None if log else before.time,
            shift=before.shift,
            number=_number(node, analysis),
        )
    )


@step_of.register
def _(node: c.Unique, analysis: Analysis) -> StatefulStep:
    before = analysis.shapes[node.parent]
    settings = FirstsSettings(
        keys={name: before.schema[name] for name in node.keys(before.schema)},
        columns=analysis.present[node.parent],
        time=before.time,
        shift=before.shift,
        dtype=None if before.time is None else before.time_type,
        within=None if node.within is None else duration_in(node.within, before.time_type, what="within"),
        with_origin=node in analysis.ordered,
    )
    return Firsts(settings) if node.by_time else FirstsOnArrival(settings)


@step_of.register
def _(node: c.TopK, analysis: Analysis) -> StatefulStep:
    before, after = analysis.shapes[node.parent], analysis.shapes[node]
    columns = analysis.needed[node]
    kept = dict.fromkeys((*columns, *node.by))
    values = {name: before.schema[name] for name in kept if name in before.schema and name not in node.per}
    key = before.changelog.key if before.changelog is not None else ()
    order = (*key, *(name for name in values if name not in key))
    settings = BestSettings(
        k=node.k,
        by=node.by,
        descending=tuple(not back for back in node.reverse),
        per={name: before.schema[name] for name in node.per},
        values={**values, **{name: before.schema[name] for name in key if name not in node.per}},
        columns=columns,
        rank=node.rank,
        time=before.time,
        shift=before.shift,
        order=tuple(name for name in order if name not in node.per and not before.schema[name].is_nested()),
        origin=both_origins() if node.parent in analysis.by_sides else ORIGIN_TYPES,
        number=_number(node, analysis),
    )
    if c.of_windows(node, before):
        return BestOfWindows(settings)
    return (
        BestOfRows(settings)
        if after.changelog is not None and before.changelog is None
        else BestOfTable(settings)
    )


def _number(node: n.Stateful, analysis: Analysis) -> int | None:
    """The step's number, where a later step depends on the order of its rows."""
    return analysis.numbers[node] if node in analysis.ordered else None


def ticks_of(ttl: int | None, before: Shape) -> int | None:
    """A time to live in ticks of the input's time."""
    return None if ttl is None else duration_in(ttl, before.time_type, what="ttl")


def _order(split: AggregatePlan, before: Shape) -> dict[str, pl.DataType]:
    """What orders the rows of a group: of a table its key, or all that is read where it has none."""
    if before.changelog is None:
        return dict(ORDER_TYPES) if split.needs_order or split.kept else {}
    names = before.changelog.key or split.kept_columns
    return {name: before.schema[name] for name in names if not before.schema[name].is_nested()}
