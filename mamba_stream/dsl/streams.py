"""A stream: rows with a time, and the verbs that make other streams of it.

A method that a Polars ``LazyFrame`` also has means the same here. Every verb adds a node to a plan and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, overload

import polars as pl

from mamba_stream.connect import AnySink, is_sink
from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name, plain_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.dsl.arguments import (
    expressions,
    flat,
    names,
    predicates,
    single_results,
)
from mamba_stream.dsl.calling import async_node, batches_node
from mamba_stream.dsl.grouping import Grouped, grouped
from mamba_stream.dsl.joining import asof_join, key_columns, lookup, stream_join
from mamba_stream.dsl.latest import table, unique
from mamba_stream.dsl.neighbours import Matched, Rolled, lagged
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.processing import process_node, side_node
from mamba_stream.dsl.ranking import top_k
from mamba_stream.dsl.windows import changing
from mamba_stream.errors import PipelineRefused
from mamba_stream.operators.userstate import State
from mamba_stream.operators.usertimers import Timers
from mamba_stream.plan import nodes as n
from mamba_stream.plan.explain import explain
from mamba_stream.plan.names import window_name
from mamba_stream.plan.shapes import Shape, infer_known


class Stream:
    """Rows with a time, and what is to be done with them; made by ``mamba.stream(...)`` and by verbs.

    A stream is immutable and holds no rows: the same one may go into several others.
    """

    __slots__ = ("_node", "_shapes")

    def __init__(self, node: n.Node, shapes: Mapping[n.Node, Shape]) -> None:
        self._node = node
        self._shapes = dict(shapes)

    def __repr__(self) -> str:
        shape = self._shapes.get(self._node)
        columns = "columns known when it runs" if shape is None else ", ".join(shape.schema.names()[:8])
        return f"Stream({self._node.verb}: {columns})"

    @property
    def schema(self) -> pl.Schema | None:
        """The columns; ``None`` while they are not known, as of a topic that was only named."""
        shape = self._shapes.get(self._node)
        return None if shape is None else shape.schema

    # -- rows ------------------------------------------------------------------------------------------------------

    def filter(self, *predicate: Any, **constraints: Any) -> Stream:
        """Keeps the rows for which all predicates are true.

        Args:
            *predicate: Expressions that look at nothing but their own row.
            **constraints: ``column=value`` for equality.
        """
        return self._then(
            n.Filter(place=caller(), parent=self._node, predicates=predicates(predicate, constraints))
        )

    def select(self, *exprs: Any, **named_exprs: Any) -> Stream:
        """Keeps, makes and names columns; a str is a column."""
        made = expressions(exprs, named_exprs, verb="select")
        return self._then(n.Select(place=caller(), parent=self._node, exprs=made))

    def with_columns(self, *exprs: Any, **named_exprs: Any) -> Stream:
        """Adds columns, or puts others in their place."""
        made = expressions(exprs, named_exprs, verb="with_columns")
        return self._then(n.WithColumns(place=caller(), parent=self._node, exprs=made))

    def drop(self, *columns: Any, strict: bool = True) -> Stream:
        """Removes columns.

        Args:
            *columns: Names or selectors.
            strict: Refuse a name that is not there.
        """
        return self._then(
            n.Drop(place=caller(), parent=self._node, columns=tuple(flat(columns)), strict=strict)
        )

    def rename(self, mapping: Mapping[str, str] | Callable[[str], str], *, strict: bool = True) -> Stream:
        """Gives columns other names: ``{old: new}``, or a function of the name."""
        return self._then(n.Rename(place=caller(), parent=self._node, names=mapping, strict=strict))

    def cast(self, dtypes: Any, *, strict: bool = True) -> Stream:
        """Gives columns other types.

        Args:
            dtypes: ``{column: type}``, or one type for all.
            strict: Fail where a value does not fit; otherwise it becomes null.
        """
        return self._then(n.Cast(place=caller(), parent=self._node, dtypes=dtypes, strict=strict))

    def with_time(self, column: str, *, lateness: str | timedelta = "0s", name: str | None = None) -> Stream:
        """Takes the rows' time from a column that was not there before, or from another one.

        It comes before the first verb that remembers. Rows without a time are rejected: ``.rejected``.

        Args:
            column: A Datetime or a Date.
            lateness: How far behind the greatest time of its source partition a row may come and still be counted.
            name: The step's name, under which it is kept how far time has come.
        """
        place = caller()
        if not isinstance(column, str):
            raise PipelineRefused(f"with_time takes the name of a column, not {column!r:.80}")
        if name is not None:
            check_name(name, "step")
        node = n.WithTime(
            place=place,
            parent=self._node,
            time=column,
            lateness=duration_us(lateness, what="lateness"),
            name=name or f"with_time {column}",
        )
        return self._then(node)

    def explode(
        self, columns: Any, *more_columns: Any, empty_as_null: bool = False, keep_nulls: bool = True
    ) -> Stream:
        """Gives a row for each element of lists.

        Args:
            columns: Columns with lists, names or selectors; in each row the lists are equally long.
            *more_columns: More of them.
            empty_as_null: Whether an empty list gives a row with null, and not none.
            keep_nulls: Whether a null gives a row with null, and not none.
        """
        return self._then(
            n.Explode(
                place=caller(),
                parent=self._node,
                columns=tuple(flat([columns, *more_columns])),
                empty_as_null=empty_as_null,
                keep_nulls=keep_nulls,
            )
        )

    def unnest(self, columns: Any = None, *more_columns: Any, separator: str | None = None) -> Stream:
        """Gives a column for each field of structs, in the place of the struct.

        Args:
            columns: Columns with structs, names or selectors; all of them if left out.
            *more_columns: More of them.
            separator: Names the fields' columns ``struct`` + separator + ``field``.
        """
        found = tuple(flat([pl.selectors.struct() if columns is None else columns, *more_columns]))
        return self._then(n.Unnest(place=caller(), parent=self._node, columns=found, separator=separator))

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

        All calls for what was read are over before it is committed, so nothing is lost; what was asked for and not
        committed before a crash is asked for again.

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
        )
        return self._then(node)

    def side(self, name: str) -> Stream:
        """The rows of a side output of the ``process`` that this stream comes from."""
        return self._then(side_node(self._node, caller(), name))

    def inspect(self, function: Callable[[pl.DataFrame], object] = print) -> Stream:
        """Shows every batch to a function and passes it on."""
        return self._then(n.Inspect(place=caller(), parent=self._node, function=function))

    def join(
        self,
        other: Any,
        on: str | Sequence[str] | None = None,
        how: Literal["inner", "left", "right", "full", "semi", "anti"] = "inner",
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        suffix: str = "_right",
        within: Any = None,
        ttl: Any = None,
        window: n.WindowSpec | None = None,
        validate: Literal["m:m", "m:1", "1:m", "1:1"] = "m:m",
        name: str | None = None,
    ) -> Stream:
        """Brings together rows with equal keys: of two streams, or of this one and a table that stays as it is.

        Columns are those that a join of Polars gives, and a null key meets nothing.

        With a stream, rows meet whose times differ by no more than ``within`` says. They are given as soon as both are
        there, with the time of the later one: its column, or ``join_time`` where no column of either side always is
        the later. A row that met none (``how`` of left, right, full and anti) comes out when time says that it can
        meet none any more, with its own time. ``semi`` and ``anti`` keep the row's time. A row behind the watermark is
        late: ``.late`` has those of this stream, ``.late_other`` those of the other.

        With ``window``, rows meet that lie in the same window, and come out when it is over, with ``window_start`` and
        ``window_end``; rows that met none of their window come out with it.

        With a table, which ``.table(key)`` gives, and none of these, each row meets the table as it was at the row's
        own time, and waits for the watermark to pass it; ``how`` is inner, left, semi or anti.

        Otherwise, without any of these, rows meet however far apart they are. All rows are kept then, which is warned
        of, and the result has no time. It is a changelog where ``how`` is left, right, full or anti, or where a side is
        one: a row that met none is taken back when one comes that it meets.

        Args:
            other: A stream; or a Polars or pandas frame, an Arrow table, a list of dicts; or what
                :func:`mamba_stream.periodically` gives.
            on: Columns of both; or ``left_on`` and ``right_on``.
            how: As in Polars; with a table inner, left, semi or anti.
            left_on: Columns of this stream.
            right_on: Columns of the other.
            suffix: For columns of the other that this one has too.
            within: Of two streams: ``"10m"``, either way, or ``("0s", "15m")`` for the time of the other row minus that
                of this one, both inclusive. The upper bound may be an expression over this stream's row that gives a
                duration, as in ``("0s", pl.col("expires") - pl.col("ts"))``.
            ttl: Of two streams without ``within``: how long rows are kept, so that only those meet whose times differ
                by at most this; ``"forever"`` says that keeping all is meant.
            window: Of two streams: ``mamba.tumbling(size)`` or ``mamba.hopping(size, every)``, which keeps a row once
                for each of its windows.
            validate: Of two streams without bounds: ``"m:1"`` says that all rows of the other have different keys,
                ``"1:m"`` those of this one, ``"1:1"`` both. A second row of a key fails the job. Rows of a side that
                is ``m`` leave the state of an inner join once they have met their row; those of this stream that of a
                left join, too.
            name: The step's name, under which its state is kept.
        """
        place = caller()
        keys = key_columns(on, left_on, right_on)
        if not isinstance(other, Stream):
            if within is not None or ttl is not None or name is not None or validate != "m:m":
                raise PipelineRefused(
                    "join: within=, ttl=, validate= and name= are for two streams, and this is a table"
                )
            return self._then(lookup(place, self._node, other, keys, how, suffix))
        sides = (self._node, other._node)  # noqa: SLF001 - a stream of ours
        shapes = {**self._shapes, **other._shapes}  # noqa: SLF001
        node = stream_join(
            place,
            sides,
            keys,
            how,
            within=within,
            ttl=ttl,
            window=window,
            suffix=suffix,
            validate=validate,
            name=name,
            shapes=shapes,
        )
        return extended(node, shapes)

    def join_asof(
        self,
        other: Stream,
        *,
        by: str | Sequence[str] | None = None,
        by_left: str | Sequence[str] | None = None,
        by_right: str | Sequence[str] | None = None,
        strategy: Literal["backward", "forward", "nearest"] = "backward",
        tolerance: str | timedelta | None = None,
        suffix: str = "_right",
        coalesce: bool = True,
        name: str | None = None,
    ) -> Stream:
        """Each row with the row of another stream that was the latest at the row's own time.

        As Polars' ``join_asof`` on the times of both: every row of this stream comes out once, with nulls where it met
        none, and keeps its time. It waits until the watermark has passed that time. Of several rows of the other stream
        at one time, the last in the order of the stream counts. A null key meets nothing. A row behind the watermark is
        late: ``.late`` has those of this stream, ``.late_other`` those of the other.

        Args:
            other: The other stream, with a time of the same type.
            by: Columns of both that have to be equal; any row meets any if left out.
            by_left: Columns of this stream, in place of ``by``.
            by_right: Columns of the other.
            strategy: ``"backward"`` takes the last row at or before the row's time, ``"forward"`` the first at or
                behind it, ``"nearest"`` the nearer of both.
            tolerance: How far away in time the other row may be, such as ``"5m"``. ``forward`` and ``nearest`` need it,
                as it says how long a row waits; ``backward`` lets go of rows that are older.
            suffix: For columns of the other that this one has too.
            coalesce: Leave out the time of the other row.
            name: The step's name, under which its state is kept.
        """
        place = caller()
        if not isinstance(other, Stream):
            raise PipelineRefused(
                "join_asof takes a stream, whose rows have a time: make one with mamba.stream(frame, time=)"
            )
        node = asof_join(
            place,
            (self._node, other._node),
            (by, by_left, by_right),
            strategy=strategy,
            tolerance=tolerance,
            suffix=suffix,
            coalesce=coalesce,
            name=name,
        )
        return extended(node, {**self._shapes, **other._shapes})

    # -- windows ---------------------------------------------------------------------------------------------------

    def window(
        self,
        spec: n.WindowSpec,
        by: Any = None,
        emit: Literal["final", "update"] = "final",
        every: str | timedelta | None = None,
        corrections: str | timedelta | None = None,
        *,
        name: str | None = None,
    ) -> Windowed:
        """Groups rows by window and key; ``.agg(...)`` says what to make of each group.

        Args:
            spec: ``mamba.tumbling(size)``, ``hopping(size, every)``, ``cumulative(size, step)``, ``session(gap)`` or
                ``rows(n)``.
            by: Columns; a null is a key like any other.
            emit: ``"final"`` gives a window's results when it is over, ``"update"`` with every batch that changed them.
            every: Gives the results of windows that are not over yet as well, whenever the watermark has come so far:
                ``every="10s"``. Of ``"update"``, instead of with every batch.
            corrections: For so long after its end a window takes rows that would be late, and gives its results anew.
            name: The step's name, under which its state is kept.

        With ``"update"``, ``every=`` or ``corrections=`` the result is a changelog: keys and ``window_start`` tell its
        rows apart.
        """
        if not isinstance(spec, n.WindowSpec):
            raise PipelineRefused(
                "window takes mamba.tumbling(...), hopping(...), cumulative(...), session(...) or rows(...), "
                f"not {spec!r:.80}"
            )
        if name is not None:
            check_name(name, "step")
        return Windowed(self, spec, names(by, what="by="), name, changing(spec, emit, every, corrections))

    # -- rows that see other rows --------------------------------------------------------------------------------------

    def rolling(self, period: str | timedelta, by: Any = None, *, name: str | None = None) -> Rolled:
        """Looks back from each row over the rows of its key in ``(t - period, t]``.

        Rows come out once the watermark has passed them. ``.agg(...)`` gives a row for each with key, time and results;
        ``.with_columns(...)`` keeps the row and adds the results.

        Args:
            period: How far back: ``"10m"``, or a timedelta.
            by: Columns; a null is a key like any other.
            name: The step's name, under which its state is kept.
        """
        return Rolled(self, period, by, name)

    def lag(
        self, columns: Any, n: int = 1, *, by: Any = None, suffix: str = "_lag", name: str | None = None
    ) -> Stream:
        """Adds the values that columns had in an earlier row of the key; null where there is none.

        Rows come out once the watermark has passed them. The last ``n`` values of each key are kept for good.

        Args:
            columns: One or several names.
            n: How many rows of the key back, 1 to 1000.
            by: The key's columns; without any, all rows are of one key.
            suffix: What the results are called, behind their columns' names.
            name: The step's name, under which its state is kept.
        """
        return lagged(self, columns, n, by, suffix, name, differs=False)

    def diff(
        self, columns: Any, n: int = 1, *, by: Any = None, suffix: str = "_diff", name: str | None = None
    ) -> Stream:
        """Adds by how much columns differ from what they were in an earlier row of the key.

        Arguments as for ``lag``.
        """
        return lagged(self, columns, n, by, suffix, name, differs=True)

    def match(
        self,
        steps: Sequence[Any],
        by: Any = None,
        *,
        within: str | timedelta,
        overlapping: bool = False,
        name: str | None = None,
    ) -> Matched:
        """Looks for sequences of rows of one key; ``.agg(...)`` says what to make of each.

        A sequence begins with every row for which the first condition holds, and goes on with the next row, in the
        order of the stream, for which the following one does; rows between them are passed over. It comes out
        once the watermark has passed its last row.

        Args:
            steps: At least two ``mamba.step(name, condition, within=)``.
            by: The key's columns; without any, all rows are of one key.
            within: How far apart its first and last row lie at most.
            overlapping: Whether a row may be in several sequences; otherwise the next one of a key begins behind the
                end of the last.
            name: The step's name, under which its state is kept.
        """
        return Matched(self, list(steps), by, within, name, overlapping=overlapping)

    # -- tables ----------------------------------------------------------------------------------------------------

    def group_by(
        self, *by: Any, ttl: str | timedelta | None = None, name: str | None = None, **named_by: Any
    ) -> Grouped:
        """Groups all rows by key; ``.agg(...)`` says what to keep up to date of each group.

        Args:
            *by: Columns, or expressions with a name; a null is a key like any other. Without any, all rows are one
                group.
            ttl: Let go of a key, and take its row back, once the watermark is further than this behind its last
                row. Left out, keys are kept for ever.
            name: The step's name, under which its state is kept.
            **named_by: Expressions by the name of their key.

        Example:
            >>> import mamba_stream as mamba, polars as pl
            >>> sales = mamba.stream([{"shop": "a", "sum": 2}, {"shop": "b", "sum": 1}, {"shop": "a", "sum": 3}])
            >>> sales.group_by("shop").agg(pl.col("sum").sum(), best=pl.col("sum").max()).collect().rows()
            [('a', 5, 3), ('b', 1, 1)]
        """
        return grouped(self, by, named_by, ttl=ttl, name=name)

    def table(self, key: Any, *, name: str | None = None) -> Stream:
        """Keeps the latest row of each key, by the order of the stream: a changelog.

        Rows with a column ``_op``, as a topic has them that a changelog was written to, are taken for what they say:
        the table is the one that was written.

        Args:
            key: Columns; a null is a key like any other.
            name: The step's name, under which its state is kept.

        Example:
            >>> import mamba_stream as mamba
            >>> prices = mamba.stream([{"item": "tea", "price": 3}, {"item": "tea", "price": 4}])
            >>> prices.table("item").collect().rows()
            [('tea', 4)]
        """
        return table(self, names(key, what="table"), name=name)

    def unique(
        self,
        subset: Any = None,
        *,
        keep: Literal["first", "last", "any"] = "first",
        within: str | timedelta | None = None,
        order: Literal["stream", "arrival"] = "stream",
        name: str | None = None,
    ) -> Stream:
        """Keeps one row of each key.

        The first row of a key is known once the watermark has passed it, and goes on then; rows that come later than
        that are in ``.late``.

        Args:
            subset: The key; all columns if left out.
            keep: ``"first"``; or ``"last"``, which is :meth:`table`: the latest row so far, a changelog.
            within: Leave out rows that come at most so long, in the stream's time, after one of their key that was
                kept. Left out, every key is kept for ever, and a warning says so.
            order: ``"arrival"`` takes the first row to arrive, at once: which one that is depends on the batches.
            name: The step's name, under which its state is kept.
        """
        return unique(self, names(subset, what="unique"), keep=keep, within=within, order=order, name=name)

    def top_k(
        self,
        k: int,
        *,
        by: Any,
        per: Any = None,
        reverse: bool | Sequence[bool] = False,
        rank: str | None = None,
        name: str | None = None,
    ) -> Stream:
        """Keeps the best rows: those with the greatest values.

        Per window, of a windowed result (``per="window_start"``, other columns beside it if need be), they come once,
        as the window does. Per anything else they are the best rows so far, a changelog: of rows that stay, only
        these are kept.

        Args:
            k: How many.
            by: Columns to compare rows by; nulls come last. Of rows that are equally good, the first in the order of
                the stream is the better one; of a table, the first by its key.
            per: Columns: the best rows of each of their values. Without any, of all rows.
            reverse: Whether the least values are the best; one for all, or one for each column of ``by``.
            rank: A column to add, with the rank from 1 on. It changes with every better row.
            name: The step's name, under which its state is kept.

        Example:
            >>> import mamba_stream as mamba
            >>> bids = mamba.stream([{"item": "tea", "bid": 3}, {"item": "ham", "bid": 5}, {"item": "tea", "bid": 4}])
            >>> bids.top_k(1, by="bid", per="item", rank="place").collect().rows()
            [('ham', 5, 1), ('tea', 4, 1)]
        """
        return top_k(self, k, names(by, what="by="), names(per, what="per="), reverse, rank=rank, name=name)

    # -- what else came of rows ------------------------------------------------------------------------------------

    @property
    def late(self) -> Stream:
        """The rows that came too late for the last step of this stream that goes by time, as they were before it.

        That is a join too, with another stream or with a table as it was at each row's time: the rows that were too
        late for a window before it are those of the window's own stream.

        Two columns are added: ``late_by`` is how much more lateness would have kept the row, and ``late_reason`` is
        ``watermark``, or ``idle`` where time went on without a partition that had been silent.
        """
        return self._late_rows(caller(), port=0)

    @property
    def late_other(self) -> Stream:
        """As ``late``: the rows of the other stream of a join, the one that it was given, that came too late."""
        return self._late_rows(caller(), port=1)

    def _late_rows(self, place: n.Place, port: int) -> Stream:
        node = self._node
        while isinstance(node, n.Step) and not (isinstance(node, n.Stateful) and node.by_time):
            node = node.parent
        if not isinstance(node, n.Stateful) or not node.by_time:
            raise PipelineRefused(
                "late belongs to the result of a verb that goes by time, such as .window(...).agg(...)"
            )
        if port >= len(node.parents):
            raise PipelineRefused(
                f"late_other belongs to a join of two streams, and {node.verb} has one: use .late"
            )
        return self._then(n.LateRows(place=place, parent=node, port=port))

    @property
    def rejected(self) -> Stream:
        """The rows that have no time, or one too far ahead; ``rejected_reason`` says which.

        They are those of this stream's source, or of ``with_time`` where it was called.
        """
        place, node = caller(), self._node
        while isinstance(node, n.Step) and not isinstance(node, n.WithTime):
            node = node.parent
        if not isinstance(node, n.Source | n.WithTime):
            raise PipelineRefused(
                "rejected belongs to one source: take it from the stream that mamba.stream() gave"
            )
        return self._then(n.RejectedRows(place=place, parent=node))

    def changes(self) -> Stream:
        """A changelog as rows, with ``_op``: ``+I`` and ``+U`` bring a row, ``-U`` and ``-D`` take it back."""
        return self._then(n.Changes(place=caller(), parent=self._node))

    # -- ends ------------------------------------------------------------------------------------------------------

    @overload
    def to(self, target: str, *, key: Any = None, partitions: int | None = None) -> n.Output: ...

    @overload
    def to(self, target: AnySink, *, name: str | None = None) -> n.SinkOutput: ...

    def to(
        self,
        target: str | AnySink,
        *,
        key: Any = None,
        partitions: int | None = None,
        name: str | None = None,
    ) -> n.AnyOutput:
        """Ends the stream in a topic, which is created from the plan when the pipeline starts, or in a sink.

        Args:
            target: A topic's name; an existing one must have these columns. Or a connector's sink.
            key: Columns whose equal values go to one partition of the topic.
            partitions: How many, if the topic is created; 1 if left out.
            name: Tells apart two sinks of one name; the job's progress, and the sink itself, know the output by it.
        """
        place = caller()
        if is_sink(target):
            if key is not None or partitions is not None:
                raise PipelineRefused("key= and partitions= are for topics: a sink is told when it is made")
            return self._into(target, name, place)
        if not isinstance(target, str):
            raise PipelineRefused(f"to takes the name of a topic, or a connector's sink, not {target!r:.80}")
        check_name(target)
        if name is not None:
            raise PipelineRefused("name= is for sinks: a topic has one")
        if partitions is not None and (not is_whole(partitions) or partitions < 1):
            raise PipelineRefused(f"to({target!r}, partitions={partitions!r}): give a number from 1 on")
        output = n.Output(
            place=place, parent=self._node, topic=target, key=names(key, what="key="), partitions=partitions
        )
        infer_known(output, self._shapes)
        return output

    def _into(self, sink: AnySink, name: str | None, place: n.Place) -> n.SinkOutput:
        called = check_name(name, "sink") if name is not None else plain_name(sink.name)
        output = n.SinkOutput(place=place, parent=self._node, sink=sink, name=called)
        infer_known(output, self._shapes)
        return output

    def collect(self, log: Any = None) -> pl.DataFrame:
        """The rows that come out if the sources end where they end now: private state, nothing is written.

        Args:
            log: Where the topics are.
        """
        from mamba_stream.dsl.running import collect_stream

        return collect_stream(self._node, log, limit=None)

    def head(self, n: int = 5, log: Any = None) -> pl.DataFrame:
        """The first rows that come out; reads no further than it must, and always returns."""
        from mamba_stream.dsl.running import collect_stream

        return collect_stream(self._node, log, limit=n)

    def explain(self, *, format: Literal["text", "mermaid"] = "text") -> str:  # noqa: A002 - as in Polars
        """What the stream does, in words; or a picture as Mermaid text."""
        return explain([self._node], style=format)

    def _then(self, node: n.Node) -> Stream:
        return extended(node, self._shapes)


class Windowed:
    """Rows grouped by window and key, waiting for ``.agg(...)``."""

    __slots__ = ("_by", "_changing", "_name", "_spec", "_stream")

    def __init__(
        self,
        stream: Stream,
        spec: n.WindowSpec,
        by: tuple[str, ...],
        name: str | None,
        changing: n.Changing | None,
    ) -> None:
        self._stream = stream
        self._spec = spec
        self._by = by
        self._name = name
        self._changing = changing

    def __repr__(self) -> str:
        return f"Windowed({self._spec.words}, by={list(self._by)}): call .agg(...)"

    def agg(self, *exprs: Any, **named: Any) -> Stream:
        """One row for each window and key, once no more rows can come for it.

        Args:
            *exprs: Polars expressions, as for ``group_by().agg()``.
            **named: Expressions by the name of their result.

        Returns:
            A stream with the keys, ``window_start``, ``window_end`` (exclusive) and the results. Its time is
            ``window_end`` minus one tick.
        """
        place = caller()
        found = single_results(exprs, named, verb="agg")
        step = n.Window(
            place=place,
            parent=self._stream._node,  # noqa: SLF001 - a stream waiting for its second half
            spec=self._spec,
            by=self._by,
            aggregates=found,
            changing=self._changing,
            name=self._name
            or window_name(self._spec, self._by, list(found), changing=self._changing is not None),
        )
        return self._stream._then(step)  # noqa: SLF001


def extended(node: n.Node, shapes: Mapping[n.Node, Shape]) -> Stream:
    """The stream of a node, whose shape is found at once where its inputs' are known."""
    shape = infer_known(node, shapes)
    return Stream(node, shapes if shape is None else {**shapes, node: shape})


def united(streams: Iterable[Any]) -> Stream:
    """The rows of several streams as one."""
    place = caller()
    streams = [] if isinstance(streams, Stream) else list(streams)
    if not streams or not all(isinstance(stream, Stream) for stream in streams):
        raise PipelineRefused("concat takes a list of streams")
    node = n.Concat(place=place, inputs=tuple(stream._node for stream in streams))  # noqa: SLF001
    shapes: dict[n.Node, Shape] = {}
    for stream in streams:
        shapes.update(stream._shapes)  # noqa: SLF001
    return extended(node, shapes)
