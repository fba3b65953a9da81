"""Where in a user's program an error was raised."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_NOT_THEIRS = tuple(
    f"{Path(path)}{os.sep}"
    for path in {
        str(Path(__file__).parent.parent),
        *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
    }
)


def line_of(error: BaseException) -> str | None:
    """The innermost line of a user's own code that an error went through, in words; ``None`` where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_THEIRS, "<")):
            return f"{frame.filename}:{frame.lineno} in {frame.name}"
    return None
