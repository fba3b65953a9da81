"""Lengths of time as people write them."""

from __future__ import annotations

from datetime import timedelta

_MICROSECOND = timedelta(microseconds=1)
_UNITS = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
    ("ms", timedelta(milliseconds=1)),
    ("us", _MICROSECOND),
)


def in_units(length: timedelta, *, roughly: bool = False) -> str:
    """A duration as ``lateness=`` takes it.

    Args:
        length: The duration.
        roughly: Round it up to what is worth saying: long ones to minutes, short ones to milliseconds.

    Example:
        >>> in_units(timedelta(hours=5, minutes=3, seconds=0.2), roughly=True)
        '5h4m'
        >>> in_units(timedelta(hours=1, seconds=0.2))
        '1h200ms'
    """
    step = _step(length) if roughly else _MICROSECOND
    rest = -(-length // step) * step
    text = ""
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _step(length: timedelta) -> timedelta:
    if length >= timedelta(hours=1):
        return timedelta(minutes=1)
    return timedelta(seconds=1) if length >= timedelta(seconds=10) else timedelta(milliseconds=1)
