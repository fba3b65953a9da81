"""``stream.group_by(keys).agg(...)``: running totals by key."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.dsl.arguments import expressions, flat, single_results
from mamba_stream.dsl.places import caller
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.changelogs import KeyColumns, Totals
from mamba_stream.plan.names import keyed_name

if TYPE_CHECKING:
    from mamba_stream.dsl.planned import Planned
    from mamba_stream.dsl.streams import Stream


class Grouped:
    """Rows grouped by key, waiting for ``.agg(...)``."""

    __slots__ = ("_by", "_name", "_stream", "_ttl")

    def __init__(self, stream: Planned, by: tuple[str, ...], ttl: int | None, name: str | None) -> None:
        self._stream = stream
        self._by = by
        self._ttl = ttl
        self._name = name

    def __repr__(self) -> str:
        return f"Grouped(by={list(self._by)}): call .agg(...)"

    def agg(self, *exprs: Any, **named: Any) -> Stream:
        """One row for each key, over all its rows so far: a changelog.

        Args:
            *exprs: Polars expressions, as for ``group_by().agg()``.
            **named: Expressions by the name of their result.

        Returns:
            A stream with the keys and the results, which says how the table of totals changes: for each key that a
            batch changed, ``-U`` with the old and ``+U`` with the new row, or ``+I`` if the key is new. ``collect``
            gives the table. It has no time of its own.
        """
        place = caller()
        found = single_results(exprs, named, verb="agg")
        step = Totals(
            place=place,
            parent=self._stream._node,  # noqa: SLF001 - a stream waiting for its second half
            by=self._by,
            aggregates=found,
            ttl=self._ttl,
            name=self._name or keyed_name("group_by", self._by, found),
        )
        return self._stream._then(step)  # noqa: SLF001


def grouped(
    stream: Planned,
    by: Iterable[Any],
    named: dict[str, Any],
    *,
    ttl: str | timedelta | None,
    name: str | None,
) -> Grouped:
    """What ``Stream.group_by`` does."""
    if name is not None:
        check_name(name, "step")
    length = None if ttl is None else duration_us(ttl, what="ttl", zero=False)
    keys: list[str] = []
    made: list[pl.Expr] = []
    keyed = [*flat(by), *(pl.Expr.alias(expr, key) for key, expr in _as_expressions(named).items())]
    for key in keyed:
        if isinstance(key, str):
            keys.append(key)
        elif isinstance(key, pl.Expr) and key.meta.is_column():
            keys.append(key.meta.output_name())
        elif isinstance(key, pl.Expr):
            result = key.meta.output_name(raise_if_undetermined=False)
            if result is None or key.meta.has_multiple_outputs():
                raise PipelineRefused(f"group_by: {key!s:.80} has no single name: write group_by(name=...)")
            keys.append(result)
            made.append(key)
        else:
            raise PipelineRefused(f"group_by takes columns and expressions, not {key!r:.80}")
    if made:
        before = stream._node  # noqa: SLF001
        stream = stream._then(KeyColumns(place=caller(), parent=before, exprs=tuple(made)))  # noqa: SLF001
    return Grouped(stream, tuple(keys), length, name)


def _as_expressions(named: dict[str, Any]) -> dict[str, pl.Expr]:
    return (
        {} if not named else dict(zip(named, expressions(named.values(), {}, verb="group_by"), strict=True))
    )
