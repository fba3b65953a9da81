"""Where results go that are only measured."""

from __future__ import annotations

import importlib.util
from typing import Any

import mamba_stream as mamba

DISCARDS = (
    importlib.util.find_spec("mamba_connectors") is not None
    and importlib.util.find_spec("mamba_connectors.discard") is not None
)
"""Whether there is a sink that drops what it is given; until then, results go to a topic."""


def ended(stream: mamba.Stream, topic: str) -> Any:
    """The stream with its results discarded, or in a topic where that cannot be."""
    if DISCARDS:
        from mamba_connectors import discard

        return stream.to(discard.sink())
    return stream.to(topic)
