"""Rows on their way to becoming messages, and which of them their key holds up.

Messages of a key are kept in order by key groups: a message waits while an open message of its key group lies
before it, in whatever run that is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from mamba_stream.messaging.pending import KEY_GROUPS, Offsets, Pending, key_bitmap, runs

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Groups = np.ndarray[tuple[int], np.dtype[np.int16]]

_SMALL: Final = 4 << 10
_FAR: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one batch of the log.

    Attributes:
        data: The rows.
        offsets: Their offsets, ascending.
        append_time: When they were appended, in microseconds since the epoch.
        groups: The key groups; -1 where there is no key. ``None``: no order is kept.
    """

    data: pa.RecordBatch
    offsets: Offsets
    append_time: int
    groups: Groups | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def size(self) -> int:
        """About its bytes: those of a small batch are counted as they lie, of which its rows may be a part.

        To add up what they take themselves costs as much as reading them.
        """
        size: int = self.data.get_total_buffer_size()
        return size if size <= _SMALL else self.data.nbytes

    def of(self, index: Offsets) -> Part:
        """Those at these ascending positions; without a copy where they lie together."""
        first, last = (int(index[0]), int(index[-1])) if len(index) else (0, -1)
        if last - first + 1 == len(index):
            data = self.data.slice(first, len(index))
        else:
            data = self.data.take(pa.array(index))
        groups = None if self.groups is None else self.groups[index]
        return Part(data, self.offsets[index], self.append_time, groups)

    def where(self, mask: Mask) -> Part:
        return self if mask.all() else self.of(np.flatnonzero(mask))

    def window(self, start: int, length: int) -> Part:
        """Those at positions from ``start`` on."""
        cut = slice(start, start + length)
        groups = None if self.groups is None else self.groups[cut]
        return Part(self.data.slice(start, length), self.offsets[cut], self.append_time, groups)


def split(parts: Sequence[Part]) -> Iterator[tuple[Offsets, list[Part]]]:
    """Rows as they fit a run each, with their offsets."""
    if not parts:
        return
    for offsets in runs(joined(parts)):
        first, last = offsets[0], offsets[-1]
        within = (part.where((part.offsets >= first) & (part.offsets <= last)) for part in parts)
        yield offsets, [part for part in within if len(part)]


def joined(parts: Sequence[Part]) -> Offsets:
    """The offsets of all."""
    return np.concatenate([part.offsets for part in parts]) if parts else np.empty(0, np.int64)


def keys_of(parts: Sequence[Part], gone: Collection[int] = ()) -> bytes:
    """The key groups of these rows without those that are gone, as a bitmap; empty where none has a key."""
    found = []
    for part in parts:
        if part.groups is None:
            continue
        keyed = part.groups >= 0
        if gone:
            keyed &= ~np.isin(part.offsets, np.fromiter(gone, np.int64, len(gone)))
        found.append(part.groups[keyed])
    groups = np.concatenate(found) if found else np.empty(0, np.int16)
    return key_bitmap(groups.astype(np.uint8)) if len(groups) else b""


class Order:
    """What the open runs of a partition hold up: a message waits for those of its key group that lie before it.

    Args:
        runs: The runs, by the keys of their records.
    """

    def __init__(self, runs: Mapping[str, Pending]) -> None:
        keyed = {key: run for key, run in runs.items() if run.keys}
        self._at = {key: number for number, key in enumerate(keyed)}
        self._marks = _marks(b"".join(run.keys for run in keyed.values())).reshape(len(keyed), KEY_GROUPS)
        self._lowest = np.array([run.lowest for run in keyed.values()], np.int64)
        places = np.where(self._marks, self._lowest[:, None], _FAR)
        groups = np.arange(KEY_GROUPS)
        self._first = places.argmin(axis=0) if keyed else np.zeros(KEY_GROUPS, np.int64)
        self._floors = places[self._first, groups] if keyed else np.full(KEY_GROUPS, _FAR, np.int64)
        if keyed:
            # As it is for the run that holds the lowest itself.
            places[self._first, groups] = _FAR
        self._others = places.min(axis=0, initial=_FAR)
        held = self._marks & (self._floors[None, :] >= self._lowest[:, None])
        self._free: Mask = np.logical_or.reduce(held, axis=1)

    def holds_up(self, key: str) -> bool:
        """Whether every key group of a run is held up by others, as far as the bitmaps tell without reading it."""
        at = self._at.get(key)
        return at is not None and not self._free[at]

    def floors(self, key: str | None = None) -> Offsets:
        """By key group, the lowest open offset of the runs that hold a message of it; but for this run."""
        at = None if key is None else self._at.get(key)
        return self._floors if at is None else np.where(self._first == at, self._others, self._floors)


def held_up(part: Part, floors: Offsets) -> Mask:
    """Which rows have an open message of their key group before them, in one of the runs of these floors."""
    if part.groups is None:
        return np.zeros(len(part), bool)
    return (part.groups >= 0) & (floors[part.groups] < part.offsets)


def _marks(keys: bytes) -> Mask:
    return np.unpackbits(np.frombuffer(keys, np.uint8), bitorder="little").astype(bool)
