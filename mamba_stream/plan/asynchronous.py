"""A user's function that asks something outside, several times at once, in a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import polars as pl
from msgspec.structs import replace

from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.explain import function_name, remarks_on, words_of
from mamba_stream.plan.refusing import check_columns, refuse_engine_names
from mamba_stream.plan.shapes import Shape, follow, shape_of
from mamba_stream.plan.words import in_units


@dataclass(frozen=True, eq=False, kw_only=True)
class MapAsync(n.MapBatches):
    """Calls of a function beside the loop.

    Attributes:
        unit: Whether it gets frames, or rows as dicts.
        rows: How many rows a frame has at most.
        concurrency: How many calls there are at a time.
        retries: How often one that failed is tried again.
        backoff: How long to wait before, in seconds: at first, and at most.
        cache: The columns on which alone the result depends, if it is to be remembered.
        cache_ttl: For how long, in seconds.
        cache_size: For how many of their values, at most.
    """

    unit: Literal["batch", "row"]
    rows: int
    concurrency: int
    retries: int
    backoff: tuple[float, float]
    cache: tuple[str, ...]
    cache_ttl: float
    cache_size: int

    @property
    def verb(self) -> str:
        return "map_async"


@shape_of.register
def _(node: MapAsync, parents: Sequence[Shape]) -> Shape:
    (shape,) = parents
    schema = node.schema if node.schema is not None else shape.schema
    refuse_engine_names(schema)
    check_columns(node.cache, shape.schema)
    for name in node.cache:
        if shape.schema[name].is_nested():
            raise PipelineRefused(
                f"map_async: cache={name!r} is {shape.schema[name]}: name columns of simple types"
            )
    if node.cache and (other := [n for n, t in schema.items() if n in shape.schema and shape.schema[n] != t]):
        raise PipelineRefused(
            f"map_async: with cache= the columns of the stream stay as they are, and schema= has another type for "
            f"{other[0]!r}: give the result another name"
        )
    kept = {name: name for name, dtype in schema.items() if shape.schema.get(name) == dtype}
    return replace(follow(node, shape, pl.Schema(schema), kept), start=None)


@words_of.register
def _(node: MapAsync) -> str:
    asked = "a row" if node.unit == "row" else f"{node.rows:,} rows"
    waits = "" if node.timeout is None else f", {in_units(timedelta(seconds=node.timeout))} each"
    cache = f", remembered by {', '.join(node.cache)}" if node.cache else ""
    return f"{function_name(node.function)}, {node.concurrency} calls of {asked} at a time{waits}{cache}"


@remarks_on.register
def _(node: MapAsync, shapes: Mapping[n.Node, Shape]) -> list[str]:
    return [
        "outside guarantee 3 unless the function gives the same for a row whenever it is asked",
        "a commit waits for the calls there are; after a crash what was not committed is asked for again",
    ]
