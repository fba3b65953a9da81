"""A lookup in a table that is read again now and then."""

from __future__ import annotations

import polars as pl

from mamba_stream.errors import SchemaMismatch
from mamba_stream.operators.lookup import Lookup
from mamba_stream.plan.joins import PeriodicLookup


class Rereading:
    """Joins frames with the table as it is by now."""

    def __init__(self, node: PeriodicLookup) -> None:
        self._node = node
        self._lookup: Lookup | None = None
        self._read_at = 0.0

    def __call__(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows with what the table has for them."""
        now = self._node.clock.monotonic()
        if self._lookup is None or now - self._read_at >= self._node.every:
            self._lookup, self._read_at = self._read(), now
        return self._lookup(frame)

    def _read(self) -> Lookup:
        node = self._node
        table, columns = node.read(), node.table.columns
        if dict(table.schema) != dict(node.table.schema):
            raise SchemaMismatch(
                f"the function of periodically(...) gave a table with {dict(table.schema)}, and schema= says "
                f"{dict(node.table.schema)}"
            )
        return Lookup(
            table=table.select(columns),
            left_on=node.left_on,
            right_on=node.right_on,
            how=node.how,
            suffix=node.suffix,
            multiplies=node.how in ("left", "inner")
            and bool(table.select(node.right_on).is_duplicated().any()),
        )
