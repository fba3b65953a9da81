"""What upkeep did, counted."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, fields

from mamba_stream.log.findings import Finding


@dataclass(frozen=True)
class Unread:
    """Rows that went before a group had read them."""

    group: str
    topic: str
    rows: int


@dataclass(frozen=True)
class Maintained:
    """What upkeep did.

    Attributes:
        trimmed_rows: Rows that retention removed.
        trimmed_bytes: What they took on disk.
        unread: Those of them that groups had yet to read.
        written_bytes: Bytes that were written anew, to seal, to compact and to merge.
        merged_batches: Batches that there are fewer by that.
        compacted_rows: Rows that went since their key has a later one, or is gone.
        removed_files: Files in which nothing lay any more that were removed.
        scrubbed_bytes: Bytes that were looked at for damage, if that was asked for.
        findings: What is damaged or missing of them.
        short_of_room: Whether it only deleted, since the disk has no room for what would have been written anew.
        done: Whether all was done that there was to do; if not, the next run goes on.
        busy: Who was at it already, in words; nothing was done then.
    """

    trimmed_rows: int = 0
    trimmed_bytes: int = 0
    unread: tuple[Unread, ...] = ()
    written_bytes: int = 0
    merged_batches: int = 0
    compacted_rows: int = 0
    removed_files: int = 0
    done: bool = True
    busy: str | None = None
    short_of_room: bool = False
    scrubbed_bytes: int = 0
    findings: tuple[Finding, ...] = ()


class UpkeepCounts:
    """What upkeep did in this process since it opened the log."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, found: Maintained) -> None:
        with self._lock:
            self._counts["runs"] += 1
            self._counts["unread_rows"] += sum(one.rows for one in found.unread)
            for field in fields(found):
                value = getattr(found, field.name)
                if type(value) is int:
                    self._counts[field.name] += value

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._counts[name]
