"""``Stream.process``: a user's function with keyed state and timers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name, did_you_mean
from mamba_stream.core.schemas import canonical_schema, polars_schema
from mamba_stream.dsl.arguments import names, schema as schema_of, seconds
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.explain import function_name
from mamba_stream.plan.process import Process, ProcessArrivals, SideRows


def process_node(
    parent: n.Node,
    place: n.Place,
    function: Callable[..., Any],
    *,
    by: Any,
    state: Any,
    output: Any,
    sides: Any,
    ttl: str | timedelta | None,
    name: str | None,
    order: str,
    per_key: str,
    timeout: str | timedelta | None,
) -> Process:
    """The node of ``process``, checked as far as it can be without columns.

    Raises:
        PipelineRefused: An argument cannot be; the message says what can.
    """
    if not callable(function):
        raise PipelineRefused(f"process takes a function of rows, state and timers, not {function!r:.80}")
    keys = names(by, what="process: by=")
    if not keys:
        raise PipelineRefused(
            "process needs by=, the columns whose values have a state of their own; for one state of all rows make "
            "a column with one value before, .with_columns(all=pl.lit(0)), and give by='all'"
        )
    if order not in ("event", "arrival"):
        raise PipelineRefused(f"process: order={order!r}: choose 'event' or 'arrival'")
    if per_key not in ("one", "several"):
        raise PipelineRefused(
            f"process: per_key={per_key!r}: choose 'one' or 'several' rows of a key in a call"
        )
    if not isinstance(sides or {}, Mapping):
        raise PipelineRefused(f"process: sides={sides!r:.80}: give {{name: schema}}")
    for side in sides or {}:
        check_name(side, "side output")
    if name is not None:
        check_name(name, "step")
    kind = Process if order == "event" else ProcessArrivals
    return kind(
        place=place,
        parent=parent,
        name=name or f"process {function_name(function)} by {', '.join(keys)}",
        function=function,
        by=keys,
        state=_state(state),
        output=None if output is None else schema_of(output, verb="process: output="),
        sides={
            side: schema_of(given, verb=f"process: sides: {side}") for side, given in (sides or {}).items()
        },
        ttl=None if ttl is None else duration_us(ttl, what="process: ttl", zero=False),
        several=per_key == "several",
        timeout=seconds(timeout, what="process: timeout"),
    )


def side_node(node: n.Node, place: n.Place, name: str) -> SideRows:
    """The node of ``side``.

    Raises:
        PipelineRefused: The stream does not come from a step that has this side output.
    """
    found = node
    while isinstance(found, n.RowStep | n.Inspect | n.MapBatches | n.Lookup):
        found = found.parent
    if not isinstance(found, Process):
        raise PipelineRefused("side belongs to the result of .process(..., sides={name: schema})")
    if name not in found.sides:
        known = ", ".join(map(repr, found.sides)) or "none"
        raise PipelineRefused(
            f"process at {found.place} has no side output {name!r}{did_you_mean(name, found.sides)}; there are {known}"
        )
    return SideRows(place=place, parent=found, side=name)


def _state(given: Any) -> pl.Schema:
    found = schema_of(given or {}, verb="process: state=")
    if not found:
        return found
    try:
        return pl.Schema(polars_schema(canonical_schema(found)))
    except ValueError as error:
        raise PipelineRefused(f"process: state=: {error}") from error
