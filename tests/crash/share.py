"""What the members of a shared group and their test agree on."""

from __future__ import annotations

GROUP = "storm"
VISIBILITY = "1s"
ATTEMPTS = 1000
"""So many that being killed again and again gives up nothing."""


def is_hopeless(number: int) -> bool:
    return number % 97 == 13


def is_weak(number: int) -> bool:
    return number % 11 == 5


def is_transactional(number: int) -> bool:
    return number % 2 == 0
