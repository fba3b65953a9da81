"""Changes made inside a child process only: a log that turns over its files quickly, and planted bugs.

The power loss tests must fail on each of ``BUGS``, those of damage on each of ``BLINDNESS``; one they miss would
show that they see nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from mamba_stream.log import (
    committer,
    contents,
    directory,
    doctor,
    files,
    flushing,
    format,
    intake,
    recent,
    recovery,
    registrar,
    rows,
    sealing,
)


def tune() -> None:
    """Small files, and no delay before dead ones go: a short run passes every place where a file changes."""
    files.FULL = 96 << 10
    files.INTERNAL_FULL = 24 << 10
    sealing.SEGMENT_BYTES = 32 << 10
    recovery.TRASH_DELAY = 0
    recent.MOST_BYTES = 128 << 10
    flushing.PAUSE = 0.01


def boot_anew() -> None:
    """As if the machine had been started again: what waited for the disk then is nothing."""
    recent.boot = lambda: "after"


def plant(bug: str) -> None:
    """Plants one of ``BUGS`` or ``BLINDNESS``; none for ``""``."""
    if bug:
        (_BUGS | _FLUSHES | _ALTERATIONS | _BLINDNESS)[bug]()


def die_in(number: int) -> None:
    """Kills this process in its commit of this number, when the data is written and the index knows nothing."""
    real, seen = committer.Committer._apply, 0

    def apply(self: Any, *arguments: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *arguments)

    committer.Committer._apply = apply  # type: ignore[method-assign]


def _index_first() -> None:
    """The index is told before the data is synced."""
    unsynced: list[int] = []
    real_sync, real_apply = os.fdatasync, committer.Committer._apply

    def later(fd: int) -> None:
        unsynced.append(fd)

    def apply(self: Any, *arguments: Any) -> None:
        real_apply(self, *arguments)
        while unsynced:
            real_sync(unsynced.pop())

    os.fdatasync = later  # type: ignore[assignment]
    committer.Committer._apply = apply  # type: ignore[method-assign]


def _no_data_sync() -> None:
    os.fdatasync = lambda fd: None  # type: ignore[assignment]


def _no_directory_sync() -> None:
    def nothing(path: Path) -> None:
        assert path.is_dir()

    directory.sync = nothing


def _flush_without_files() -> None:
    """A flush tells the index of rows that are not on the disk."""
    recent.Recent.sync = lambda self, transaction: None  # type: ignore[method-assign]


def _commit_waits() -> None:
    """What is acknowledged as on the disk waits for it like all else."""
    registrar.strictest = lambda asked: "os"


def _schema_mixed_up() -> None:
    """Rows of an earlier schema are said to be of the latest."""
    real = intake.Intake.batches

    def batches(self: Any, *arguments: Any, **options: Any) -> list[committer.Rows]:
        def mixed_up(one: committer.Batch | committer.Rows) -> list[committer.Batch]:
            return [msgspec.structs.replace(batch, schema=self._topic.schema) for batch in one.made()]

        found = real(self, *arguments, **options)
        return [committer.Rows(partial(mixed_up, one), one.length) for one in found]

    intake.Intake.batches = batches  # type: ignore[method-assign]


def _index_option(option: str) -> Callable[[], None]:
    def plant() -> None:
        real = lmdb.open

        def opened(path: str, **options: Any) -> lmdb.Environment:
            assert options[option] is True
            return real(path, **{**options, option: False})

        lmdb.open = opened

    return plant


def _columns_unverified() -> None:
    format.verify_columns = lambda *_: None


def _headers_unverified() -> None:
    real = format.verify_header

    def verify(message: memoryview, layout: format.Layout, header: int) -> format.Columns:
        length = min(8 + int.from_bytes(message[4:8], "little"), len(message))
        return real(message, layout, format._header_checksum(message[:length], layout))

    format.verify_header = verify


def _last_column_unverified() -> None:
    real = format.verify_columns
    format.verify_columns = lambda message, columns, wanted: real(message, columns, list(wanted)[:-1])


def _contents_unverified() -> None:
    contents.decode = lambda data: contents._decoder.decode(data[16:])


def _rows_unverified() -> None:
    rows.unseal = lambda key, sealed: sealed[:-4]


def _metas_unverified() -> None:
    doctor.metas = lambda index: []


_BUGS = {
    "index-first": _index_first,
    "no-data-sync": _no_data_sync,
    "no-directory-sync": _no_directory_sync,
    "no-index-sync": _index_option("sync"),
    "no-meta-sync": _index_option("metasync"),
}
BUGS = tuple(_BUGS)
_FLUSHES = {
    "flush-without-files": _flush_without_files,
    "commit-waits": _commit_waits,
}
FLUSHES = tuple(_FLUSHES)
"""Bugs in what waits for the disk."""

_ALTERATIONS = {"schema-mixed-up": _schema_mixed_up}
ALTERATIONS = tuple(_ALTERATIONS)
"""Bugs in what topics have that were altered."""

_BLINDNESS = {
    "columns-unverified": _columns_unverified,
    "headers-unverified": _headers_unverified,
    "last-column-unverified": _last_column_unverified,
    "contents-unverified": _contents_unverified,
    "rows-unverified": _rows_unverified,
    "metas-unverified": _metas_unverified,
}
BLINDNESS = tuple(_BLINDNESS)
