"""A predicate as bytes, and back."""

from __future__ import annotations

from mamba_stream.core.predicates.examining import examine
from mamba_stream.core.predicates.forms import Predicate, from_bytes, to_bytes


def encode(predicate: Predicate) -> bytes:
    """The predicate as msgpack.

    Raises:
        InvalidInput: It is none, or too large: ``decode`` would not take it.
    """
    examine(predicate)
    return to_bytes(predicate)


def decode(data: bytes) -> Predicate:
    """The predicate in bytes from anywhere.

    >>> from mamba_stream.core.predicates.forms import Column, Operator
    >>> decode(encode(Operator("is_null", (Column("price"),)))).name
    'is_null'

    Raises:
        InvalidInput: They are none: with the piece that is not right, and what would be.
    """
    predicate = from_bytes(data)
    examine(predicate)
    return predicate
