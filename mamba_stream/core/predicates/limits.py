"""How large a predicate may be. What is larger is refused where it arrives, and not sent by us."""

from __future__ import annotations

from typing import Final

MOST_BYTES: Final = 256 * 1024
MOST_NODES: Final = 1_000
"""Columns, literals and operators."""
DEEPEST: Final = 32
MOST_VALUES: Final = 10_000
"""Of all lists for ``is_in`` together."""
MOST_PATTERNS: Final = 8
"""Regular expressions."""
LONGEST_PATTERN: Final = 256
"""Characters of a regular expression."""
HEAVIEST_PATTERN: Final = 1_000
"""Characters and classes that a regular expression stands for once its repetitions are written out."""
LONGEST_ZONE: Final = 64
