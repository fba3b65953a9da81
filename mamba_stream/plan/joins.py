"""Joins of streams as nodes of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import polars as pl

from mamba_stream.core.clock import Clock
from mamba_stream.operators.asofjoin import Strategy
from mamba_stream.operators.joined import How
from mamba_stream.plan import nodes as n

Validate = Literal["m:m", "m:1", "1:m", "1:1"]


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamJoin(n.Stateful):
    """Rows of two streams with equal keys.

    Attributes:
        left: The stream that ``join`` was called on.
        right: The other one.
        left_on: Key columns of the one.
        right_on: Key columns of the other.
        how: As in Polars.
        suffix: For columns of the right side that the left has too.
    """

    keeps_rows: ClassVar[bool] = True  # what orders its results is the origin of the rows that they are of

    left: n.Node
    right: n.Node
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: How
    suffix: str

    @property
    def parents(self) -> tuple[n.Node, ...]:
        return (self.left, self.right)

    @property
    def verb(self) -> str:
        return "join"

    def on(self, port: int) -> tuple[str, ...]:
        """The key columns of a side."""
        return self.right_on if port else self.left_on


@dataclass(frozen=True, eq=False, kw_only=True)
class IntervalJoin(StreamJoin):
    """Rows of two streams with equal keys, whose times lie within bounds of each other.

    Attributes:
        lower: Least difference, time of the right row minus that of the left, in microseconds.
        upper: The greatest; or an expression over the left row that gives it as a duration.
        bounds: The bounds in words.
    """

    tells_sides: ClassVar[bool] = True

    lower: int
    upper: int | pl.Expr
    bounds: str


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowJoin(StreamJoin):
    """Rows of two streams with equal keys that lie in the same window."""

    spec: n.WindowSpec


@dataclass(frozen=True, eq=False, kw_only=True)
class UnboundedJoin(StreamJoin):
    """Rows of two streams, or tables, with equal keys, however far apart in time.

    Attributes:
        validate: What the user says of the keys, as in Polars.
    """

    by_time: ClassVar[bool] = False
    in_chunks: ClassVar[bool] = True
    takes_changes: ClassVar[bool] = True

    validate: Validate = "m:m"

    @property
    def unique(self) -> tuple[bool, bool]:
        """Of which sides the user says that no two rows have one key."""
        left, _, right = self.validate.partition(":")
        return left == "1", right == "1"


@dataclass(frozen=True, eq=False, kw_only=True)
class AsofJoin(StreamJoin):
    """Each row of a stream with the row of another that was the latest of its key at the row's time.

    Attributes:
        strategy: ``backward``, ``forward`` or ``nearest``.
        tolerance: How far away the other row may be, in microseconds; ``None`` for any number, backwards.
        keeps_time: Whether the result has the other row's time, too.
        called: What the user called.
    """

    strategy: Strategy
    tolerance: int | None
    keeps_time: bool
    called: str

    @property
    def verb(self) -> str:
        return self.called


@dataclass(frozen=True, eq=False, kw_only=True)
class PeriodicLookup(n.Lookup):
    """A join with a table that is read again now and then; ``table`` has its columns, and no rows.

    Attributes:
        read: Gives the table.
        every: Seconds for which it is used.
        clock: By which these are counted.
        often: The same in words.
    """

    takes_changes: ClassVar[bool] = False  # what takes a row back might find another table

    read: Callable[[], pl.DataFrame]
    every: float
    clock: Clock
    often: str


def join_name(node_on: Sequence[tuple[str, str]], how: str, words: str) -> str:
    """A join's name.

    Example:
        >>> join_name([("id", "auction")], "inner", "within 10m")
        'inner join on id = auction within 10m'
    """
    pairs = ", ".join(left if left == right else f"{left} = {right}" for left, right in node_on)
    return f"{how} join on {pairs}{' ' + words if words else ''}"
