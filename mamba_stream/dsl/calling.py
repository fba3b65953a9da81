"""``Stream.map_batches`` and ``Stream.map_async``: the arguments of calls, checked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from mamba_stream.core.durations import duration_us
from mamba_stream.core.numbers import is_whole
from mamba_stream.dsl.arguments import names, schema as schema_of, seconds
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.asynchronous import MapAsync


def batches_node(
    parent: n.Node, place: n.Place, function: Any, schema: Any, timeout: str | timedelta | None
) -> n.MapBatches:
    """The node of ``map_batches``.

    Raises:
        PipelineRefused: An argument cannot be; the message says what can.
    """
    if not callable(function):
        raise PipelineRefused(f"map_batches takes a function, not {function!r:.80}")
    return n.MapBatches(
        place=place,
        parent=parent,
        function=function,
        schema=None if schema is None else schema_of(schema, verb="map_batches"),
        timeout=seconds(timeout, what="map_batches: timeout"),
    )


def async_node(
    parent: n.Node,
    place: n.Place,
    function: Callable[..., Any],
    *,
    schema: Any,
    unit: str,
    rows: int,
    concurrency: int,
    timeout: str | timedelta | None,
    retries: int,
    backoff: Any,
    cache: Any,
    cache_ttl: str | timedelta,
    cache_size: int,
) -> MapAsync:
    """The node of ``map_async``.

    Raises:
        PipelineRefused: An argument cannot be; the message says what can.
    """
    if not callable(function):
        raise PipelineRefused(f"map_async takes a function or a coroutine function, not {function!r:.80}")
    if unit not in ("batch", "row"):
        raise PipelineRefused(f"map_async: unit={unit!r}: choose 'batch' (frames) or 'row' (dicts)")
    for what, number, least in (
        ("rows", rows, 1),
        ("concurrency", concurrency, 1),
        ("retries", retries, 0),
        ("cache_size", cache_size, 1),
    ):
        if not is_whole(number) or number < least:
            raise PipelineRefused(f"map_async: {what}={number!r}: give a whole number from {least} on")
    if not (isinstance(backoff, tuple | list) and len(backoff) == 2):
        raise PipelineRefused(
            f"map_async: backoff={backoff!r}: give the first and the longest wait, as ('100ms', '10s')"
        )
    first, longest = (duration_us(wait, what="map_async: backoff") / 1e6 for wait in backoff)
    if first > longest:
        raise PipelineRefused(f"map_async: backoff={backoff!r}: the first wait is longer than the longest")
    return MapAsync(
        place=place,
        parent=parent,
        function=function,
        schema=None if schema is None else schema_of(schema, verb="map_async"),
        timeout=seconds(timeout, what="map_async: timeout"),
        unit="row" if unit == "row" else "batch",
        rows=rows,
        concurrency=concurrency,
        retries=retries,
        backoff=(first, longest),
        cache=names(cache, what="map_async: cache="),
        cache_ttl=duration_us(cache_ttl, what="map_async: cache_ttl", zero=False) / 1e6,
        cache_size=cache_size,
    )
