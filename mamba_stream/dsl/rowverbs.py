"""Verbs of a stream that look at one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.dsl.arguments import expressions, flat, predicates
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.planned import Planned
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class RowVerbs(Planned):
    """What can be done with rows, each for itself."""

    __slots__ = ()

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

    def inspect(self, function: Callable[[pl.DataFrame], object] = print) -> Stream:
        """Shows every batch to a function and passes it on."""
        return self._then(n.Inspect(place=caller(), parent=self._node, function=function))
