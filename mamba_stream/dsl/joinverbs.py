"""Verbs of a stream that bring it together with another, or with a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mamba_stream.dsl.joining import asof_join, key_columns, lookup, stream_join
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.planned import Planned
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class JoinVerbs(Planned):
    """What can be done with the rows of two streams."""

    __slots__ = ()

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
        if not isinstance(other, Planned):
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
        return self._then(node, other)

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
        if not isinstance(other, Planned):
            raise PipelineRefused(
                "join_asof takes a stream, whose rows have a time: make one with mamba.stream(frame, time=)"
            )
        node = asof_join(
            place,
            (self._node, other._node),  # noqa: SLF001
            (by, by_left, by_right),
            strategy=strategy,
            tolerance=tolerance,
            suffix=suffix,
            coalesce=coalesce,
            name=name,
        )
        return self._then(node, other)
