"""A disk that loses power: what may be found on it after any call of a recorded trace.

The model is what POSIX promises and no more. Bytes are durable once their file was synced (or the write itself
was synchronous), names once their directory was. Everything else is lost, kept or torn at random: each sector
of 512 bytes holds one of the contents that it had since the last sync, in any order against others, across
files too; a file's size is any that its sectors allow; a directory's changes survive in order, in part, or in
no order at all.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
_HEADER = struct.Struct("<BBHIQQ")
MARK, OPEN, CREATE, WRITE, SYNC, TRUNCATE, RENAME, UNLINK, MKDIR, RMDIR, LINK, MAPPED = range(1, 13)
_DURABLE = 1
_SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Call:
    """One record of a trace."""

    kind: int
    durable: bool
    inode: int
    position: int
    path: str
    data: bytes


def calls(trace: bytes) -> Iterator[Call]:
    """The calls of a trace, in order; a last one that is cut off is left out."""
    at = 0
    while at + _HEADER.size <= len(trace):
        kind, flags, path, data, inode, position = _HEADER.unpack_from(trace, at)
        at += _HEADER.size
        if at + path + data > len(trace):
            return
        name = trace[at : at + path].decode()
        yield Call(kind, bool(flags & _DURABLE), inode, position, name, trace[at + path : at + path + data])
        at += path + data


@dataclass
class File:
    """A file's bytes: what is certainly on the disk, and what was written since, sector by sector."""

    durable: bytearray = field(default_factory=bytearray)
    size: int = 0
    """The size that processes see."""
    pending: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    """Sizes since the last sync."""

    def write(self, position: int, data: bytes) -> None:
        end = position + len(data)
        at = position
        while at < end:
            sector, start = divmod(at, SECTOR)
            piece = data[at - position : at - position + SECTOR - start]
            self.pending.setdefault(sector, []).append((start, piece))
            at += len(piece)
        self._resize(max(self.size, end))

    def truncate(self, size: int) -> None:
        if size < self.size:
            sector, start = divmod(size, SECTOR)
            for number in range(sector, -(-self.size // SECTOR)):
                first = start if number == sector else 0
                self.pending.setdefault(number, []).append((first, bytes(SECTOR - first)))
        self._resize(size)

    def sync(self, sectors: range | None = None) -> None:
        """Makes everything durable, or these sectors alone."""
        for sector in list(self.pending) if sectors is None else sectors:
            pieces = self.pending.pop(sector, [])
            _apply(self.durable, sector, pieces)
        if sectors is None:
            self.sizes.clear()
            _fit(self.durable, self.size)

    def found(self, rng: random.Random, kept: float) -> bytes:
        """What may be on the disk: each sector as of some moment since its last sync."""
        if not self.pending and not self.sizes:
            return bytes(self.durable)
        image = bytearray(self.durable)
        least = 0
        for sector, pieces in self.pending.items():
            count = 0
            while count < len(pieces) and rng.random() < kept:
                count += 1
            if count:
                _apply(image, sector, pieces[:count])
                least = max(least, sector * SECTOR + max(start + len(data) for start, data in pieces[:count]))
        # A size that was synced, or one of those since; not one that cuts off what was kept of later growth.
        size = rng.choice([len(self.durable), *self.sizes]) if self.sizes else self.size
        largest = max([len(self.durable), *self.sizes])
        _fit(image, min(max(size, least if least > len(self.durable) else 0), largest))
        return bytes(image)

    def _resize(self, size: int) -> None:
        if size != self.size:
            self.sizes.append(size)
            self.size = size


def _apply(image: bytearray, sector: int, pieces: list[tuple[int, bytes]]) -> None:
    for start, data in pieces:
        at = sector * SECTOR + start
        if len(image) < at + len(data):
            _fit(image, at + len(data))
        image[at : at + len(data)] = data


def _fit(image: bytearray, size: int) -> None:
    if len(image) < size:
        image.extend(bytes(size - len(image)))
    else:
        del image[size:]


@dataclass
class Directory:
    """A directory's names: those that are certainly on the disk, and the changes since."""

    durable: dict[str, File | Directory] = field(default_factory=dict)
    names: dict[str, File | Directory] = field(default_factory=dict)
    """What processes see."""
    pending: list[dict[str, File | Directory | None]] = field(default_factory=list)
    """Each change sets or removes names, together."""

    def change(self, names: dict[str, File | Directory | None]) -> None:
        _rename(self.names, names)
        self.pending.append(names)

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending.clear()

    def found(self, rng: random.Random, kept: float) -> dict[str, File | Directory]:
        """Names that may be on the disk."""
        result = dict(self.durable)
        ordered = rng.random() < 0.5
        for change in self.pending:
            if rng.random() < kept:
                _rename(result, change)
            elif ordered:
                break
        return result


def _rename(names: dict[str, File | Directory], change: dict[str, File | Directory | None]) -> None:
    for name, target in change.items():
        if target is None:
            names.pop(name, None)
        else:
            names[name] = target


class Disk:
    """What a disk holds after the calls so far.

    Args:
        root: The directory that was recorded; it was there, and durable, when the trace began.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self.tree = Directory()
        self._inodes: dict[int, File | Directory] = {}
        self.unrecorded: set[str] = set()
        self._paths: dict[int, str] = {}

    def call(self, call: Call) -> None:
        """Takes in the next call."""
        if call.kind == MARK:
            return
        if call.kind in (OPEN, CREATE, MKDIR):
            self._name(call)
        elif call.kind == WRITE:
            file = self._file(call.inode)
            file.write(call.position, call.data)
            if call.durable and call.data:
                last = call.position + len(call.data) - 1
                file.sync(range(call.position // SECTOR, last // SECTOR + 1))
        elif call.kind == TRUNCATE:
            self._file(call.inode).truncate(call.position)
        elif call.kind == SYNC:
            self._inodes[call.inode].sync()
        elif call.kind in (RENAME, LINK):
            directory, name = self._parent(call.path)
            target = directory.names[name]
            into, new = self._parent(call.data.decode())
            if call.kind == LINK:
                into.change({new: target})
            elif into is directory:
                into.change({name: None, new: target})
            else:
                raise ValueError(f"a name moved to another directory: {call.path}")
        elif call.kind in (UNLINK, RMDIR):
            directory, name = self._parent(call.path)
            directory.change({name: None})
        elif call.kind == MAPPED:
            self.unrecorded.add(self._paths.get(call.inode, "?"))

    def lose_power(self, rng: random.Random, where: Path) -> None:
        """Writes into ``where`` what may be left."""
        # How much survives varies from nearly nothing to nearly all: of names, and of bytes, file by file or of
        # all alike.
        kept = rng.choice(_SHARES)
        bytes_kept = rng.choice((None, *_SHARES))
        self._build(self.tree, rng, kept, bytes_kept, where)

    def _build(
        self, directory: Directory, rng: random.Random, kept: float, bytes_kept: float | None, where: Path
    ) -> None:
        where.mkdir(exist_ok=True)
        for name, item in directory.found(rng, kept).items():
            if isinstance(item, Directory):
                self._build(item, rng, kept, bytes_kept, where / name)
            elif name != "lock.mdb":
                # LMDB makes its table of locks anew when nobody holds it.
                share = rng.choice(_SHARES) if bytes_kept is None else bytes_kept
                (where / name).write_bytes(item.found(rng, share))

    def _name(self, call: Call) -> None:
        self._paths[call.inode] = call.path
        if call.path == self._root:
            self._inodes[call.inode] = self.tree
            return
        directory, name = self._parent(call.path)
        if call.kind == OPEN:
            # A name that another process took away before this call was written down: the number still leads.
            found = directory.names.get(name)
            self._inodes[call.inode] = self._inodes[call.inode] if found is None else found
            return
        made: File | Directory = Directory() if call.kind == MKDIR else File()
        self._inodes[call.inode] = made
        directory.change({name: made})

    def _file(self, inode: int) -> File:
        found = self._inodes[inode]
        assert isinstance(found, File)
        return found

    def _parent(self, path: str) -> tuple[Directory, str]:
        found = self.tree
        *above, name = os.path.relpath(path, self._root).split("/")
        for part in above:
            inside = found.names[part]
            assert isinstance(inside, Directory)
            found = inside
        return found, name
