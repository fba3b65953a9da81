"""XXH64 with seed 0 over many rows at once, in NumPy.

The same function as the ``xxhash`` package computes, without a Python object for each row. Lanes are read
where they lie, so rows need no alignment, no padding and no common length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_P1: Final = 0x9E3779B185EBCA87
_P2: Final = 0xC2B2AE3D27D4EB4F
_P3: Final = 0x165667B19E3779F9
_P4: Final = 0x85EBCA77C2B2AE63
_P5: Final = 0x27D4EB2F165667C5
_M: Final = (1 << 64) - 1
_N1, _N2, _N3, _N4, _N5 = (np.uint64(p) for p in (_P1, _P2, _P3, _P4, _P5))
_STARTS: Final = ((_P1 + _P2) & _M, _P2, 0, -_P1 & _M)
_CHUNK: Final = 1 << 14
"""Rows at a time: what a step writes, the next one still finds in the processor's cache."""
_FEW: Final = 1_000
"""Below so many rows of varying length, calling the package for each beats a hundred NumPy calls."""
_FEW_LANES: Final = 48
"""The same for rows of one length, which take some twenty."""
_LONG: Final = 1024
"""Values from here on are hashed one by one: the package is fast where rows are long."""


def hash_lanes(lanes: Sequence[U64]) -> U64:
    """The hashes of rows that are all made of the same number of 64-bit lanes.

    Args:
        lanes: The first 8 bytes of every row as little-endian integers, the second 8 bytes, and so on.
    """
    rows = len(lanes[0])
    if rows < _FEW_LANES:
        text, width, digest = _interleaved(lanes), 8 * len(lanes), xxhash.xxh64_intdigest
        return np.array([digest(text[at : at + width]) for at in range(0, len(text), width)], np.uint64)
    hashes = np.empty(rows, np.uint64)
    for start in range(0, rows, _CHUNK):
        stop = min(start + _CHUNK, rows)
        hashes[start:stop] = _hash_chunk([lane[start:stop] for lane in lanes])
    return hashes


def _interleaved(lanes: Sequence[U64]) -> bytes:
    return (lanes[0] if len(lanes) == 1 else np.stack(lanes, axis=1)).astype("<u8", copy=False).tobytes()


def _hash_chunk(lanes: list[U64]) -> U64:
    rows, length = len(lanes[0]), 8 * len(lanes)
    spare = np.empty(rows, np.uint64)
    if length >= 32:
        sums = [np.full(rows, start, np.uint64) for start in _STARTS]
        whole = len(lanes) // 4 * 4
        for i, lane in enumerate(lanes[:whole]):
            _stripe(sums[i % 4], lane, spare)
        hashes = _merge(sums, spare)
        hashes += np.uint64(length)
        lanes = lanes[whole:]
    else:
        hashes = np.full(rows, _P5 + length, np.uint64)
    for lane in lanes:
        _mix_8(hashes, lane, spare)
    return _avalanche(hashes, spare)


