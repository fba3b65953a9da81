"""How long an acknowledged commit may wait for the disk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from mamba_stream.core.names import did_you_mean
from mamba_stream.errors import InvalidInput

Durability = Literal["commit", "interval", "os"]

PROMISES: Final[dict[Durability, str]] = {
    "commit": "on the disk before it is acknowledged: survives a loss of power",
    "interval": "on the disk within a second; a loss of power takes the log back to a commit of the second before",
    "os": "written, and left to the operating system: a loss of power takes the log back to its last flush",
}
"""What each of them promises. The death of a process, at any moment, loses nothing with any of them."""


def check_durability(asked: object) -> Durability:
    """What was asked for, if there is such a level.

    Raises:
        InvalidInput: There is none.

    >>> check_durability("os")
    'os'
    """
    if asked not in PROMISES:
        raise InvalidInput(
            f"durability={asked!r:.80}{did_you_mean(str(asked), list(PROMISES))}; choose "
            + ", ".join(f"{name!r} ({promise})" for name, promise in PROMISES.items())
        )
    return asked


def strictest(asked: Iterable[Durability]) -> Durability:
    """What satisfies all of them.

    >>> strictest(["os", "interval"])
    'interval'
    """
    found = set(asked)
    for level in PROMISES:
        if level in found:
            return level
    return "os"
