"""How windows are described: ``tumbling("1h")``, ``hopping("10s", "2s")``, ``session("30m")``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

from mamba_stream.core.durations import duration_us
from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import PipelineRefused
from mamba_stream.plan.nodes import Changing, WindowSpec

_WEEKS = re.compile(r"\d+w")
_CALENDAR = re.compile(r"(\d+)(d|w|mo|q|y)")
_MONDAY = 4 * 86_400_000_000
"""1970-01-05, in microseconds: whole weeks start on Mondays, as in Polars."""


def tumbling(size: str | timedelta, *, offset: str | timedelta = "0s") -> WindowSpec:
    """Windows of one size, side by side, aligned as Polars' ``dt.truncate`` aligns.

    Days, weeks (from Monday), months, quarters and years are those of the time column's zone: a day may have 23 hours.

    Args:
        size: How long: ``"15m"``, ``"1h"``, ``"1d"``, ``"1w"``, ``"1mo"``, ``"1q"``, ``"1y"``, or a timedelta.
        offset: How much later each starts: ``tumbling("1d", offset="6h")`` are days from six to six.

    Example:
        >>> tumbling("1h", offset="15m").words
        'tumbling 1h offset 15m'
    """
    moved, words = _offset(offset)
    calendar = _calendar(size)
    if calendar and not calendar.endswith(("d", "w")):
        return WindowSpec("tumbling", 0, 0, 0, f"tumbling {size}{words}", calendar, moved)
    length = duration_us(size, what="window size", zero=False)
    text = f"tumbling {_text(size)}{words}"
    return WindowSpec("tumbling", length, length, _origin(size) + moved, text, calendar, moved)


def hopping(size: str | timedelta, every: str | timedelta, *, offset: str | timedelta = "0s") -> WindowSpec:
    """Windows of one size that start every so often and overlap: a row is in ``size / every`` of them.

    Args:
        size: How long a window is.
        every: How far apart they start; at most ``size``.
        offset: How much later each starts.

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
    moved, words = _offset(offset)
    text = f"hopping {_text(size)} every {_text(every)}{words}"
    kind: Literal["tumbling", "hopping"] = "tumbling" if step == length else "hopping"
    return WindowSpec(kind, length, step, _origin(every) + moved, text)


def cumulative(size: str | timedelta, step: str | timedelta, *, offset: str | timedelta = "0s") -> WindowSpec:
    """Windows that start together and grow: ``cumulative("1d", "1h")`` gives the day so far, every hour.

    Args:
        size: How long the last of them is; then the next ones start.
        step: How much longer each is than the one before; ``size`` is a multiple of it.
        offset: How much later all start.

    Example:
        >>> cumulative("1d", "1h").words
        'cumulative 1d by 1h'
    """
    length = duration_us(size, what="window size", zero=False)
    growth = duration_us(step, what="window step", zero=False)
    if length % growth:
        raise PipelineRefused(
            f"cumulative windows of {_text(size)} cannot grow by {_text(step)}: choose a step of which the size is a "
            "multiple"
        )
    moved, words = _offset(offset)
    text = f"cumulative {_text(size)} by {_text(step)}{words}"
    return WindowSpec("cumulative", length, growth, _origin(size) + moved, text)


def session(gap: str | timedelta) -> WindowSpec:
    """Windows of activity: rows of a key belong together as long as no two neighbours are more than ``gap`` apart.

    ``window_start`` is the time of the first row, ``window_end`` that of the last plus ``gap``; a row of exactly that
    time still belongs to the session. A row is late when the watermark has passed its time plus ``gap``, whatever
    sessions are there: so a session is given out once the watermark has passed its end by ``gap``, when no row on time
    can touch it any more.

    Args:
        gap: How long a pause may be.

    Example:
        >>> session("30m").words
        'session 30m'
    """
    length = duration_us(gap, what="session gap", zero=False)
    return WindowSpec("session", length, length, 0, f"session {_text(gap)}")


def rows(count: int) -> WindowSpec:
    """Windows of so many rows of a key, side by side, in the order of the stream.

    ``window_start`` is the time of the first row, ``window_end`` one tick behind that of the last. Where the source
    ends, the last window of a key may have fewer rows.

    Args:
        count: How many rows.

    Example:
        >>> rows(100).words
        '100 rows'
    """
    if not is_whole(count) or count < 1:
        raise PipelineRefused(f"rows({count!r:.80}): give a number of rows from 1 on")
    return WindowSpec("rows", 0, 0, 0, f"{count} rows", count=count)


def changing(
    spec: WindowSpec,
    emit: str,
    every: str | timedelta | None,
    corrections: str | timedelta | None,
) -> Changing | None:
    """When windows give their results, where that is not once at their end.

    Raises:
        PipelineRefused: They cannot.
    """
    if emit not in ("final", "update"):
        raise PipelineRefused(f"window: emit={emit!r}; choose 'final' or 'update'")
    if emit == "final" and every is None and corrections is None:
        return None
    if spec.kind == "rows":
        raise PipelineRefused(
            f"window: {spec.words} gives its results once: several windows of a key may begin and end at the same "
            "time, so that nothing says which results others take the place of. For what the rows of a key amount to "
            "so far, take group_by(...).agg(...)"
        )
    if spec.kind == "session" and (every is not None or corrections is not None):
        raise PipelineRefused(
            f"window: {spec.words} takes emit='update', which gives every change at once; every= and corrections= are "
            "for windows whose end is known: tumbling, hopping and cumulative ones"
        )
    early = None if every is None else duration_us(every, what="window every", zero=False)
    after = 0 if corrections is None else duration_us(corrections, what="window corrections", zero=False)
    return Changing(emit == "update" and early is None, early, after)


def _calendar(size: str | timedelta) -> str:
    """The size where it is one of days or more, as Polars takes it."""
    found = _CALENDAR.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        return ""
    if not int(found[1]):
        raise PipelineRefused(f"window size must be longer than nothing: {size!r}")
    return found[0]


def _offset(offset: str | timedelta) -> tuple[int, str]:
    moved = duration_us(offset, what="window offset", negative=True)
    return moved, f" offset {_text(offset)}" if moved else ""


def _origin(step: str | timedelta) -> int:
    return _MONDAY if isinstance(step, str) and _WEEKS.fullmatch(step) else 0


def _text(length: str | timedelta) -> str:
    return length if isinstance(length, str) else str(length)
