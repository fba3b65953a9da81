"""``mamba.periodically``: a table that is read again now and then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.durations import duration_us
from mamba_stream.dsl.arguments import schema as schema_of
from mamba_stream.dsl.tables import as_table
from mamba_stream.errors import PipelineRefused


@dataclass(frozen=True, eq=False)
class Periodically:
    """A table that is read again now and then; made by ``mamba.periodically(...)``, for the right side of a join."""

    read: Callable[[], pl.DataFrame]
    every: float
    schema: pl.Schema
    words: str
    clock: Clock


def periodically(
    function: Callable[[], Any], *, every: str | timedelta, schema: Any, clock: Clock | None = None
) -> Periodically:
    """A table for the right side of a ``join`` that is read again every so often, by the machine's clock.

    Rows meet the table as it is when they are worked on. So what a row meets depends on when that is, and a run that
    resumes may find another table: where that matters, put the table's changes into a topic and join with its
    ``.table(key)``.

    Args:
        function: Gives the table: a Polars or pandas frame, an Arrow table, a list of dicts. It is called when the
            first rows come, and again with the first rows that come after ``every``. If it raises, the job stops.
        every: How long a table is used, such as ``"5m"``.
        schema: The columns that it has, as ``{name: type}``.
        clock: Tells the time, in tests.

    Example:
        >>> import polars as pl, mamba_stream as mamba
        >>> names = mamba.periodically(
        ...     lambda: pl.DataFrame({"id": [1], "name": ["Ann"]}),
        ...     every="5m",
        ...     schema={"id": pl.Int64, "name": pl.String},
        ... )
        >>> mamba.stream([{"id": 1}]).join(names, on="id").collect().rows()
        [(1, 'Ann')]
    """
    if not callable(function):
        raise PipelineRefused(f"periodically takes a function that gives a table, not {function!r:.80}")
    seconds = duration_us(every, what="periodically: every=", zero=False) / 1_000_000
    made = schema_of(schema, verb="periodically")
    words = every if isinstance(every, str) else str(every)
    return Periodically(
        lambda: as_table(function(), what="periodically"), seconds, made, words, clock or SystemClock()
    )
