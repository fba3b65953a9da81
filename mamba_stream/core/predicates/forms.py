"""The three things that a predicate is made of, and their bytes.

A predicate is a tree of columns, literals and operators, and travels as msgpack: every node is an array whose
first element says what it is. ``docs/predicates.md`` has the tables. Nothing here knows Polars.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mamba_stream.core.predicates.limits import MOST_BYTES
from mamba_stream.errors import InvalidInput

#: A type as it is written: its name in the words of Polars, and its parameters: ``("Datetime", "us", "UTC")``.
Type = tuple[str | int | None, ...]
Scalar = bool | int | float | str | bytes | None


class Column(msgspec.Struct, frozen=True, array_like=True, tag="column", forbid_unknown_fields=True):
    """The column of this name."""

    name: str


class Literal(msgspec.Struct, frozen=True, array_like=True, tag="literal", forbid_unknown_fields=True):
    """One value; ``None`` is null. Times are ticks of their type, decimals text."""

    dtype: Type
    value: Any  # a Scalar: msgspec tells no text from bytes in a union, so examine does


class Values(msgspec.Struct, frozen=True, array_like=True, tag="values", forbid_unknown_fields=True):
    """The values among which ``is_in`` looks."""

    dtype: Type
    values: tuple[Any, ...]  # Scalars


class Operator(msgspec.Struct, frozen=True, array_like=True, tag="operator", forbid_unknown_fields=True):
    """An operator of the list, over its inputs. Options that are left out have their defaults."""

    name: str
    inputs: tuple[Column | Literal | Values | Operator, ...]
    options: dict[str, bool | str | Type] = {}


Predicate = Column | Literal | Values | Operator

_decoder: Final[msgspec.msgpack.Decoder[Predicate]] = msgspec.msgpack.Decoder(Predicate)


def to_bytes(predicate: Predicate) -> bytes:
    """The predicate as msgpack.

    Raises:
        InvalidInput: It is too long.
    """
    data = msgspec.msgpack.encode(predicate)
    _check_length(data)
    return data


def from_bytes(data: bytes) -> Predicate:
    """A predicate of the right shape; whether it means something is not asked here.

    Raises:
        InvalidInput: These bytes are no predicate.
    """
    _check_length(data)
    try:
        return _decoder.decode(data)
    except RecursionError as error:
        raise InvalidInput("the predicate is nested too deeply") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f"these bytes are no predicate: {error}") from error


def _check_length(data: bytes) -> None:
    if len(data) > MOST_BYTES:
        raise InvalidInput(
            f"the predicate has {len(data):,} bytes: at most {MOST_BYTES:,} are allowed; filter by what is"
            " selective, and apply the rest to the rows that come"
        )
