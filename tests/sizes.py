"""How much tests do: of what they draw at random, and of all combinations, a part by default, all in the slow suite."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest

_THOROUGH = bool(os.environ.get("MAMBA_TESTS_THOROUGH"))


def examples(most: int, *, least: int = 10) -> int:
    """How many examples a property is tried with, of so many that it is worth.

    Every run draws others, so that what one run does not come to, the next ones do.
    """
    return most if _THOROUGH else max(least, most // 6)


def crossed(first: Iterable[Any], *others: Iterable[Any], every: int, begin: int = 0) -> list[Any]:
    """Parameters: all combinations, of which all but one in so many are slow.

    Those that are not lie along the diagonal, so that with ``every`` combinations of the others each of the first has
    one, and each of the others is among them.

    Args:
        first: What is to be tried, each on its own.
        others: In what ways.
        every: One in so many is tried by default.
        begin: Where the diagonal begins.
    """
    return [
        pytest.param(one, *rest, marks=() if (row - column - begin) % every == 0 else pytest.mark.slow)
        for row, one in enumerate(first)
        for column, rest in enumerate(product(*others))
    ]
