"""What a group has of a partition that is neither waiting in line nor done: runs of offsets, as bitmaps in records.

A run is leased (somebody has its messages, until a deadline) or waits (for a retry, for its time, for an earlier
message of its key). Messages leave it one by one; what is left always fits a record. Plain values and functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]

WIDEST: Final = 8192
"""Offsets from the first to the last of a run: a bitmap of 1 KB, in records of at most 2 KB."""
KEY_GROUPS: Final = 256


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """A run of offsets of one partition, of which some are still open.

    Attributes:
        partition: The partition.
        base: The offset of the first bit.
        bits: Which are open: bit ``i``, little end first, is offset ``base + i``.
        attempt: How often its messages were delivered, the delivery under way included.
        session: Whose lease it is; 0 where it waits.
        keys: The key groups of its open messages, as a bitmap of 256; empty where no order is kept.
    """

    partition: int
    base: int
    bits: bytes
    attempt: int
    session: int = 0
    keys: bytes = b""

    @property
    def count(self) -> int:
        """How many are open."""
        return int.from_bytes(self.bits, "little").bit_count()

    @property
    def offsets(self) -> Offsets:
        """The open offsets, ascending, as int64."""
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), bitorder="little")
        return np.flatnonzero(bits) + self.base

    @property
    def lowest(self) -> int:
        """The first open offset."""
        bits = int.from_bytes(self.bits, "little")
        return self.base + (bits & -bits).bit_length() - 1

    @property
    def end(self) -> int:
        """One past the last open offset."""
        return self.base + int.from_bytes(self.bits, "little").bit_length()


_decoder = msgspec.msgpack.Decoder(Pending)


def pack(pending: Pending) -> bytes:
    r"""The run as a record.

    >>> unpack(pack(Pending(0, 40, b"\x05", 1))).offsets.tolist()
    [40, 42]
    """
    return msgspec.msgpack.encode(pending)


def unpack(value: bytes) -> Pending:
    return _decoder.decode(value)


def bits_of(offsets: Offsets, base: int) -> bytes:
    """The bitmap in which these offsets, none further than ``WIDEST`` behind ``base``, are set."""
    marks = np.zeros(int(offsets[-1]) - base + 1, np.uint8)
    marks[offsets - base] = 1
    return np.packbits(marks, bitorder="little").tobytes()


def without(bits: bytes, base: int, gone: Iterable[int]) -> bytes:
    """The bitmap after these offsets left."""
    left = int.from_bytes(bits, "little")
    for offset in gone:
        left &= ~(1 << (offset - base))
    return left.to_bytes((left.bit_length() + 7) // 8, "little")


def runs(offsets: Offsets) -> list[Offsets]:
    """Ascending offsets, cut so that each part fits a run."""
    parts = []
    while len(offsets):
        cut = int(np.searchsorted(offsets, offsets[0] + WIDEST))
        parts.append(offsets[:cut])
        offsets = offsets[cut:]
    return parts


def key_bitmap(groups: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> bytes:
    """The bitmap of these key groups: 32 bytes, bit ``g`` for group ``g``."""
    marks = np.zeros(KEY_GROUPS, np.uint8)
    marks[groups] = 1
    return np.packbits(marks, bitorder="little").tobytes()


def key_of(when: int, number: int) -> str:
    """The key of a run's record: keys sort by when a run falls due (its lease ends, or it may be delivered).

    Args:
        when: Microseconds since the epoch.
        number: Unique in the group and topic: the session that made it, and a count.
    """
    return f"{when:016x}.{number:016x}"


def due_of(key: str) -> int:
    """When the run with this key falls due."""
    return int(key[:16], 16)
