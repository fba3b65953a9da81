"""Commits that are not on the disk yet: rows of the index that lie over it until they are flushed.

They lie in an LMDB environment that is never synced: what processes wrote there outlives them, and a loss of power may
leave anything of it. Hence one for each time that the machine was booted, of which only that of now counts; and nothing
of it is the truth: what is flushed is copied to the index, with all that came before it, in one synced transaction.

Generations tell whether what lies here was flushed already. The index says up to which one everything is in it;
whoever flushes writes that number there first, and empties this then. Killed in between, it leaves a generation that
nobody reads.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self, cast

import lmdb

from mamba_stream.core.machine import boot
from mamba_stream.log import files, rows
from mamba_stream.log.environment import environment
from mamba_stream.log.overlay import GONE

_logger: Final = logging.getLogger(__name__)
_NUMBER: Final = struct.Struct(">Q")
GENERATION: Final = b"\0g"
_DIRTY: Final = b"\0f"
_REFUSED: Final = b"\0r"
_FIRST_ROW: Final = b"\1"
_MAP_SIZE: Final = 16 << 30
MOST_BYTES: Final = 64 << 20
"""What may wait for a flush; a commit that goes beyond it has it flushed."""


class Recent:
    """The environment of what was committed since this machine was booted, and not flushed since."""

    def __init__(self, path: Path, files: Path, *, writable: bool) -> None:
        self._files = files
        self._env = environment(path, _MAP_SIZE, writable=writable, synced=False)
        self._env.reader_check()

    @classmethod
    def of(cls, place: Path, files: Path, *, writable: bool) -> Self | None:
        """That of this boot, made if there is none; ``None`` where there is none and nothing can be written."""
        path = place / boot()
        if writable:
            for other in place.iterdir() if place.is_dir() else ():
                if other.name != path.name and not other.name.startswith("new-"):
                    # Of a time before the machine was booted: what is in there never reached the disk for certain.
                    shutil.rmtree(other, ignore_errors=True)
            if why := missing(place):
                _logger.warning("%s: %s", place.parent, why)
            if not path.is_dir():
                _make(path)
        return cls(path, files, writable=writable) if path.is_dir() else None

    def begin(self, *, write: bool = False) -> lmdb.Transaction:
        """A transaction; one that writes waits for all others that do, in all processes."""
        return self._env.begin(write=write)

    def generation(self, transaction: lmdb.Transaction) -> int:
        """Of what lies here."""
        return number_in(cast("bytes | None", transaction.get(GENERATION)))

    def pending(self, transaction: lmdb.Transaction) -> bool:
        """Whether anything lies here."""
        return bool(transaction.stat()["entries"] > 1)

    def crowded(self, transaction: lmdb.Transaction) -> bool:
        """Whether so much lies here that it is time to flush."""
        stat = transaction.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return bool(pages * stat["psize"] > MOST_BYTES)

    def mark(self, transaction: lmdb.Transaction, numbers: Iterable[int]) -> None:
        """These files hold bytes that may not be on the disk."""
        for number in numbers:
            transaction.put(_DIRTY + _NUMBER.pack(number), b"\1")

    def sync(self, transaction: lmdb.Transaction) -> None:
        """Has the files of all that lies here written to the disk.

        Raises:
            OSError: The disk does not take it.
            NotCommitted: A file cannot be opened now; whoever can may sync it.
        """
        with transaction.cursor() as cursor:
            cursor.set_range(_DIRTY)
            keys = cast("list[bytes]", list(cursor.iternext(values=False)))
        for key in itertools.takewhile(lambda key: key.startswith(_DIRTY), keys):
            number = number_in(key[len(_DIRTY) :])
            try:
                fd = os.open(files.path_of(self._files, number, "commit"), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                # What is gone held nothing any more when it went.
                continue
            except OSError as error:
                raise files.failure(error, self._files) from error
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def refuse(self, why: str) -> None:
        """Nothing that lies here can be flushed any more, by nobody: the disk did not take it."""
        with self._env.begin(write=True) as transaction:
            transaction.put(_REFUSED, why.encode())

    def refused(self, transaction: lmdb.Transaction) -> str:
        """Why nothing can be flushed; empty where it can."""
        return bytes(transaction.get(_REFUSED, b"")).decode()

    def pour(self, upper: lmdb.Transaction, lower: lmdb.Transaction) -> None:
        """Writes all that lies here to the index, which then says that it did."""
        with upper.cursor() as cursor:
            if cursor.set_range(_FIRST_ROW):
                for key, sealed in cursor.iternext():
                    if sealed == GONE:
                        lower.delete(key)
                    else:
                        lower.put(key, sealed)
        lower.put(rows.RECENT, rows.seal(rows.RECENT, _NUMBER.pack(self.generation(upper))))

    def empty(self, upper: lmdb.Transaction, flushed: int) -> None:
        """Nothing lies here any more; what comes next is of the generation after the one that was flushed."""
        upper.drop(self._env.open_db(None, txn=upper), delete=False)
        upper.put(GENERATION, _NUMBER.pack(flushed + 1))

    def reclaim(self) -> int:
        """Frees the places of readers that died; says how many."""
        return int(self._env.reader_check())

    def close(self) -> None:
        self._env.close()


def flushed(lower: lmdb.Transaction) -> int | None:
    """The generation up to which everything is in the index; ``None`` where nothing ever waited for a flush."""
    sealed = cast("bytes | None", lower.get(rows.RECENT))
    return None if sealed is None else number_in(rows.unseal(rows.RECENT, sealed))


def first_mark() -> bytes:
    """What the index says before the first commit that waits for a flush."""
    return _NUMBER.pack(0)


def number_in(value: bytes | None) -> int:
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def missing(place: Path) -> str:
    """What to say where the file of this boot was deleted: it appears together with its directory."""
    path = place / boot()
    if not path.is_dir() or (path / "data.mdb").exists():
        return ""
    return (
        f"{place.name}/{path.name}/data.mdb was deleted: whatever was committed without waiting for the disk, and was "
        "not on it yet, is lost, and the log is as it was when it was flushed last"
    )


def _make(path: Path) -> None:
    """Appears whole, or not at all."""
    path.parent.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=path.parent))
    fresh.chmod(path.parent.stat().st_mode)
    environment(fresh, _MAP_SIZE, writable=True, synced=False).close()
    try:
        os.rename(fresh, path)
    except OSError:
        # Another process was faster.
        shutil.rmtree(fresh, ignore_errors=True)
        if not path.is_dir():
            raise
