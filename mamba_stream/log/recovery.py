"""What opening a log has to put right after processes that died: names without files, files without names.

It touches only what it can lock, so nothing of a living writer; it truncates nothing that is published, and
removes no file that may be all there is of some rows, whatever the index says.
Its cost follows the number of files, not of rows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_stream.core.clock import Clock
from mamba_stream.log import ballast, directory as directories, dropping, files, rows, strays as unknown
from mamba_stream.log.index import Index
from mamba_stream.log.ledger import Ledger

if TYPE_CHECKING:
    from mamba_stream.log.views import Draft, View

TRASH_DELAY = 60_000_000
"""Microseconds between a file's last entry going and the file going: readers hold places that long."""
_ABANDONED = 3_600_000_000


def recover(index: Index, directory: Path, clock: Clock) -> int:
    """Removes files that no row can lie in any more; says how many."""
    now = clock.now()
    with index.flushed() as view:
        # What is trash only since a commit that waits for the disk, a loss of power makes what it was.
        due = [
            number
            for number, row in _rows(view).items()
            if row.state == "trash" and now - row.since >= TRASH_DELAY
        ]
    with index.view() as view:
        known = _rows(view)
    strays = _strays(directory, known, now)
    if strays:
        with index.view() as view:
            strays = [path for path in strays if _abandoned(path) or unknown.needless(view, path)]
    if not due and not strays:
        return 0

    def remove(draft: Draft) -> int:
        # Under the write lock nobody registers a file; what is unlocked and unknown belongs to nobody.
        ledger = Ledger(draft, now)
        removed = 0
        for number in due:
            row = ledger.file(number)
            if row is None or row.state != "trash":
                continue
            path = files.path_of(directory, number, row.kind)
            files.contents_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            draft.delete(rows.number_key(rows.FILE, number))
            removed += 1
        # A segment goes, durably, before its table of contents, without which nobody knows what it holds.
        tables = [path for path in strays if path.suffix == files.CONTENTS]
        for paths in ([path for path in strays if path not in tables], tables):
            for path in paths:
                stray = files.number_of(path.name)
                if stray is not None:
                    owner = ledger.file(stray)
                    known_now = owner is not None and unknown.belongs(path, owner)
                    if known_now or not unknown.needless(draft, path):
                        continue
                removed += _unlink_unlocked(path)
            if tables:
                directories.sync(directory)
        # Files go before the rows that know them: a file without a row is one that holds something.
        directories.sync(directory)
        return removed

    return ballast.relieved(directory.parent, lambda: index.update(remove))


def clear(index: Index, directory: Path, clock: Clock) -> bool:
    """Takes away some of what is left of topics that were deleted; whether that was all."""
    with index.view() as view:
        if not dropping.left(view):
            return True
    now = clock.now()

    def change(draft: Draft) -> bool:
        ledger = Ledger(draft, now)
        done = dropping.clear(ledger)
        ledger.flush()
        return done

    return ballast.relieved(directory.parent, lambda: index.update(change))


def _rows(view: View) -> dict[int, rows.FileRow]:
    """What the index knows of files, by their numbers."""
    return {
        int.from_bytes(key[1:], "big"): rows.unpack(rows.FileRow, value)
        for key, value in view.items(rows.FILE)
    }


def _strays(directory: Path, known: dict[int, rows.FileRow], now: int) -> list[Path]:
    strays = []
    for item in os.scandir(directory):
        number = files.number_of(item.name)
        if number is not None:
            # Numbers are given again when a commit fails: only file and row together are known.
            row = known.get(number)
            if row is None or not unknown.belongs(Path(item.path), row):
                strays.append(Path(item.path))
        elif item.name.startswith("new-") and _age(item, now) > _ABANDONED:
            # Between creating and locking a file its writer may be caught unlocked: only old ones go.
            strays.append(Path(item.path))
    return strays


def _age(item: os.DirEntry[str], now: int) -> int:
    try:
        return now - item.stat().st_mtime_ns // 1000
    except FileNotFoundError:
        # Its writer, who is alive, has named it since it was listed.
        return 0


def _abandoned(path: Path) -> bool:
    """Whether this is a file that never got its name."""
    return files.number_of(path.name) is None


def _unlink_unlocked(path: Path) -> bool:
    try:
        fd = files.lock(path)
    except FileNotFoundError:
        return False
    if fd is None:
        return False
    path.unlink(missing_ok=True)
    os.close(fd)
    return True
