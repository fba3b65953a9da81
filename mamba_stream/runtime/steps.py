"""From the nodes of a plan to the operators that do what they say; verbs in modules of their own register theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING

import polars as pl

from mamba_stream.operators.changes import in_words
from mamba_stream.operators.lookup import Lookup
from mamba_stream.operators.mapping import Inspect, MapBatches
from mamba_stream.operators.rowstore import picked
from mamba_stream.operators.step import StatefulStep
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.asynchronous import MapAsync
from mamba_stream.plan.shapes import multiplies
from mamba_stream.runtime.limited import Limited

if TYPE_CHECKING:
    from mamba_stream.runtime.calling import Calls

Operator = Callable[[pl.DataFrame], pl.DataFrame]
"""What a step without state does to each frame."""


@singledispatch
def operator_of(node: n.Node, analysis: Analysis) -> Operator:
    """The operator of a node that remembers nothing."""
    raise TypeError(f"nothing is known that does what {type(node).__name__} says")


@operator_of.register
def _(node: n.Lookup, analysis: Analysis) -> Operator:
    return Lookup(
        table=node.table,
        left_on=node.left_on,
        right_on=node.right_on,
        how=node.how,
        suffix=node.suffix,
        multiplies=multiplies(node),
    )


@operator_of.register
def _(node: n.MapBatches, analysis: Analysis) -> Operator:
    shape = analysis.shapes[node]
    time = shape.time if node in analysis.timed else None
    function = node.function if node.timeout is None else Limited(node.function, node.timeout)
    return MapBatches(function=function, schema=shape.schema, time=time)


@operator_of.register
def _(node: MapAsync, analysis: Analysis) -> Operator:
    return calls_of(node, analysis)[0]


def calls_of(node: MapAsync, analysis: Analysis) -> tuple[MapBatches, Calls]:
    """The operator of a function that is called beside the loop, and what calls it."""
    # It brings asyncio with it, which the other steps, and the start of their workers, do without.
    from mamba_stream.runtime.calling import Calls, CallSettings

    shape = analysis.shapes[node]
    calls = Calls(
        CallSettings(
            function=node.function,
            schema=shape.schema,
            unit=node.unit,
            rows=node.rows,
            concurrency=node.concurrency,
            seconds=node.timeout,
            retries=node.retries,
            backoff=node.backoff,
            cache=node.cache,
            cache_seconds=node.cache_ttl,
            cache_size=node.cache_size,
        )
    )
    time = shape.time if node in analysis.timed else None
    return MapBatches(function=calls, schema=shape.schema, time=time), calls


@operator_of.register
def _(node: n.Inspect, analysis: Analysis) -> Operator:
    return Inspect(node.function)


@operator_of.register
def _(node: n.Changes, analysis: Analysis) -> Operator:
    return in_words


@operator_of.register(n.Output)
@operator_of.register(n.SinkOutput)
def _(node: n.AnyOutput, analysis: Analysis) -> Operator:
    columns = analysis.shapes[node].schema.names()
    if analysis.shapes[node.parent].changelog is not None:
        return lambda frame: in_words(frame).select(columns)
    return lambda frame: picked(frame, columns)


@singledispatch
def step_of(node: n.Stateful, analysis: Analysis) -> StatefulStep:
    """The operator of a node that remembers."""
    raise TypeError(f"nothing is known that does what {type(node).__name__} says")
