"""How much a client may send at once: judged before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types as pat

from mamba_stream.errors import InvalidInput


@dataclass(frozen=True)
class Limits:
    """What one call may hold.

    Attributes:
        most_bytes: Bytes of one commit, or of one batch that is written.
        most_columns: Columns of a schema, those inside of lists and structs counted.
        deepest: How far columns may be nested.
        most_rows: Rows of one batch.
        most_streams: Calls that are under way at once.
        in_flight_bytes: Bytes that were received and are not committed yet, of one stream.
    """

    most_bytes: int = 512 << 20
    most_columns: int = 4_096
    deepest: int = 16
    most_rows: int = 16 << 20
    most_streams: int = 1_024
    in_flight_bytes: int = 32 << 20

    def check_schema(self, schema: pa.Schema, where: str) -> None:
        """Refuses a schema that is too wide or nested too deeply."""
        self._columns(schema, where)

    def check_batch(self, batch: pa.RecordBatch, where: str) -> None:
        """Refuses a batch that is too large."""
        if batch.num_rows > self.most_rows:
            raise InvalidInput(
                f"{where}: a batch of {batch.num_rows:,} rows; send at most {self.most_rows:,} at once"
            )
        size = batch.get_total_buffer_size()
        if size > self.most_bytes:
            raise InvalidInput(
                f"{where}: a batch of {size:,} bytes; send at most {self.most_bytes:,} at once"
            )

    def _columns(self, schema: pa.Schema, where: str) -> int:
        count = 0
        waiting = [(field.type, 1) for field in schema]
        while waiting:
            kind, depth = waiting.pop()
            count += 1
            if count > self.most_columns:
                raise InvalidInput(f"{where}: more than {self.most_columns:,} columns")
            if depth > self.deepest:
                raise InvalidInput(f"{where}: columns nested deeper than {self.deepest}")
            if pat.is_nested(kind):
                waiting.extend((kind.field(i).type, depth + 1) for i in range(kind.num_fields))
        return count
