"""Where the rows in the middle of a plan came from, found when it is needed: their source's rows go that way again.

Rows carry their origin only where a later step depends on it. Where one turns out to be bad, the rows that were read
last are taken through the steps before it once more, with their origin this time.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from mamba_stream.operators.columns import ORIGIN, hidden
from mamba_stream.operators.failures import FAILURES
from mamba_stream.operators.rows import RowSteps
from mamba_stream.plan import nodes as n
from mamba_stream.plan.analysis import Analysis
from mamba_stream.plan.verbs import row_verb
from mamba_stream.runtime.steps import operator_of


class Tracer:
    """The way from a source to the steps of a plan that remember nothing."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._left_out: dict[n.Node, list[pl.DataFrame]] = {}

    def begin(self) -> None:
        """Other rows were read."""
        self._left_out = {}

    def leave_out(self, node: n.Node, rows: pl.DataFrame) -> None:
        """Rows, with their origin, did not get through a node: they are not taken there again."""
        if set(ORIGIN) <= set(rows.columns):
            self._left_out.setdefault(node, []).append(rows.select(ORIGIN))

    def origins(
        self, node: n.Node, frame: pl.DataFrame, source: n.Node, read: Callable[[], pl.DataFrame]
    ) -> pl.DataFrame | None:
        """The columns of ORIGIN for rows that a node gave; ``None`` where these cannot be known.

        Args:
            node: The node.
            frame: The rows.
            source: The source that was read.
            read: Gives what was read there, with its origin.
        """
        if set(ORIGIN) <= set(frame.columns):
            return frame.select(ORIGIN)
        try:
            found = self._through(node, source, read)
        except FAILURES:
            # A function that gives another number of rows leaves no origin.
            return None
        return None if found is None or found.height != frame.height else found.select(ORIGIN)

    def _through(self, node: n.Node, source: n.Node, read: Callable[[], pl.DataFrame]) -> pl.DataFrame | None:
        if node is source:
            return read()
        if isinstance(node, n.WithTime):
            rows = self._through(node.parent, source, read)
            return None if rows is None else rows.filter(pl.col(node.time).is_not_null())
        if isinstance(node, n.Source | n.Stateful | n.Beside):
            return None
        ways = [
            found for parent in node.parents if (found := self._through(parent, source, read)) is not None
        ]
        if len(ways) != 1:
            return None
        [rows] = ways
        for gone in self._left_out.get(node, ()):
            rows = rows.join(gone, on=ORIGIN, how="anti", maintain_order="left")
        shapes, present = self._analysis.shapes, self._analysis.present
        if isinstance(node, n.RowStep):
            verb = row_verb(node, shapes[node.parent], shapes[node], present[node.parent])
            return RowSteps([verb])(rows)
        if isinstance(node, n.Concat):
            return rows.select(*self._analysis.needed[node], *hidden(rows))
        if isinstance(node, n.Inspect):
            return rows
        return operator_of(node, self._analysis)(rows)
