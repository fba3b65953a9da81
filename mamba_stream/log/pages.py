"""The rows of an LMDB data file, taken from its pages one by one: what the database library trusts is checked here.

A damaged page costs the rows that lie on it or below it, and nobody's process. Every page says its own number, the
list of free pages says which are of no state any more, and no page is reached twice: so what is found is of one state.
Read only, and pure functions over bytes; nobody may write to the file meanwhile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mamba_stream.log.format import Damaged

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_FIRST: Final = struct.Struct("=16xIIQQ")
"""Magic, version, address and size of the map, behind the header of each of the first two pages."""
_TREE: Final = struct.Struct("=IHHQQQQQ")
"""A tree: the size of pages (of the first one), flags, depth, three counts of pages, rows, and the root."""
_TREES_AT: Final = 40
_LAST: Final = struct.Struct("=QQ")
_LAST_AT: Final = _TREES_AT + 2 * _TREE.size
_HEADER: Final = struct.Struct("=QHHHH")
"""A page: its number, two unused bytes, flags, and where its free room begins and ends."""
_COUNT: Final = struct.Struct("=I")
_NODE: Final = struct.Struct("=HHHH")
_NUMBER: Final = struct.Struct("=Q")
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_APART: Final = 0x01
"""The flag of a row whose value lies on pages of its own."""
_FLAGS: Final = (8, 0)
"""Of the list of free pages, whose keys are numbers, and of the rows."""
_NO_ROOT: Final = (1 << 64) - 1
_SMALLEST, _LARGEST = 512, 1 << 16
_DEEPEST: Final = 32


@dataclass(frozen=True)
class Hole:
    """Rows may be missing whose keys lie from ``low`` on and before ``high``; ``None`` is no bound."""

    low: bytes
    high: bytes | None
    why: str


@dataclass(frozen=True)
class State:
    """One state of the database: what one of the first two pages leads to."""

    number: int
    """Of the transaction that made it."""
    size: int
    """Of a page."""
    pages: int
    """How many the file has."""
    free: tuple[int, int]
    """The root and the depth of the list of free pages."""
    rows: tuple[int, int]
    """Those of the rows."""


def states(data: memoryview) -> list[State]:
    """The states that can be read, the newest first; none where neither of the first two pages is sound."""
    found = []
    size = _page_size(data)
    for page in range(2):
        if size and len(data) >= (page + 1) * size:
            state = _state(data, page * size, size)
            if state is not None:
                found.append(state)
    return sorted(found, key=lambda state: -state.number)


@dataclass
class Walk:
    """A walk over the rows of one state, in the order of keys; ``holes`` tells, behind it, what could not be read."""

    data: memoryview
    state: State
    holes: list[Hole] = field(default_factory=list)
    _met: set[int] = field(default_factory=set)
    _free: set[int] = field(default_factory=set)
    _listed: bool = True

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, as they lie."""
        self.holes.clear()
        self._met, self._free = set(), set()
        self._listed = True
        for _, value in self._tree(self.state.free, [], numbers=True):
            count = _NUMBER.unpack_from(value)[0] if len(value) >= _NUMBER.size else -1
            if len(value) != (count + 1) * _NUMBER.size:
                self._listed = False
                continue
            self._free.update(number for (number,) in _NUMBER.iter_unpack(value[_NUMBER.size :]))
        yield from self._tree(self.state.rows, self.holes)

    def _tree(
        self, tree: tuple[int, int], holes: list[Hole], *, numbers: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        root, depth = tree
        if root == _NO_ROOT:
            return
        before: bytes | None = None
        for key, value in self._below(root, depth, b"", None, holes, numbers=numbers):
            if before is not None and key <= before:
                holes.append(Hole(key, before, "rows of the index are not in the order of their keys"))
                continue
            before = key
            yield key, value
        if numbers and holes:
            # Which pages are free nobody can tell any more: rows have to lie where the pages above them say.
            self._listed = False

    def _below(
        self, number: int, depth: int, low: bytes, high: bytes | None, holes: list[Hole], *, numbers: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            nodes = self._nodes(number, depth, numbers=numbers)
        except (Damaged, struct.error) as error:
            holes.append(Hole(low, high, f"page {number} of the index is damaged: {error}"))
            return
        for at, (key, flags, rest) in enumerate(nodes):
            following = nodes[at + 1][0] if at + 1 < len(nodes) else high
            if depth > 1:
                child = int.from_bytes(rest, "little")
                under = key if at else low
                yield from self._below(child, depth - 1, under, following, holes, numbers=numbers)
                continue
            if not self._listed and (key < low or (high is not None and key >= high)):
                holes.append(Hole(low, high, f"page {number} of the index holds rows of elsewhere"))
                return
            try:
                yield key, self._value(rest) if flags & _APART else rest
            except (Damaged, struct.error) as error:
                holes.append(Hole(key, following, str(error)))

    def _nodes(self, number: int, depth: int, *, numbers: bool) -> list[tuple[bytes, int, bytes]]:
        """Of each node of a page its key, its flags, and its value, or the number of a page.

        Keys that are numbers of this machine are turned, so that all are in the order of their bytes.
        """
        start, flags, lower, upper = self._page(number)
        if depth < 1 or flags != (_LEAF if depth == 1 else _BRANCH):
            raise Damaged(f"its flags are {flags:#x}")
        size = self.state.size
        if not _HEADER.size <= lower <= upper <= size or lower % 2:
            raise Damaged("its rows have no place on it")
        found: list[tuple[bytes, int, bytes]] = []
        for (at,) in struct.iter_unpack("=H", self.data[start + _HEADER.size : start + lower]):
            if not upper <= at <= size - _NODE.size:
                raise Damaged("a row lies outside of it")
            low, high, marks, length = _NODE.unpack_from(self.data, start + at)
            key_at = start + at + _NODE.size
            value_at = key_at + length
            key = bytes(self.data[key_at:value_at])[:: -1 if numbers else 1]
            if depth > 1:
                # A branch: the number of the page below lies where a leaf has the length and the flags.
                value = (low | high << 16 | marks << 32).to_bytes(8, "little")
                end, marks = value_at, 0
            else:
                apart = marks & _APART
                end = value_at + (_NUMBER.size if apart else low | high << 16)
                value = bytes(self.data[value_at:end])
                if apart:
                    value += _COUNT.pack(low | high << 16)
                if marks & ~_APART:
                    raise Damaged(f"a row has the flags {marks:#x}")
            if end > start + size:
                raise Damaged("a row leads out of it")
            if found and key <= found[-1][0]:
                raise Damaged("its rows are not in the order of their keys")
            found.append((key, marks, value))
        if depth > 1 and len(found) < 2:
            raise Damaged("it leads to fewer than two pages")
        return found

    def _value(self, place: bytes) -> bytes:
        """A value that lies on pages of its own: their first one, and its length."""
        (number,), (length,) = _NUMBER.unpack_from(place), _COUNT.unpack_from(place, _NUMBER.size)
        start, flags, lower, upper = self._page(number)
        pages = lower | upper << 16
        whole = (length + _HEADER.size + self.state.size - 1) // self.state.size
        if flags != _OVERFLOW or pages < whole or number + pages > self.state.pages:
            raise Damaged(f"page {number} of the index holds no value of {length} bytes")
        self._met.update(range(number, number + pages))
        return bytes(self.data[start + _HEADER.size : start + _HEADER.size + length])

    def _page(self, number: int) -> tuple[int, int, int, int]:
        """Where it begins, and its flags and bounds; it is the one that is meant, and was not met before."""
        if not 2 <= number < self.state.pages:
            raise Damaged("it lies outside of the file")
        if number in self._free:
            raise Damaged("it is listed as free")
        if number in self._met:
            raise Damaged("it is reached twice")
        self._met.add(number)
        start = number * self.state.size
        own, _, flags, lower, upper = _HEADER.unpack_from(self.data, start)
        if own != number:
            raise Damaged(f"it says that it is page {own}")
        return start, flags, lower, upper


def _page_size(data: memoryview) -> int:
    """What either of the first two pages says; the second one lies where the first one's size puts it."""
    candidates = [0, *(1 << bits for bits in range(9, 17))]
    for at in candidates:
        if len(data) < at + _LAST_AT + _LAST.size:
            break
        if _FIRST.unpack_from(data, at)[:2] == (_MAGIC, _VERSION):
            size: int = _TREE.unpack_from(data, at + _TREES_AT)[0]
            if _SMALLEST <= size <= _LARGEST and not size & (size - 1) and at in (0, size):
                return size
    return 0


def _state(data: memoryview, at: int, size: int) -> State | None:
    if _FIRST.unpack_from(data, at)[:2] != (_MAGIC, _VERSION):
        return None
    trees = [_TREE.unpack_from(data, at + _TREES_AT + number * _TREE.size) for number in range(2)]
    last, number = _LAST.unpack_from(data, at + _LAST_AT)
    pages = min(len(data) // size, last + 1)
    # What a damaged number promises is not there.
    if tuple(tree[1] for tree in trees) != _FLAGS or any(tree[2] > _DEEPEST for tree in trees):
        return None
    free, rows = ((tree[7], tree[2]) for tree in trees)
    return State(number, size, pages, free, rows)
