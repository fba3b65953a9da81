"""Numbers of bytes, from what people write."""

from __future__ import annotations

from typing import Any, Final

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
