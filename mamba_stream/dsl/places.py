"""The line of the user's program that called a verb."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

from mamba_stream.plan.nodes import Place

_OURS = f"{Path(__file__).parent.parent}{os.sep}"


def caller() -> Place:
    """The nearest line outside this package."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None:
        return Place("<unknown>", 0)
    return Place(frame.f_code.co_filename, frame.f_lineno)
