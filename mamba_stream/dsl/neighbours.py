"""Verbs in which a row sees other rows of its key: ``rolling``, ``lag``, ``diff``, ``match``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from mamba_stream.core.durations import duration_us
from mamba_stream.core.names import check_name
from mamba_stream.core.numbers import is_whole
from mamba_stream.dsl.arguments import names, single_results
from mamba_stream.dsl.places import caller
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.names import step_name
from mamba_stream.plan.neighbours import Lag, Match, MatchLink, Rolling

if TYPE_CHECKING:
    from mamba_stream.dsl.planned import Planned
    from mamba_stream.dsl.streams import Stream


@dataclass(frozen=True, slots=True)
class MatchStep:
    """One row of a sequence for ``.match([...])``; made by :func:`step`."""

    name: str
    condition: pl.Expr
    within: str | timedelta | None


def step(name: str, condition: Any, within: str | timedelta | None = None) -> MatchStep:
    """One row of a sequence that ``stream.match([...])`` looks for.

    Args:
        name: What its columns are called after, as in ``pl.col("rise.price")``.
        condition: What holds for the row: an expression that looks at nothing but the row.
        within: How long after the row before it at most; any time if left out.

    Example:
        >>> step("rise", pl.col("price") > 10, within="5m").name
        'rise'
    """
    if not name.isidentifier():
        raise PipelineRefused(f"step name {name!r}: letters, digits and _, such as 'rise'")
    if not isinstance(condition, pl.Expr):
        raise PipelineRefused(
            f"step {name!r} takes an expression such as pl.col('price') > 10, not {condition!r:.80}"
        )
    return MatchStep(name, condition, within)


class Rolled:
    """Rows that look back over a period, waiting for ``.agg(...)`` or ``.with_columns(...)``."""

    __slots__ = ("_by", "_name", "_period", "_stream", "_words")

    def __init__(self, stream: Planned, period: str | timedelta, by: Any, name: str | None) -> None:
        self._stream = stream
        self._period = duration_us(period, what="rolling period", zero=False)
        self._words = period if isinstance(period, str) else str(period)
        self._by = names(by, what="by=")
        self._name = None if name is None else check_name(name, "step")

    def __repr__(self) -> str:
        return f"Rolled({self._words}, by={list(self._by)}): call .agg(...) or .with_columns(...)"

    def agg(self, *aggregates: Any, **named: Any) -> Stream:
        """One row for each row: its key, its time, and the results over the period up to it.

        Args:
            *aggregates: Polars expressions, as for ``rolling().agg()``.
            **named: Expressions by the name of their result.
        """
        return self._made(aggregates, named, keeps_columns=False)

    def with_columns(self, *aggregates: Any, **named: Any) -> Stream:
        """Each row as it is, with the results over the period up to it as further columns."""
        return self._made(aggregates, named, keeps_columns=True)

    def _made(self, aggregates: tuple[Any, ...], named: dict[str, Any], *, keeps_columns: bool) -> Stream:
        found = single_results(aggregates, named, verb="with_columns" if keeps_columns else "agg")
        return self._stream._then(  # noqa: SLF001 - a stream waiting for its second half
            Rolling(
                place=caller(),
                parent=self._stream._node,  # noqa: SLF001
                name=self._name or step_name(f"rolling {self._words}", self._by, list(found)),
                period=self._period,
                words=self._words,
                by=self._by,
                aggregates=found,
                keeps_columns=keeps_columns,
            )
        )


class Matched:
    """Sequences of rows, waiting for ``.agg(...)``."""

    __slots__ = ("_by", "_links", "_name", "_overlapping", "_stream", "_within", "_words")

    def __init__(
        self,
        stream: Planned,
        steps: list[Any],
        by: Any,
        within: str | timedelta,
        name: str | None,
        *,
        overlapping: bool,
    ) -> None:
        links = [link for link in steps if isinstance(link, MatchStep)]
        if len(links) < 2 or len(links) < len(steps):
            raise PipelineRefused("match takes a list of at least two mamba.step(name, condition)")
        known = [link.name for link in links]
        if twice := next((one for one in known if known.count(one) > 1), None):
            raise PipelineRefused(f"match: two steps are called {twice!r}: give each a name of its own")
        self._stream = stream
        self._links = tuple(
            MatchLink(
                link.name,
                link.condition,
                None
                if link.within is None
                else duration_us(link.within, what=f"within of step {link.name!r}"),
            )
            for link in links
        )
        self._by = names(by, what="by=")
        self._within = duration_us(within, what="match within", zero=False)
        self._words = within if isinstance(within, str) else str(within)
        self._name = None if name is None else check_name(name, "step")
        self._overlapping = overlapping

    def __repr__(self) -> str:
        return f"Matched({', '.join(link.name for link in self._links)}): call .agg(...)"

    def agg(self, *results: Any, **named: Any) -> Stream:
        """One row for each sequence.

        Args:
            *results: Expressions over the rows of the sequence: ``pl.col("rise.price")`` is the column ``price`` of the
                row that the step ``rise`` found.
            **named: Expressions by the name of their result.

        Returns:
            A stream with the key, ``match_start`` and ``match_end`` (the times of the first and the last row), and the
            results. Its time is ``match_end``.
        """
        found = single_results(results, named, verb="agg")
        links = ", ".join(link.name for link in self._links)
        return self._stream._then(  # noqa: SLF001 - a stream waiting for its second half
            Match(
                place=caller(),
                parent=self._stream._node,  # noqa: SLF001
                name=self._name or step_name(f"match {links} within {self._words}", self._by, list(found)),
                links=self._links,
                within=self._within,
                words=self._words,
                by=self._by,
                overlapping=self._overlapping,
                aggregates=found,
            )
        )


def lagged(
    stream: Planned, columns: Any, rows: int, by: Any, suffix: str, name: str | None, *, differs: bool
) -> Stream:
    """What ``lag`` and ``diff`` do."""
    verb = "diff" if differs else "lag"
    wanted, keys = names(columns, what=verb), names(by, what="by=")
    if not wanted:
        raise PipelineRefused(f"{verb} takes at least one column")
    if not is_whole(rows) or not 1 <= rows <= 1_000:
        raise PipelineRefused(f"{verb}: n={rows!r}: give a number of rows from 1 to 1000")
    if name is not None:
        check_name(name, "step")
    results = tuple(f"{column}{suffix}" for column in wanted)
    return stream._then(  # noqa: SLF001 - the second half of a verb
        Lag(
            place=caller(),
            parent=stream._node,  # noqa: SLF001
            name=name or step_name(f"{verb} {rows}", keys, list(wanted)),
            columns=wanted,
            results=results,
            steps=rows,
            by=keys,
            differs=differs,
        )
    )
