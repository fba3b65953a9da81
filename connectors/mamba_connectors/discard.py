"""A sink that takes rows and forgets them: for measuring what comes before it.

>>> from mamba_connectors import discard
>>> discard.sink().name
'discard'
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from mamba_stream.connect import Delivery

__all__ = ["DiscardSink", "sink"]


def sink(*, name: str = "discard") -> DiscardSink:
    """A sink that forgets what it is given."""
    return DiscardSink(name)


class _Writer:
    def write(self, batch: pa.RecordBatch) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class DiscardSink:
    """What :func:`sink` makes. No row arrives twice, and none arrives."""

    name: str
    delivery: Delivery = "exactly-once"
    accepts_changes: bool = True

    def open(self, schema: pa.Schema, owner: str) -> _Writer:
        """A writer that forgets."""
        return _Writer()
