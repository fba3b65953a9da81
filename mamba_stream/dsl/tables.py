"""Whatever holds rows, as a Polars frame."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from mamba_stream.core.schemas import is_pandas
from mamba_stream.errors import PipelineRefused


def as_table(data: Any, *, what: str) -> pl.DataFrame:
    """The rows as a frame.

    Args:
        data: A Polars or pandas frame, an Arrow table or batch, or a list of dicts.
        what: The verb, for the message.

    Raises:
        PipelineRefused: It holds no rows, or only promises them.
    """
    frame = _frame(data, what)
    for name, dtype in frame.schema.items():
        if dtype == pl.Object:
            raise PipelineRefused(f"{what}: column {name!r} holds Python objects: give it a type first")
    return frame


def _frame(data: Any, what: str) -> pl.DataFrame:
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        raise PipelineRefused(f"{what}: a LazyFrame has no rows yet: pass .collect()")
    if isinstance(data, pa.Table | pa.RecordBatch) or is_pandas(data):
        return pl.DataFrame(data)
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return pl.from_dicts(data, infer_schema_length=None)
    if isinstance(data, list) and not data:
        raise PipelineRefused(f"{what}: an empty list has no columns: pass pl.DataFrame(schema=...)")
    raise PipelineRefused(
        f"{what} takes a Polars or pandas frame, an Arrow table or a list of dicts, not {type(data).__name__}"
    )