def hash_slices(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    """The hashes of stretches of one buffer.

    Args:
        data: The buffer.
        starts: Where each row begins.
        lengths: How many bytes each row has.
    """
    rows = len(starts)
    if rows < _FEW:
        return _hash_singly(data, starts, lengths)
    hashes = np.empty(rows, np.uint64)
    for start in range(0, rows, _CHUNK):
        part = slice(start, min(start + _CHUNK, rows))
        hashes[part] = _hash_slices_chunk(data, starts[part], lengths[part])
    return hashes


def _hash_singly(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    view, digest = memoryview(data.data), xxhash.xxh64_intdigest
    ends = (starts + lengths).tolist()
    found = [digest(view[start:end]) for start, end in zip(starts.tolist(), ends, strict=True)]
    return np.array(found, np.uint64)


def _hash_slices_chunk(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    longest = int(lengths.max())
    if longest >= _LONG:
        return _hash_mixed(data, starts, lengths)
    rows = len(starts)
    spare = np.empty(rows, np.uint64)
    hashes = np.full(rows, _P5, np.uint64)
    at = starts  # where each row's next byte lies
    if longest >= 32:
        hashes, at = _stripes(data, starts, lengths, hashes)
    hashes += lengths.view(np.uint64)
    words, halves = _overlapping(data, np.uint64), _overlapping(data, np.uint32)
    left = lengths & 31 if longest >= 32 else lengths
    for step in range(min(longest, 31) // 8):
        some = _where(left >= 8 * (step + 1))
        _mix_into(hashes, some, words[at[some] + 8 * step], spare, _mix_8)
    if longest >= 4:
        at = at + (left & ~np.int64(7))
        some = _where((left & 4) != 0)
        _mix_into(hashes, some, halves[at[some]].astype(np.uint64), spare, _mix_4)
        at = at + (left & 4)
    left = left & 3
    for step in range(min(longest, 3)):
        some = _where(left > step)
        _mix_into(hashes, some, data[at[some] + step].astype(np.uint64), spare, _mix_1)
    return _avalanche(hashes, spare)


def _hash_mixed(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> U64:
    hashes = np.empty(len(starts), np.uint64)
    long = lengths >= _LONG
    hashes[long] = _hash_singly(data, starts[long], lengths[long])
    if not long.all():
        hashes[~long] = _hash_slices_chunk(data, starts[~long], lengths[~long])
    return hashes


def _stripes(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], hashes: U64
) -> tuple[U64, NDArray[np.int64]]:
    """Fold in all whole 32-byte stripes; return the hashes and where the rest of each row begins."""
    words = _overlapping(data, np.uint64)
    some = _where(lengths >= 32)
    at, stripes = starts[some], lengths[some] >> 5
    spare = np.empty(len(at), np.uint64)
    sums = [np.full(len(at), start, np.uint64) for start in _STARTS]
    for step in range(int(stripes.max())):
        active = _where(stripes > step)
        for lane, total in enumerate(sums):
            part = total[active]
            _stripe(part, words[at[active] + (32 * step + 8 * lane)], spare[: len(part)])
            total[active] = part
    hashes[some] = _merge(sums, spare)
    return hashes, starts + (lengths & ~np.int64(31))


_Some = slice | NDArray[np.int64]


def _where(condition: NDArray[np.bool_]) -> _Some:
    """The rows for which it holds, as a slice if they are all: slices cost no gathering."""
    return slice(None) if condition.all() else np.flatnonzero(condition)


def _overlapping(data: NDArray[np.uint8], dtype: type[np.unsignedinteger]) -> NDArray:  # type: ignore[type-arg]
    """Every stretch of the buffer that is long enough, as an unaligned little-endian integer."""
    little = np.dtype(dtype).newbyteorder("<")
    count = max(0, data.size - little.itemsize + 1)
    return np.ndarray(shape=(count,), dtype=little, buffer=data.data if count else b"", strides=(1,))


def _mix_into(hashes: U64, some: _Some, lane: U64, spare: U64, mix: object) -> None:
    if not len(lane):
        return
    part = hashes[some]
    mix(part, lane, spare[: len(part)])  # type: ignore[operator]
    hashes[some] = part


def _rotate(values: U64, bits: int, spare: U64) -> None:
    np.right_shift(values, np.uint64(64 - bits), out=spare)
    np.left_shift(values, np.uint64(bits), out=values)
    np.bitwise_or(values, spare, out=values)


def _stripe(total: U64, lane: U64, spare: U64) -> None:
    total += lane * _N2
    _rotate(total, 31, spare)
    total *= _N1


def _merge(sums: list[U64], spare: U64) -> U64:
    hashes = np.zeros(len(spare), np.uint64)
    for total, bits in zip(sums, (1, 7, 12, 18), strict=True):
        turned = total.copy()
        _rotate(turned, bits, spare)
        hashes += turned
    for total in sums:
        turned = total * _N2
        _rotate(turned, 31, spare)
        turned *= _N1
        hashes ^= turned
        hashes *= _N1
        hashes += _N4
    return hashes


def _mix_8(hashes: U64, lane: U64, spare: U64) -> None:
    word = lane * _N2
    _rotate(word, 31, spare)
    word *= _N1
    hashes ^= word
    _rotate(hashes, 27, spare)
    hashes *= _N1
    hashes += _N4


def _mix_4(hashes: U64, lane: U64, spare: U64) -> None:
    hashes ^= lane * _N1
    _rotate(hashes, 23, spare)
    hashes *= _N2
    hashes += _N3


def _mix_1(hashes: U64, lane: U64, spare: U64) -> None:
    hashes ^= lane * _N5
    _rotate(hashes, 11, spare)
    hashes *= _N1


def _avalanche(hashes: U64, spare: U64) -> U64:
    for bits, prime in ((33, _N2), (29, _N3), (32, None)):
        np.right_shift(hashes, np.uint64(bits), out=spare)
        hashes ^= spare
        if prime is not None:
            hashes *= prime
    return hashes
