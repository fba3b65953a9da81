"""How much of what tests draw at random is drawn: a part of it by default, all of it in the slow suite."""

from __future__ import annotations

import os

_THOROUGH = bool(os.environ.get("MAMBA_TESTS_THOROUGH"))


def examples(most: int) -> int:
    """How many examples a property is tried with, of so many that it is worth.

    Every run draws others, so that what one run does not come to, the next ones do.
    """
    return most if _THOROUGH else max(10, most // 4)
