"""What topics, groups, steps and jobs may be called, and what someone probably meant to type.

Names become parts of file names, addresses and metric labels, so that the alphabet is small on purpose: a
name of it cannot leave a directory, and needs no quoting anywhere.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from mamba_stream.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST_NAME = 200

_FOREIGN = re.compile(r"[^A-Za-z0-9._-]")
_FOREIGN_RUN = re.compile(r"[^A-Za-z0-9._]+")


def check_name(name: str, what: str = "topic", *, internal: bool = False) -> str:
    """Return the name if it is allowed.

    Args:
        name: 1 to 200 letters, digits, dots, underscores and hyphens of ASCII, not dots only, and not
            beginning with an underscore.
        what: What is being named, for the message.
        internal: Permits the leading underscore, which marks what the engine made for itself.

    Raises:
        InvalidName: The name is not allowed; the message says why.
    """
    if not isinstance(name, str):
        raise InvalidName(f"a {what} name is a str, not {type(name).__name__}: {name!r:.80}")
    if not name:
        raise InvalidName(f"a {what} name must not be empty")
    if len(name) > LONGEST_NAME:
        raise InvalidName(
            f"{what} name {name[:24]!r}… is {len(name)} characters long: at most {LONGEST_NAME} are allowed"
        )
    if foreign := _FOREIGN.search(name):
        raise InvalidName(
            f"{what} name {name!r} contains {foreign.group()!r}: "
            "only the letters a-z and A-Z, digits, '.', '_' and '-' are allowed"
        )
    if not name.strip("."):
        raise InvalidName(f"{what} name {name!r} must not consist of dots only")
    if name.startswith("_") and not internal:
        raise InvalidName(f"{what} name {name!r} must not begin with '_': such names are the engine's own")
    return name


def plain_name(words: str) -> str:
    """A name that :func:`check_name` allows, made of words that it might not.

    Example:
        >>> plain_name("files /tmp/out")
        'files-tmp-out'
    """
    return _FOREIGN_RUN.sub("-", words)[:LONGEST_NAME].strip("-._") or "unnamed"


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Words to append to an error about an unknown name: ``, did you mean 'price'?`` or nothing.

    Args:
        name: What was asked for.
        choices: What exists.

    Example:
        >>> did_you_mean("prise", ["price", "symbol"])
        ", did you mean 'price'?"
        >>> did_you_mean("volume", ["price", "symbol"])
        ''
    """
    folded: dict[str, str] = {}
    for choice in choices:
        folded.setdefault(choice.casefold(), choice)
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f", did you mean {folded[near[0]]!r}?" if near else ""
