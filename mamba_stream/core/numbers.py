"""Whole numbers that come from users: offsets, partitions, counts."""

from __future__ import annotations

from numbers import Integral
from typing import TypeGuard


def is_whole(value: object, low: int = 0, high: int = (1 << 63) - 1) -> TypeGuard[int]:
    """Whether the value is a whole number within the bounds, both inclusive. A bool is none, NumPy's ints are.

    >>> is_whole(3), is_whole(-1), is_whole(True), is_whole(3.0)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return low <= int(value) <= high
