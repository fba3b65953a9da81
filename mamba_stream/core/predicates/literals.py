"""Types and values of literals: how they are written, what is refused, and what Polars makes of them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import polars as pl

from mamba_stream.core.names import did_you_mean
from mamba_stream.core.predicates.forms import Scalar, Type
from mamba_stream.core.predicates.limits import LONGEST_ZONE
from mamba_stream.errors import InvalidInput

INT: Final[Type] = ("Int",)
"""An integer without a type of its own: it takes that of what it stands beside, as ``pl.lit(3)`` does."""
FLOAT: Final[Type] = ("Float",)
"""The same for ``pl.lit(1.5)``."""
NULL: Final[Type] = ("Null",)

_PLAIN: Final[dict[str, pl.DataType]] = {
    name: getattr(pl, name)()
    for name in (
        "Null Boolean Int8 Int16 Int32 Int64 Int128 UInt8 UInt16 UInt32 UInt64 UInt128 Float16 Float32 Float64"
        " String Binary Date Time"
    ).split()
}
_UNITS: Final = ("ms", "us", "ns")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]+")
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.([0-9]+))?")
_MOST_DIGITS: Final = 38
_PER_DAY: Final = {"ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_INT64: Final = (-(2**63), 2**63 - 1)
_MOST_DAYS: Final = 95_000_000
"""From the epoch, back or on, 260,000 years: Polars panics where it prints much more."""
_RANGES: Final[dict[str, tuple[int, int]]] = {
    # MessagePack has no larger integers.
    **dict.fromkeys(("Int", "Int128"), (-(2**63), 2**64 - 1)),
    "UInt128": (0, 2**64 - 1),
    **{f"Int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    "Date": (-_MOST_DAYS, _MOST_DAYS),
    "Time": (0, _PER_DAY["ns"] - 1),
    "Datetime": _INT64,
    "Duration": _INT64,
}
_NAMES: Final = (*_PLAIN, "Datetime", "Duration", "Decimal")


def dtype(written: Type) -> pl.DataType:
    """The Polars type.

    >>> dtype(("Datetime", "us", "UTC"))
    Datetime(time_unit='us', time_zone='UTC')

    Raises:
        InvalidInput: There is no such type, or it has other parameters.
    """
    name, *parameters = written or (None,)
    if isinstance(name, str):
        if name in _PLAIN and not parameters:
            return _PLAIN[name]
        match name, parameters:
            case "Datetime", [str(unit), None | str() as zone] if unit in _UNITS:
                return _datetime(unit, zone)
            case "Duration", [str(unit)] if unit in _UNITS:
                return pl.Duration(unit)  # type: ignore[arg-type]  # it is one of the three
            case "Decimal", [int(precision), int(scale)] if (
                0 <= scale <= precision <= _MOST_DIGITS and precision
            ):
                return pl.Decimal(precision, scale)
    raise InvalidInput(
        f"{_shown(written)} is no type{did_you_mean(str(name), _NAMES)}; there are {', '.join(_PLAIN)}, and with"
        ' parameters ["Datetime", unit, zone or null], ["Duration", unit] with a unit of ms, us, ns, and ["Decimal",'
        f" precision, scale] of at most {_MOST_DIGITS} digits"
    )


def _shown(written: object) -> str:
    return repr(list(written) if isinstance(written, tuple) else written)[:100]


@lru_cache(maxsize=256)
def _datetime(unit: Any, zone: str | None) -> pl.DataType:
    made = pl.Datetime(unit, zone)
    if zone is not None:
        try:
            if len(zone) > LONGEST_ZONE or not _ZONE.fullmatch(zone):
                raise ValueError(zone)
            pl.Series([0], dtype=pl.Int64).cast(made)
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise InvalidInput(
                f"{zone[:LONGEST_ZONE]!r} is no time zone: 'UTC' and 'Europe/Paris' are"
            ) from error
    return made


def written(made: pl.DataType) -> Type | None:
    """How a type is written, or None where a literal cannot have it.

    >>> written(pl.Duration("ms"))
    ('Duration', 'ms')
    """
    match made:
        case pl.Datetime():
            return ("Datetime", made.time_unit, made.time_zone)
        case pl.Duration():
            return ("Duration", made.time_unit)
        case pl.Decimal():
            return ("Decimal", made.precision, made.scale)
    name = str(made)
    return (name,) if name in _PLAIN else None


def check_value(kind: Type, value: Scalar, *, among: bool = False) -> None:
    """Refuses a value that is not of its type.

    Args:
        kind: The type.
        value: The value.
        among: It is one of several, for which the types without a width do not do.

    Raises:
        InvalidInput: With the value and what it should be.
    """
    if not among and kind in (INT, FLOAT):
        if value is None:
            raise InvalidInput('null has a type of its own: write ["literal", ["Null"], null]')
    else:
        dtype(kind)
    if value is not None and not _fits(kind, value):
        raise InvalidInput(f"{_shown(value)} is no {_shown(kind)}: {_WANTED.get(str(kind[0]), _INTEGER)}")


_INTEGER: Final = (
    "write an integer within its range; times count days (Date), nanoseconds (Time) or their unit"
)
_WANTED: Final = {
    "Null": "the only value of that type is null",
    "Boolean": "write true or false",
    "String": "write text",
    "Binary": "write bytes",
    "Decimal": "write its digits as text, as in '-1.50', no more of them than the type has",
    **dict.fromkeys(("Float", "Float16", "Float32", "Float64"), "write a floating-point number"),
}


def _fits(kind: Type, value: Scalar) -> bool:
    name = str(kind[0])
    if name in _RANGES:
        low, high = _RANGES[name]
        if name == "Datetime":
            most = _MOST_DAYS * _PER_DAY[str(kind[1])]
            low, high = max(low, -most), min(high, most)
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if name == "Decimal":
        return isinstance(value, str) and _fits_decimal(value, *kind[1:])
    wanted: type | tuple[type, ...] = _PYTHON[name]
    return isinstance(value, wanted)


_PYTHON: Final[dict[str, type | tuple[type, ...]]] = {
    "Null": (),
    "Boolean": bool,
    "String": str,
    "Binary": bytes,
    **dict.fromkeys(("Float", "Float16", "Float32", "Float64"), float),
}


def _fits_decimal(text: str, precision: Any, scale: Any) -> bool:
    found = _DECIMAL.fullmatch(text) if len(text) <= _MOST_DIGITS + 3 else None
    if found is None:
        return False
    whole = text.lstrip("-").partition(".")[0].lstrip("0")
    return bool(len(found[1] or "") <= scale and len(whole) <= precision - scale)


def literal(kind: Type, value: Scalar) -> pl.Expr:
    """A value that was checked, as Polars' literal."""
    if kind in (INT, FLOAT) or (kind == NULL and value is None):
        return pl.lit(value)
    return pl.lit(_prepared(kind, value), dtype=dtype(kind))


def values(kind: Type, among: tuple[Scalar, ...]) -> pl.Expr:
    """Values that were checked, as Polars' literal of one list."""
    return pl.lit([_prepared(kind, value) for value in among], dtype=pl.List(dtype(kind)))


def _prepared(kind: Type, value: Scalar) -> Any:
    return Decimal(value) if kind[0] == "Decimal" and isinstance(value, str) else value
