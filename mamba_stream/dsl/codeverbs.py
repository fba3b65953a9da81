"""Verbs of a stream that call a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from mamba_stream.dsl.calling import async_node, batches_node
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.planned import Planned
from mamba_stream.dsl.processing import process_node, side_node
from mamba_stream.operators.userstate import State
from mamba_stream.operators.usertimers import Timers

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class CodeVerbs(Planned):
    """What can be done with rows by your own code."""

    __slots__ = ()

    def map_batches(
        self,
        function: Callable[[pl.DataFrame], pl.DataFrame],
        *,
        schema: Any = None,
        timeout: str | timedelta | None = None,
    ) -> Stream:
        """Calls a function with batches of rows; what it gives goes on.

        The function must not care where batches are cut. It must leave the time column alone, or windows after it
        are refused.

        Args:
            function: Takes and gives a ``pl.DataFrame``.
            schema: The columns it gives, as ``{name: type}``; those it gets if left out.
            timeout: How long a call may take, such as ``"30s"``; then it has failed. It is run in a thread of its own
                for that, which nobody can end: what hangs goes on hanging, and the job goes on without it.
        """
        return self._then(batches_node(self._node, caller(), function, schema, timeout))

    def map_async(
        self,
        function: Callable[[Any], Any],
        *,
        schema: Any = None,
        unit: Literal["batch", "row"] = "batch",
        rows: int = 1_000,
        concurrency: int = 8,
        timeout: str | timedelta | None = None,
        retries: int = 0,
        backoff: tuple[str | timedelta, str | timedelta] = ("100ms", "10s"),
        cache: Any = None,
        cache_ttl: str | timedelta = "10m",
        cache_size: int = 100_000,
    ) -> Stream:
        """Asks something outside about rows, several calls at a time; the rows keep their order.

        The run reads on meanwhile, while there are fewer calls than there may be, and at most 64 MB of rows wait for
        answers. Time waits with them. A commit waits for the calls there are, so nothing is lost; what was asked for
        and not committed before a crash is asked for again.

        Args:
            function: A coroutine function, or any other, which is then run in threads. Takes and gives a frame, or a
                dict with the columns that it adds or changes.
            schema: The columns of the result, as ``{name: type}``; those of the stream if left out.
            unit: ``"batch"`` calls it with frames, ``"row"`` with a dict for each row.
            rows: How many rows a frame has at most.
            concurrency: How many calls there are at a time.
            timeout: How long a call may take, such as ``"2s"``; then it has failed.
            retries: How often a call that failed is made again before its rows count as bad.
            backoff: How long to wait before: at first, doubled each time, and at most.
            cache: Columns on which alone the result depends. The function is then called with these only, each
                value once, and what it gives for them is remembered.
            cache_ttl: For how long.
            cache_size: For how many values, at most.
        """
        node = async_node(
            self._node,
            caller(),
            function,
            schema=schema,
            unit=unit,
            rows=rows,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            cache=cache,
            cache_ttl=cache_ttl,
            cache_size=cache_size,
        )
        return self._then(node)

    def process(
        self,
        function: Callable[[pl.DataFrame, State, Timers], Any],
        *,
        by: Any,
        state: Any = None,
        output: Any = None,
        sides: Mapping[str, Any] | None = None,
        ttl: str | timedelta | None = None,
        order: Literal["event", "arrival"] = "event",
        per_key: Literal["one", "several"] = "one",
        timeout: str | timedelta | None = None,
        name: str | None = None,
    ) -> Stream:
        """Your own function, with state and timers by key, called with a batch of rows at a time.

        A key's rows come in the order of the stream, each timer after all rows up to its time. A call has at most
        one row or timer of each key, so that ``state.get(rows)`` is what each row's key remembers before it.

        Args:
            function: Takes ``rows``, a ``pl.DataFrame``; ``state``, with ``get(rows)``, ``put(frame)`` and
                ``delete(rows)``; and ``timers``, with ``fired``, ``at(rows, time)``, ``after(rows, delay)`` and
                ``cancel(rows)``. Gives a frame, or nothing; or a frame and a dict of frames for the side outputs.
            by: Key columns. Keys know nothing of each other: a call reads and writes those that it is about.
            state: What to remember for each key: ``{name: type}``.
            output: The columns that it gives, as ``{name: type}``; those of its input if left out. Its time column
                must hold the times of the rows and timers of the call.
            sides: Further outputs, ``{name: schema}``; ``.side(name)`` has their rows.
            ttl: Forget what was not written for so long, by the stream's time.
            order: ``"arrival"`` does not wait for the watermark: rows come at once, and what comes out depends on when.
            per_key: ``"several"`` gives all rows of a key at once, in order; then the function has to take care of
                their order itself. Faster where few keys have most rows.
            timeout: How long a call may take, such as ``"30s"``; then it has failed, and what it did to state and
                timers, or still does, counts for nothing. It is run in a thread of its own for that.
            name: The step's name, under which its state is kept.
        """
        node = process_node(
            self._node,
            caller(),
            function,
            by=by,
            state=state,
            output=output,
            sides=sides,
            ttl=ttl,
            name=name,
            order=order,
            per_key=per_key,
            timeout=timeout,
        )
        return self._then(node)

    def side(self, name: str) -> Stream:
        """The rows of a side output of the ``process`` that this stream comes from."""
        return self._then(side_node(self._node, caller(), name))
