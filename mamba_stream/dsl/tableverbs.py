"""Verbs of a stream whose results are tables by key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mamba_stream.dsl.arguments import names
from mamba_stream.dsl.grouping import Grouped, grouped
from mamba_stream.dsl.latest import table, unique
from mamba_stream.dsl.planned import Planned
from mamba_stream.dsl.ranking import top_k

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class TableVerbs(Planned):
    """What can be done with all rows of a key."""

    __slots__ = ()

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
