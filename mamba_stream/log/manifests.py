"""What a backup says of itself: which state of the log it is, and under which names its bytes are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import xxhash

from mamba_stream.errors import DataCorrupted, NewerFormat, NotFound
from mamba_stream.log.vault import Vault

KIND: Final = "backups"
FORMAT: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"
_NAME: Final = re.compile(KIND + r"/([0-9]{20})-([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)\.json")


class Piece(msgspec.Struct, frozen=True):
    """Bytes of a file from ``start`` on, kept under a name, with their XXH3-128."""

    name: str
    start: int
    length: int
    checksum: str


class Held(msgspec.Struct, frozen=True):
    """A file of the log: its pieces follow each other. ``contents`` is the table beside a segment."""

    number: int
    kind: str
    pieces: tuple[Piece, ...]
    contents: Piece | None = None

    @property
    def end(self) -> int:
        """How far it is kept."""
        return self.pieces[-1].start + self.pieces[-1].length if self.pieces else 0


@dataclass(frozen=True, slots=True)
class Moment:
    """Which state of the log a backup is, as its name says: the number of its last commit, and when it was."""

    lsn: int
    when: datetime

    @property
    def time(self) -> int:
        """When it was, in microseconds since the epoch."""
        return (self.when - _EPOCH) // timedelta(microseconds=1)


class Manifest(msgspec.Struct, frozen=True):
    """A backup. It appears when all that it names is there.

    ``lsn`` and ``time`` (microseconds since the epoch) say which state of the log of this ``log`` uuid it is. ``index``
    are the pieces of the index, in order.
    """

    log: str
    lsn: int
    time: int
    index: tuple[Piece, ...]
    files: tuple[Held, ...]
    missing: tuple[str, ...] = ()
    """Files that were missing in the log."""
    copied: int = 0
    """Bytes that were copied for it; what was there before counts in ``size``."""
    format: int = FORMAT

    @property
    def when(self) -> datetime:
        """When it was, in UTC."""
        return datetime.fromtimestamp(self.time / 1e6, UTC)

    @property
    def name(self) -> str:
        """Under which it is kept; names sort by how far the log was."""
        return f"{KIND}/{self.lsn:020d}-{self.when:{_STAMP}}.json"

    @property
    def size(self) -> int:
        """What it takes to restore it, in bytes."""
        return sum(piece.length for piece in self.pieces())

    def pieces(self) -> list[Piece]:
        """All bytes that it needs."""
        found = list(self.index)
        for file in self.files:
            found += file.pieces
            if file.contents is not None:
                found.append(file.contents)
        return found


class _Sealed(msgspec.Struct):
    checksum: str
    backup: msgspec.Raw


def encode(manifest: Manifest) -> bytes:
    """As JSON, with a checksum over it."""
    inner = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Sealed(xxhash.xxh3_128_hexdigest(inner), msgspec.Raw(inner)))


def load(vault: Vault, name: str) -> Manifest:
    """The backup of this name.

    Raises:
        DataCorrupted: It is not what was written.
        NewerFormat: A later version wrote it.
    """
    try:
        sealed = msgspec.json.decode(b"".join(vault.read(name)), type=_Sealed)
        if xxhash.xxh3_128_hexdigest(bytes(sealed.backup)) != sealed.checksum:
            raise msgspec.DecodeError("it does not match its checksum")
        found = msgspec.json.decode(sealed.backup, type=Manifest)
    except msgspec.MsgspecError as error:
        raise DataCorrupted(
            f"{vault.place}: the backup {name} is damaged ({error}); restore another one"
        ) from error
    if found.format > FORMAT:
        raise NewerFormat(
            f"{vault.place}: {name} was written by a later version: pip install -U mamba-stream"
        )
    return found


def named(vault: Vault) -> list[str]:
    """The names of all backups, the oldest first. What else lies there is nobody's."""
    return sorted(name for name in vault.names(KIND) if _NAME.fullmatch(name))


def newest(vault: Vault, names: Sequence[str]) -> Manifest | None:
    """The newest of these backups that is whole; ``None`` where there are none.

    Raises:
        DataCorrupted: All of them are damaged.
    """
    damage: DataCorrupted | None = None
    for name in reversed(names):
        try:
            return load(vault, name)
        except DataCorrupted as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


def chosen(vault: Vault, to: int | datetime | None) -> tuple[Manifest, Moment | None]:
    """The newest backup that is not past ``to``, and the moment of that which follows it.

    ``to`` is a number of a commit, or a time; ``None`` chooses the newest of all. No other is looked at: it may be
    damaged.

    Raises:
        NotFound: There is none.
        DataCorrupted: It is damaged.
    """
    names = named(vault)
    following = None
    for name in reversed(names):
        moment = moment_of(name)
        if to is None or (moment.lsn <= to if isinstance(to, int) else moment.when <= to):
            return load(vault, name), following
        following = moment
    if not names:
        raise NotFound(f"{vault.place} holds no backup of a log")
    oldest = moment_of(names[0])
    raise NotFound(
        f"{vault.place} holds no backup from before that: the oldest of {len(names)} is of commit {oldest.lsn}, "
        f"{oldest.when:%Y-%m-%dT%H:%M:%SZ}"
    )


def moment_of(name: str) -> Moment:
    """Which state of the log a backup is, as its name says."""
    found = _NAME.fullmatch(name)
    assert found is not None  # as named() has it
    return Moment(int(found[1]), datetime.strptime(found[2], _STAMP).replace(tzinfo=UTC))
