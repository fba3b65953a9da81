"""How heavy a regular expression is, before it is compiled.

Matching is linear in the text, times the size of what the expression stands for once its repetitions are written
out: ``((a{100}){100}){100}`` is 21 characters and a million states. What is counted here is never less than that.
"""

from __future__ import annotations

import re
from typing import Final

from mamba_stream.core.predicates.limits import HEAVIEST_PATTERN, LONGEST_PATTERN
from mamba_stream.errors import InvalidInput

_CLASS: Final = 16
"""A class such as \\w or \\p{Greek}, in UTF-8, is an automaton of its own."""
_PIECE: Final = re.compile(
    r"""(?P<wide>\\[pP](?:\{[^}]*\}|.)|\\[wWdDsSbB](?:\{[a-z-]*\})?|\.|[^\x00-\x7f])"""
    r"""|(?P<open>\((?:\?(?:P?<\w+>|(?P<flags>[a-zA-Z-]*)(?P<only>[:)])))?)"""
    r"""|(?P<close>\))|(?P<count>\{[^}]*\})|(?P<class>\[)|(?P<one>\\[xuU]\{[^}]*\}|\\.|.)""",
    re.DOTALL,
)
_COUNT: Final = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")


def check_pattern(pattern: str) -> None:
    """Refuses a regular expression that is too long, or stands for too much.

    Whether it is one at all, Polars says.

    Raises:
        InvalidInput: With what it weighs and what it may.
    """
    shown = repr(pattern[:40])
    if len(pattern) > LONGEST_PATTERN:
        raise InvalidInput(
            f"the regular expression {shown}… has {len(pattern):,} characters: at most {LONGEST_PATTERN} are allowed"
        )
    weight = _weight(pattern, shown)
    if weight > HEAVIEST_PATTERN:
        raise InvalidInput(
            f"the regular expression {shown} stands for {weight:,} characters with its repetitions written out (a"
            f" class counts {_CLASS}): at most {HEAVIEST_PATTERN:,} are allowed"
        )


def _weight(pattern: str, shown: str) -> int:
    enclosing: list[int] = []  # what the groups around weigh so far
    total = last = at = 0
    while found := _PIECE.match(pattern, at):
        at = found.end()
        if found["count"] is not None:
            more = last * (_times(found["count"]) - 1)
            last += more
            total += more
            continue
        if found["close"] is not None:
            if not enclosing:
                raise InvalidInput(f"the regular expression {shown} closes a group that it does not open")
            last, total = total + 1, enclosing.pop()
        elif found["open"] is not None:
            if "x" in (found["flags"] or ""):
                raise InvalidInput(f"the regular expression {shown} has the flag x: write it without spaces")
            if found["only"] != ")":
                enclosing.append(total)
                total = 0
            last = 0
        elif found["class"] is not None:
            at = _end_of_class(pattern, at)
            wide = sum(step in "\\[^" or step > "\x7f" for step in pattern[found.end() : at])
            last = 1 + wide * _CLASS
        else:
            last = 1 if found["one"] is not None else _CLASS
        total += last
    return total + sum(enclosing)


def _times(count: str) -> int:
    """How often at most something is repeated; braces that say no number stand for themselves."""
    found = _COUNT.fullmatch(count)
    return max(1, *(int(digits or 0) for digits in found.groups(default=""))) if found else 1


def _end_of_class(pattern: str, at: int) -> int:
    """Where a class in brackets ends, those within it included."""
    depth, first = 1, True
    while depth and at < len(pattern):
        step = pattern[at]
        if step == "\\":
            at += 1
        elif step == "[":
            depth += 1
        elif step == "]" and not first:
            depth -= 1
        first = step == "[" or (first and step == "^")
        at += 1
    return at
