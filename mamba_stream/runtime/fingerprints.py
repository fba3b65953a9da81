"""A fingerprint of the rows of a frame: a run that resumes must find the rows that the first one read."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash

from mamba_stream.core.batches import batch_from_frame

if TYPE_CHECKING:
    import polars as pl


class _Hashing(io.RawIOBase):
    """A file that only remembers the hash of what is written."""

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.hash.update(view)
        return view.nbytes


def content_of(frame: pl.DataFrame) -> str:
    """Equal for equal rows in equal order, whatever process or version asks."""
    sink = _Hashing()
    batch = batch_from_frame(frame)
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), batch.schema) as writer:
        writer.write_batch(batch)
    return str(sink.hash.hexdigest())
