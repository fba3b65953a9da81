"""Backing a log up while it is in use: one moment of its index, and the bytes that this names.

The index is copied first, as of one commit with everything before it. What it names is never changed: segments do not
change at all, and commit files grow behind what is named. So a file is copied once, and of a commit file what came
since. Meanwhile the files have a second name in the log's ``backup/``, by which they stay however they are sealed or
trimmed. The backup's manifest comes last: without it there are only bytes that the next backup finds there, or sweeps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import xxhash

from mamba_stream.core.numbers import is_whole
from mamba_stream.errors import DataCorrupted, DiskFull, InvalidInput, LogInUse, LogUnavailable
from mamba_stream.log import directory, files, recovery, rows
from mamba_stream.log.environment import by_itself
from mamba_stream.log.manifests import Held, Manifest, Piece, encode, load, named, newest
from mamba_stream.log.rows import FileRow
from mamba_stream.log.store import Store
from mamba_stream.log.vault import DirectoryVault, Vault, vault_of
from mamba_stream.log.views import View

if TYPE_CHECKING:
    from mamba_stream.log.log import Log

FILES: Final = "files"
INDEX: Final = "index"
_INDEX_PIECE: Final = 64 << 10
"""Bytes of the index that are kept together: a commit changes a few pages of it, here and there."""
_READ: Final = 8 << 20
_ATTEMPTS: Final = 3
_WORK: Final = "now"


@dataclass(frozen=True)
class BackedUp:
    """What a backup came to.

    Attributes:
        place: Where it is.
        name: Its name there.
        lsn: The number of the last commit in it.
        time: When that moment was, in microseconds since the epoch.
        size: What it holds, in bytes.
        copied: How much of that was not there yet.
        missing: Files that are missing in the log: the doctor knows more.
        pruned: How many older backups were removed.
    """

    place: str
    name: str
    lsn: int
    time: int
    size: int
    copied: int
    missing: tuple[str, ...] = ()
    pruned: int = 0


def backup(log: Log, target: object, *, keep: int | None = None) -> BackedUp:
    """Backs the log up: a consistent state of it, of one moment, whoever writes meanwhile.

    Args:
        log: The log, in a directory of this machine.
        target: A directory, the address of an object store such as ``s3://bucket/logs``, or a store of ``obstore``. It
            keeps the backups of one log, each of which takes what changed since the one before.
        keep: Keep so many backups there, the newest ones; all unless told otherwise.

    Raises:
        InvalidInput: The target is the log itself, or keeps another log's backups; or the log is a server's.
        LogInUse: Another backup of the log is under way.
        DiskFull: There is no room.
    """
    store = log._store
    if not isinstance(store, Store):
        raise InvalidInput(
            f"the log at {log.place} is a server's: back it up where it is, beside the server, with mamba-stream backup"
        )
    if keep is not None and not is_whole(keep, 1):
        raise InvalidInput(f"keep={keep!r}: give a number of backups from 1 on, or leave it out to keep all")
    vault = vault_of(target)
    _check_apart(store.path, vault)
    lock = store.lock(directory.BACKUP, directory.BACKUP)
    if lock is None:
        holder = store.lock_holder(directory.BACKUP, directory.BACKUP)
        raise LogInUse(f"{store.path} is being backed up by {holder}: one backup goes at a time")
    try:
        return _Backup(store, vault).run(keep)
    except OSError as error:
        if error.errno in directory.NO_ROOM:
            raise DiskFull(
                f"{vault.place}: {error.strerror}; there is no new backup. Free some space"
            ) from error
        raise LogUnavailable(f"{vault.place}: the backup failed, and there is none: {error}") from error
    finally:
        lock.release()


def _check_apart(log: Path, vault: Vault) -> None:
    if not isinstance(vault, DirectoryVault):
        return
    here, there = Path(os.path.realpath(log)), Path(os.path.realpath(vault.path))
    if (
        here == there
        or here in there.parents
        or there in here.parents
        or (there / INDEX / "data.mdb").exists()
    ):
        raise InvalidInput(
            f"a backup of {log} cannot lie in {vault.path}: give a directory that is no log, and neither in nor "
            "around one, best on another disk"
        )
    if there.exists() and not there.is_dir():
        raise InvalidInput(f"{vault.path} is a file: give a directory for backups")


class _Backup:
    """One backup, by the only process that backs the log up now."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._work = store.path / directory.BACKUP / _WORK
        self._copied = 0
        self._there: dict[str, int] = {}

    def run(self, keep: int | None) -> BackedUp:
        self._clear()
        while not recovery.clear(self._store.index, self._store.files, self._store.clock):
            # What nobody can read any more need not be kept.
            pass
        if isinstance(self._vault, DirectoryVault):
            directory.make(self._vault.path)
        before = newest(self._vault, named(self._vault))
        if before is not None and before.log != self._store.meta.uuid:
            raise InvalidInput(
                f"{self._vault.place} holds the backups of another log (or of this one before it was restored): give "
                "another place"
            )
        if isinstance(self._vault, DirectoryVault):
            self._vault.sweep()
        try:
            now, lsn, held, missing = self._moment()
            if before is not None and before.lsn > lsn:
                # The log went back: what files hold behind that may be something else now.
                before = None
            manifest = self._copy(now, lsn, held, missing, before)
        finally:
            self._clear()
        pruned = 0 if keep is None else self._prune(keep)
        place = self._vault.place
        return BackedUp(place, manifest.name, lsn, now, manifest.size, self._copied, missing, pruned)

    def _clear(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def _moment(self) -> tuple[int, int, dict[int, FileRow], tuple[str, ...]]:
        """Copies the index, and gives the files that it names a second name: the time, its lsn, the files."""
        attempts = 0
        while True:
            self._clear()
            (self._work / FILES).mkdir(parents=True)
            (self._work / INDEX).mkdir()
            self._store.flush()
            self._store.index.copy_to(self._work / INDEX / "data.mdb")
            # Nothing that is in it came later: whoever restores to a time gets nothing of what came behind that.
            now = self._store.clock.now()
            lsn, held = _looked_up(self._work / INDEX)
            gone = {number for number, row in held.items() if not self._pin(number, row)}
            attempts += 1
            # One that was sealed and removed in between is not in the next copy; one that is lost is.
            if not gone or attempts == _ATTEMPTS:
                break
        # A segment whose table of contents alone is lost is kept without.
        gone = {number for number in gone if not self._pinned(number, held[number]).exists()}
        missing = tuple(files.path_of(Path(), number, held[number].kind).name for number in sorted(gone))
        return now, lsn, {number: row for number, row in held.items() if number not in gone}, missing

    def _pin(self, number: int, row: FileRow) -> bool:
        """Gives a file, and what lies beside it, a second name; whether all of it was there."""
        path = files.path_of(self._store.files, number, row.kind)
        # Who removes a segment removes its table of contents first.
        for each in (path, files.contents_path(path)) if row.kind == "segment" else (path,):
            try:
                os.link(each, self._work / FILES / each.name)
            except FileNotFoundError:
                return False
        return True

    def _pinned(self, number: int, row: FileRow) -> Path:
        return files.path_of(self._work / FILES, number, row.kind)

    def _copy(
        self, now: int, lsn: int, held: dict[int, FileRow], missing: tuple[str, ...], before: Manifest | None
    ) -> Manifest:
        self._there = {**self._vault.names(INDEX), **self._vault.names(FILES)}
        known = {} if before is None else {(file.number, file.kind): file for file in before.files}
        kept = tuple(
            self._file(number, row, known.get((number, row.kind))) for number, row in sorted(held.items())
        )
        path = self._work / INDEX / "data.mdb"
        size = path.stat().st_size
        index = tuple(
            self._piece(path, f"{INDEX}/", start, min(_INDEX_PIECE, size - start))
            for start in range(0, size, _INDEX_PIECE)
        )
        manifest = Manifest(self._store.meta.uuid, lsn, now, index, kept, missing, self._copied)
        self._vault.put(manifest.name, [encode(manifest)])
        return manifest

    def _file(self, number: int, row: FileRow, known: Held | None) -> Held:
        path = self._pinned(number, row)
        end = min(row.end, path.stat().st_size)
        if known is not None and (known.end == end or (known.end < end and row.kind == "commit")):
            pieces = known.pieces
        else:
            known, pieces = None, ()
        start = pieces[-1].start + pieces[-1].length if pieces else 0
        stem = f"{FILES}/{path.stem}-{start:x}-"
        if end > start:
            pieces = (*pieces, self._piece(path, stem, start, end - start))
        table = files.contents_path(path)
        contents = None if known is None else known.contents
        if row.kind == "segment" and contents is None and table.exists():
            contents = self._piece(table, f"{FILES}/{path.stem}-toc-", 0, table.stat().st_size)
        return Held(number, row.kind, pieces, contents)

    def _piece(self, path: Path, stem: str, start: int, length: int) -> Piece:
        """Keeps these bytes under a name that says what they are, unless they are there."""
        running = xxhash.xxh3_128()
        for part in _bytes(path, start, length):
            running.update(part)
        checksum = running.hexdigest()
        name = f"{stem}{checksum}"
        if self._there.get(name) != length:
            self._vault.put(name, _bytes(path, start, length))
            self._there[name] = length
            self._copied += length
        return Piece(name, start, length, checksum)

    def _prune(self, keep: int) -> int:
        """Removes all that is older than the newest so many whole backups, and then whatever none of those needs."""
        names = named(self._vault)
        needed: set[str] = set()
        whole = 0
        for place in reversed(range(len(names))):
            # One that is damaged is none: nothing can be had of it.
            with contextlib.suppress(DataCorrupted):
                needed.update(piece.name for piece in load(self._vault, names[place]).pieces())
                whole += 1
            if whole == keep:
                break
        old = names[:place] if whole == keep else []
        for name in old:
            self._vault.remove(name)
        for kind in (FILES, INDEX):
            for name in self._vault.names(kind).keys() - needed:
                self._vault.remove(name)
        return len(old)


def _looked_up(index: Path) -> tuple[int, dict[int, FileRow]]:
    """The last commit in a copy of the index, and the files in which something lies."""
    with by_itself(index) as env, env.begin() as transaction:
        view = View(transaction)
        ticks = view.get(rows.TICKS)
        found = {
            int.from_bytes(key[1:], "big"): rows.unpack(FileRow, value)
            for key, value in view.items(rows.FILE)
        }
    lsn = 0 if ticks is None else rows.unpack_ticks(ticks).lsn
    return lsn, {number: row for number, row in found.items() if row.live and row.state != "trash"}


def _bytes(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length:
            part = file.read(min(length, _READ))
            if not part:
                raise OSError(f"{path.name} ends {length} bytes early")
            length -= len(part)
            yield part
