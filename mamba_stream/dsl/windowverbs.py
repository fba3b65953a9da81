"""Verbs of a stream by which rows see other rows: those of their window, or those near them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from mamba_stream.core.names import check_name
from mamba_stream.dsl.arguments import names, single_results
from mamba_stream.dsl.neighbours import Matched, Rolled, lagged
from mamba_stream.dsl.places import caller
from mamba_stream.dsl.planned import Planned
from mamba_stream.dsl.windows import changing
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.names import window_name

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class WindowVerbs(Planned):
    """What can be done with rows that lie near each other in time."""

    __slots__ = ()

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


class Windowed:
    """Rows grouped by window and key, waiting for ``.agg(...)``."""

    __slots__ = ("_by", "_changing", "_name", "_spec", "_stream")

    def __init__(
        self,
        stream: Planned,
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
