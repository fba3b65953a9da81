"""Whole numbers that come from users: offsets, partitions, counts."""

from __future__ import annotations

from typing import TypeGuard


def is_whole(value: object, low: int = 0, high: int = (1 << 63) - 1) -> TypeGuard[int]:
    """Whether the value is an int (a bool is none) within the bounds, both inclusive.

    >>> is_whole(3), is_whole(-1), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
