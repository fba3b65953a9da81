"""How windows are described: ``tumbling("1h")``, ``hopping("10s", "2s")``."""

from __future__ import annotations

import re
from datetime import timedelta

from mamba_stream.core.durations import duration_us
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.nodes import WindowSpec

_WEEKS = re.compile(r"\d+w")
_MONDAY = 4 * 86_400_000_000
"""1970-01-05, in microseconds: whole weeks start on Mondays, as in Polars."""


def tumbling(size: str | timedelta) -> WindowSpec:
    """Windows of one size, side by side, aligned as Polars' ``dt.truncate`` aligns.

    Args:
        size: How long: ``"1h"``, ``"15m"``, ``"1d"``, ``"1w"`` (from Monday), or a timedelta.

    Example:
        >>> tumbling("1h").words
        'tumbling 1h'
    """
    length = duration_us(size, what="window size", zero=False)
    return WindowSpec("tumbling", length, length, _origin(size), f"tumbling {_text(size)}")


def hopping(size: str | timedelta, every: str | timedelta) -> WindowSpec:
    """Windows of one size that start every so often and overlap: a row is in ``size / every`` of them.

    Args:
        size: How long a window is.
        every: How far apart they start; at most ``size``.

    Example:
        >>> hopping("10s", "2s").words
        'hopping 10s every 2s'
    """
    length = duration_us(size, what="window size", zero=False)
    step = duration_us(every, what="window step", zero=False)
    if step > length:
        raise PipelineRefused(
            f"hopping windows of {_text(size)} every {_text(every)} leave gaps whose rows would be in no window: "
            "choose every <= size"
        )
    words = f"hopping {_text(size)} every {_text(every)}"
    return WindowSpec("tumbling" if step == length else "hopping", length, step, _origin(every), words)


def _origin(step: str | timedelta) -> int:
    return _MONDAY if isinstance(step, str) and _WEEKS.fullmatch(step) else 0


def _text(length: str | timedelta) -> str:
    return length if isinstance(length, str) else str(length)
