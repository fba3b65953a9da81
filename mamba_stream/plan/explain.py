"""A plan in words, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mamba_stream.errors import PipelineRefused
from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import Shape


def explain(roots: Sequence[n.Node], shapes: Mapping[n.Node, Shape], *, style: str) -> str:
    raise PipelineRefused("later")
