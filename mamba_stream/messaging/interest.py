"""Which topics a client wants: named ones, and those whose names fit a pattern, now or later. A plain value."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from mamba_stream.core.names import check_name
from mamba_stream.errors import InvalidInput

_GLOB: Final = re.compile(r"[*?\[]")
_FLAGS: Final = re.IGNORECASE | re.ASCII | re.DOTALL | re.VERBOSE | re.MULTILINE
_MOST_BYTES: Final = 1_200
"""An interest is part of its client's record."""


class Interest(msgspec.Struct, frozen=True):
    """Topics by name and by pattern.

    Attributes:
        topics: Names, and globs (``orders.*``): no name has a ``*``, ``?`` or ``[``.
        regex: A regular expression that a whole name must match; empty for none.
        flags: Its flags.
    """

    topics: tuple[str, ...] = ()
    regex: str = ""
    flags: int = 0

    @property
    def named(self) -> tuple[str, ...]:
        """The topics that it names."""
        return tuple(topic for topic in self.topics if not _GLOB.search(topic))

    @property
    def open(self) -> bool:
        """Whether topics that nobody named may belong to it."""
        return bool(self.regex) or len(self.named) < len(self.topics)

    def wants(self, name: str) -> bool:
        """Whether a topic of this name belongs to it.

        >>> Interest(("orders.*", "audit")).wants("orders.eu")
        True
        """
        if name in self.topics:
            return True
        if self.regex and _compiled(self.regex, self.flags).fullmatch(name):
            return True
        return any(fnmatch.fnmatchcase(name, topic) for topic in self.topics if _GLOB.search(topic))


def interest_in(what: Any) -> Interest:
    """The interest that an argument means: a topic, a glob, a list of them, or a compiled regular expression.

    >>> import re
    >>> interest_in(["orders", "payments"]).named
    ('orders', 'payments')
    >>> interest_in(re.compile("orders[.](eu|us)")).wants("orders.eu")
    True

    Raises:
        InvalidInput: It is none of these, or too long to be told to others.
    """
    if isinstance(what, re.Pattern):
        if not isinstance(what.pattern, str) or not what.pattern:
            raise InvalidInput(f"a pattern of topic names is not empty, and text: {what!r:.80}")
        interest = Interest(regex=what.pattern, flags=what.flags & int(_FLAGS))
    else:
        names = [what] if isinstance(what, str) else what
        if not isinstance(names, Iterable) or isinstance(names, bytes):
            raise InvalidInput(
                f"{what!r:.80} names no topic: give a name, a list of names, a glob such as 'orders.*', "
                "or re.compile(...)"
            )
        interest = Interest(tuple(dict.fromkeys(_checked(name) for name in names)))
        if not interest.topics:
            raise InvalidInput("an empty list names no topic: give at least one")
    if len(msgspec.msgpack.encode(interest)) > _MOST_BYTES:
        raise InvalidInput(
            f"these are too many topics to be told to others, more than {_MOST_BYTES} bytes of names: use a glob "
            "such as 'orders.*' or a regular expression, or several consumers"
        )
    return interest


def _checked(name: Any) -> str:
    if isinstance(name, str) and _GLOB.search(name):
        return name
    return check_name(name, "topic")


@lru_cache(maxsize=256)
def _compiled(regex: str, flags: int) -> re.Pattern[str]:
    return re.compile(regex, flags)
