"""Numbers of bytes and shares of them, from what people write."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Self

from mamba_stream.errors import InvalidInput

_UNITS: Final = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_WRITTEN: Final = _UNITS | {unit.replace("I", ""): size for unit, size in _UNITS.items()}
_MOST: Final = (1 << 63) - 1


class Size(int):
    """A number of bytes."""

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _UNITS[unit.upper()] == 0:
                return f"{self // _UNITS[unit.upper()]}{unit}"
        return f"{int(self)}B"


def size_of(value: Any) -> Size:
    """A size as people write it; units are powers of 1024, with or without the i.

    Raises:
        InvalidInput: It is none.

    Example:
        >>> int(size_of("10GB")), str(size_of("1.5 KiB"))
        (10737418240, '1536B')
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return Size(value)
    text = value.strip() if isinstance(value, str) else ""
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    try:
        size = float(number) * _WRITTEN[text[len(number) :].upper()]
        if not 0 <= size <= _MOST:
            raise ValueError(size)
        return Size(size)
    except (KeyError, ValueError):
        raise InvalidInput("give a size, as 512MiB or 1GiB, or a number of bytes") from None


def in_words(size: int) -> str:
    """A number of bytes as people read it.

    Example:
        >>> in_words(1_700_000_000), in_words(300)
        ('1.6 GiB', '300 B')
    """
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):,.1f} {unit}"
    return f"{size} B"


class Share(float):
    """A part of a whole, between nothing and all of it."""

    def __str__(self) -> str:
        return f"{round(100 * self, 4):g}%"

    __repr__ = __str__


def share_of(value: Any) -> Share:
    """A share as people write it, as ``"90%"`` or ``0.9``.

    Raises:
        InvalidInput: It is none, or nothing, or everything.

    Example:
        >>> str(share_of("92.5%")), share_of(0.5) == 0.5
        ('92.5%', True)
    """
    number, whole = value, 1
    if isinstance(value, str) and value.strip().endswith("%"):
        number, whole = value.strip()[:-1], 100
    try:
        share = -1.0 if isinstance(number, bool) else float(number) / whole
    except (TypeError, ValueError):
        share = -1.0
    if not 0 < share < 1:
        raise InvalidInput("give a percentage above 0% and below 100%, as 90%, or off")
    return Share(share)


class BallastSize(int):
    """A number of bytes, or as many as are of use."""

    AUTO: ClassVar[Self]

    def __str__(self) -> str:
        return "auto" if self < 0 else str(Size(self))


BallastSize.AUTO = BallastSize(-1)


def ballast_size(value: Any) -> BallastSize:
    """A size, or ``auto``.

    Raises:
        InvalidInput: It is neither.
    """
    if isinstance(value, BallastSize) or value == "auto":
        return BallastSize.AUTO if value == "auto" else value
    try:
        return BallastSize(0 if value == "off" else size_of(value))
    except InvalidInput:
        raise InvalidInput("give a size, as 64MiB, 0 or off for none, or auto") from None
