"""Where the rows of a batch come from that was made of several: when they were appended, and which of them are left.

It lies in the batch's message, before the checksums of its columns, where every Arrow reader passes over it; all
numbers are little-endian. First how many appends there were, as 4 bytes; the first offset of each, counted from the
batch's own, 4 bytes each; when each was, 8 bytes each; then, unless all rows are left, a bitmap: bit n, of the lowest
value first, is 1 where the row of offset n is left. Zero bytes at its end are left away, but for the first. Pure
functions over bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mamba_stream.log.format import Damaged

_COUNT: Final = struct.Struct("<I")
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Origins:
    """Where rows come from.

    Attributes:
        firsts: The first offset of each append, counted from the batch's own; ascending.
        times: When each was, in microseconds since the epoch.
        kept: The offset of each row that is left, counted likewise; ``None`` where all are.
    """

    firsts: Offsets
    times: Offsets
    kept: Offsets | None = None


def pack(origins: Origins) -> bytes:
    """The origins as bytes.

    >>> unpack(pack(Origins(np.array([0, 5]), np.array([7, 8]), np.array([1, 9]))), 2).kept.tolist()
    [1, 9]
    """
    parts = [
        _COUNT.pack(len(origins.firsts)),
        origins.firsts.astype("<u4").tobytes(),
        origins.times.astype("<i8").tobytes(),
    ]
    if origins.kept is not None:
        bits = np.zeros(int(origins.kept[-1]) + 1 if len(origins.kept) else 0, np.uint8)
        bits[origins.kept] = 1
        # One byte at least, which tells it from where all are left.
        parts.append(np.packbits(bits, bitorder="little").tobytes() or b"\0")
    return b"".join(parts)


def unpack(data: bytes | memoryview, rows: int | None) -> Origins:
    """The origins in these bytes, of a batch of so many rows, where that is known.

    Raises:
        Damaged: They are not those of such a batch.
    """
    if len(data) < _COUNT.size:
        raise Damaged("where its rows come from is cut off")
    (count,) = _COUNT.unpack_from(data)
    end = _COUNT.size + 12 * count
    if len(data) < end:
        raise Damaged("where its rows come from is cut off")
    firsts = np.frombuffer(data, "<u4", count, _COUNT.size).astype(np.int64)
    times = np.frombuffer(data, "<i8", count, _COUNT.size + 4 * count).astype(np.int64)
    if len(data) == end:
        return Origins(firsts, times)
    bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=end), bitorder="little")
    kept = np.flatnonzero(bits).astype(np.int64)
    if rows is not None and len(kept) != rows:
        raise Damaged(f"{len(kept)} rows are said to be left, and there are {rows}")
    return Origins(firsts, times, kept)
