"""A node of a plan, with what is known of it so far: what every verb of a stream begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mamba_stream.plan import nodes as n
from mamba_stream.plan.shapes import Shape

if TYPE_CHECKING:
    from mamba_stream.dsl.streams import Stream


class Planned:
    """A node, and the shapes that are known of it and of those before it."""

    __slots__ = ("_node", "_shapes")

    def __init__(self, node: n.Node, shapes: Mapping[n.Node, Shape]) -> None:
        self._node = node
        self._shapes = dict(shapes)

    def _then(self, node: n.Node, *others: Planned) -> Stream:
        """The stream of a node that follows this one, and others."""
        raise NotImplementedError
