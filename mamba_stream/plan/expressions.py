"""What rooms above the plan ask of a Polars expression: whether it may stand on a stream, and what it reads."""

from __future__ import annotations

from mamba_stream.core.trees import columns, has_selector
from mamba_stream.plan.rowwise import check_aggregate, check_row_wise

__all__ = ["check_aggregate", "check_row_wise", "columns", "has_selector"]
