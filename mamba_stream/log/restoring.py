"""Putting a log back from a backup, into a directory that it appears in whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import xxhash

from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import (
    AlreadyExists,
    DataCorrupted,
    DiskFull,
    InvalidInput,
    LogUnavailable,
    NewerFormat,
)
from mamba_stream.log import directory, files, rows
from mamba_stream.log.backing import FILES, INDEX
from mamba_stream.log.doctor import examine
from mamba_stream.log.environment import by_itself
from mamba_stream.log.findings import Finding
from mamba_stream.log.index import MAP_SIZE
from mamba_stream.log.manifests import Manifest, Piece, chosen, load, moment_of, named
from mamba_stream.log.rows import FileRow, Meta
from mamba_stream.log.vault import Vault, vault_of
from mamba_stream.log.views import Draft


@dataclass(frozen=True)
class Restored:
    """What was restored.

    Attributes:
        path: The log's directory.
        lsn: The number of the last commit in it.
        time: When the log was so, in microseconds since the epoch.
        size: Bytes.
        findings: What the doctor says of it: damage, if the log was damaged when it was backed up.
        next_lsn: The last commit in the backup that follows it, if one does: what came in between is in no backup.
        next_time: When the log was so, in microseconds since the epoch.
    """

    path: Path
    lsn: int
    time: int
    size: int
    findings: tuple[Finding, ...] = ()
    next_lsn: int | None = None
    next_time: int | None = None


@dataclass(frozen=True)
class Backup:
    """A backup that is kept.

    Attributes:
        name: Under which it is kept.
        lsn: The number of the last commit in it.
        time: When the log was so, in microseconds since the epoch.
        size: What it takes to restore it, in bytes; ``None`` where that cannot be told.
        copied: Bytes that were copied for it; likewise.
        damage: Why it cannot be restored, as far as what it says of itself tells; ``None`` where that is whole.
    """

    name: str
    lsn: int
    time: int
    size: int | None = None
    copied: int | None = None
    damage: str | None = None


def backups(source: object) -> list[Backup]:
    """The backups that are kept there, the oldest first, and which of them are damaged.

    Args:
        source: A directory, an address such as ``s3://bucket/logs``, or a store of ``obstore``.
    """
    vault = vault_of(source)
    return [_kept(vault, name) for name in named(vault)]


def _kept(vault: Vault, name: str) -> Backup:
    moment = moment_of(name)
    try:
        found = load(vault, name)
    except (DataCorrupted, NewerFormat) as error:
        return Backup(name, moment.lsn, moment.time, damage=str(error))
    return Backup(name, moment.lsn, moment.time, found.size, found.copied)


def restore(source: object, path: str | os.PathLike[str], to: int | datetime | str | None = None) -> Restored:
    """Puts a log back as it was when it was backed up, into a new directory.

    The log that comes back is another one than it was before: its clients, and its later backups, do not take it for
    that.

    Args:
        source: Where the backups are: a directory, an address such as ``s3://bucket/logs``, or a store of ``obstore``.
        path: The directory, which must not be there, or be empty.
        to: The newest backup that is not past this: the number of a commit, or a time (naive ones are UTC). The newest
            of all unless told otherwise.

    Raises:
        AlreadyExists: The directory holds something.
        NotFound: There is no such backup.
        DataCorrupted: The backup is damaged.
        DiskFull: There is no room.
    """
    target = Path(os.path.abspath(path))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AlreadyExists(
            f"{target} holds something: restore into a new directory, and put that into its place then"
        )
    vault = vault_of(source)
    manifest, following = chosen(vault, _until(to))
    work = target.parent / f".{target.name}.restoring-{secrets.token_hex(4)}"
    try:
        directory.make(target.parent)
        _write(vault, manifest, work)
        findings = examine(work).findings
        os.rename(work, target)
        directory.sync(target.parent)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        if error.errno in directory.NO_ROOM:
            raise DiskFull(f"{target}: {error.strerror}; nothing was restored. Free some space") from error
        raise LogUnavailable(f"{target}: nothing was restored: {error}") from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    after = (None, None) if following is None else (following.lsn, following.time)
    return Restored(target, manifest.lsn, manifest.time, manifest.size, findings, *after)


def _until(to: object) -> int | datetime | None:
    if isinstance(to, str):
        try:
            to = int(to) if to.isdecimal() else datetime.fromisoformat(to)
        except ValueError:
            raise InvalidInput(
                f"to={to!r:.80}: give the number of a commit, or a time (2026-01-31T12:00)"
            ) from None
    if isinstance(to, datetime):
        return to if to.tzinfo is not None else to.replace(tzinfo=UTC)
    if to is None or is_whole(to):
        return to
    raise InvalidInput(
        f"to={to!r:.80}: give the number of a commit, a time, or nothing for the newest backup"
    )


def _write(vault: Vault, manifest: Manifest, work: Path) -> None:
    for name in (INDEX, FILES, directory.WAKE, directory.JOBS):
        (work / name).mkdir(parents=True)
    _assemble(vault, manifest.index, work / INDEX / "data.mdb")
    for held in manifest.files:
        path = files.path_of(work / FILES, held.number, held.kind)
        _assemble(vault, held.pieces, path)
        if held.contents is not None:
            _assemble(vault, [held.contents], files.contents_path(path))
    _settle(work / INDEX)
    for place in (work / FILES, work / INDEX, work):
        directory.sync(place)


def _assemble(vault: Vault, pieces: Sequence[Piece], path: Path) -> None:
    """Writes a file from its pieces, each proven to be what was kept."""
    with path.open("wb") as file:
        for piece in pieces:
            running, length = xxhash.xxh3_128(), 0
            try:
                for part in vault.read(piece.name):
                    running.update(part)
                    length += len(part)
                    file.write(part)
            except FileNotFoundError:
                raise DataCorrupted(
                    f"{vault.place}: {piece.name} is missing; restore another backup"
                ) from None
            if (length, running.hexdigest()) != (piece.length, piece.checksum):
                raise DataCorrupted(f"{vault.place}: {piece.name} is damaged; restore another backup")
        file.flush()
        os.fsync(file.fileno())


def _settle(index: Path) -> None:
    """Makes it another log: what is known of the one that it was does not hold for what comes now.

    Of files in which nothing lay it knows no more.
    """
    with (
        by_itself(index, MAP_SIZE, writable=True) as env,
        env.begin(write=True) as transaction,
    ):
        meta: Meta = rows.unpack(Meta, rows.unseal(rows.META, transaction.get(rows.META) or b""))
        meta = msgspec.structs.replace(meta, uuid=os.urandom(16).hex(), origins=(*meta.origins, meta.uuid))
        transaction.put(rows.META, rows.seal(rows.META, rows.pack(meta)))
        draft = Draft(transaction)
        for key, value in list(draft.items(rows.FILE)):
            if not rows.unpack(FileRow, value).live:
                draft.delete(key)
