"""Setting streams and pipelines to work."""

from __future__ import annotations

from typing import Any

import polars as pl

from mamba_stream.errors import PipelineRefused
from mamba_stream.log import locate
from mamba_stream.plan import nodes as n
from mamba_stream.runtime.collecting import collect


def collect_stream(node: n.Node, log: Any, *, limit: int | None) -> pl.DataFrame:
    """What ``Stream.collect`` and ``Stream.head`` do."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise PipelineRefused(f"head takes a number of rows, not {limit!r}")
    topics = any(isinstance(found, n.TopicSource) for found in n.walk([node]))
    return collect(node, locate(log) if topics else None, limit=limit)
