"""A process that keeps a log up once, in small pieces: maintains it, alters a topic, and backs the log up.

``python -m tests.crash.upkeep_run LOG NOW [PLANT]``: stops itself once everything is imported, to be traced. ``NOW`` is
the time by which it works. ``python -m tests.crash.upkeep_run LOG fill SEED [PLANT]`` fills the log before, and says in a
recorder's trace how far it is. A ``PLANT`` is a defect that the tests must find. Backups lie beside the log.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from mamba_stream.log import (
    Log,
    backing,
    compacting,
    dropping,
    files,
    joining,
    merging,
    recovery,
    repacking,
    restore,
    restoring,
    retaining,
    sealing,
)
from mamba_stream.log.doctor import Report
from mamba_stream.log.store import acquire
from tests.crash import planting
from tests.log.handclock import DAY, HandClock
from tests.log.pictures import rows_of

Rows = dict[str, list[tuple[int, int, tuple[Any, ...]]]]
"""By topic (partition, offset, row); of a topic that was altered, with nulls before."""
ADDED = ({"n": 1_000, "s": "late", "more": 7}, {"n": 1_001, "s": "later"})
"""Rows that come, in one transaction, once the topic ``plain`` is altered: of its new schema, and of its first."""

DELETED = "deleted"
"""The topic that goes, in several steps."""


def small() -> dict[Any, dict[str, int]]:
    """Sizes, by module, that make many pieces of a small log."""
    return {
        compacting: {"UNIT_BYTES": 2_000},
        dropping: {"AT_ONCE": 4},
        joining: {"MERGED_ROWS": 6},
        merging: {"FEWEST": 2, "_LEAST_BYTES": 1},
        sealing: {"SEGMENT_BYTES": 3_000, "LEAST_SEGMENT": 3_000},
    }


def fill(log: Log, clock: HandClock, rng: random.Random) -> None:
    """A log that needs some upkeep, partly sealed; the clock goes on."""
    keyed = log.create_topic("keyed", {"k": str, "n": int}, key="k", compact=True, tombstones="1d")
    old = log.create_topic("old", {"n": int}, retention="1d")
    plain = log.create_topic("plain", {"n": pl.Int32, "s": str}, seal_compression="zstd")
    deleted = log.create_topic(DELETED, {"n": int})
    for n in range(9):
        deleted.append([{"n": n}])
    for n in range(30):
        rows = [{"k": f"k{rng.randrange(5)}", "n": n} for _ in range(rng.randrange(1, 4))]
        keyed.append([{"k": rows[0]["k"]}] if n in (7, 21) else rows)
        old.append([{"n": n}] * 2)
        plain.append([{"n": n, "s": "x" * n}])
        if n % 10 == 9:
            log.seal()
    keyed.append([{"k": "gone", "n": 1}])
    for n in range(12):
        keyed.append([{"k": f"one {n}", "n": n}] * 40)
    log.seal()
    keyed.append([{"k": "gone"}])
    clock.at += 2 * DAY
    old.append([{"n": 99}])


def rows(log: Log) -> Rows:
    """What can be read, but of the topic that is deleted."""
    found = {name: rows_of(log[name]) for name in log.topics() if name != DELETED}
    if "plain" in found:
        found["plain"] = [(p, o, (*row, None)[:3]) for p, o, row in found["plain"]]
    return found


def kept(log: Path) -> Path:
    """Where its backups are."""
    return log.with_name(f"{log.name}-kept")


def restored(log: Path) -> Path:
    """Where one was restored."""
    return log.with_name(f"{log.name}-back")


def keep_up(log: Log, tell: Callable[..., None]) -> None:
    """All of it, in small pieces; says what has happened."""
    if DELETED in log:
        log.delete_topic(DELETED)
    while not log.maintain(budget=4_000).done:
        pass
    tell("maintained")
    topic = log.alter_topic("plain", schema={"n": pl.Int64, "s": str, "more": int})
    tell("altered")
    with log.transaction() as tx:
        for row in ADDED:
            # A frame lands in the schema that has these columns.
            tx.append(
                topic, pl.DataFrame([row], schema_overrides={"n": pl.Int64 if "more" in row else pl.Int32})
            )
    tell("appended")
    log.backup(kept(log.path), keep=2)
    tell("backed up again", lsn=log.lsn())


def plant(name: str) -> None:
    """Has it do something wrong."""
    if name == "deletion first":
        units = compacting._units
        compacting._units = lambda batches: iter([*units(batches)][::-1])  # type: ignore[assignment]
    elif name == "removed at once":
        publish = repacking.publish

        def and_removed(store: Any, segment: Any, *arguments: Any) -> None:
            for placed in segment.batches:
                kind = placed.entry.kind
                files.path_of(store.files, placed.entry.file, kind).unlink(missing_ok=True)
            publish(store, segment, *arguments)

        repacking.publish = and_removed
    elif name == "retention removes files first":
        trim = retaining._trim

        def removed_first(store: Any, topic: Any, partition: int, head: Any, *arguments: Any) -> None:
            for placed in store.shelf.entries(topic, partition, head.begin, 4):
                path = files.path_of(store.files, placed.entry.file, placed.entry.kind)
                path.unlink(missing_ok=True)
            trim(store, topic, partition, head, *arguments)

        retaining._trim = removed_first
    elif name == "files unsynced":
        # Segments, tables of contents and what is kept in backups.
        sync = os.fsync
        os.fsync = lambda fd: sync(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) else None  # type: ignore[assignment,func-returns-value]
    elif name == "manifest first":
        copy = backing._Backup._copy

        def told_early(self: Any, *arguments: Any) -> Any:
            held, self._vault.put = self._vault.put, lambda name, pieces: None
            manifest = copy(self, *arguments)
            self._vault.put, self._there = held, {}
            held(manifest.name, [backing.encode(manifest)])
            return copy(self, *arguments)

        backing._Backup._copy = told_early  # type: ignore[method-assign]
    elif name:
        planting.plant(name)


def main(path: str, now: str, *others: str) -> None:
    for module, names in small().items():
        for name, value in names.items():
            setattr(module, name, value)
    recovery.TRASH_DELAY = 0
    clock = HandClock()
    if now == "fill":
        seed, planted = others
        life(Path(path), clock, random.Random(int(seed)), planted)
        return
    clock.at = int(now)
    plant(*others)
    os.kill(os.getpid(), signal.SIGSTOP)
    with Log(acquire(Path(path), clock)) as log:
        keep_up(log, lambda what, **more: None)


def life(path: Path, clock: HandClock, rng: random.Random, planted: str) -> None:
    """Fills a log and keeps it up; all that happens is told to the recorder, and what it comes to."""
    told = getattr(ctypes.CDLL(None), "recorder_mark", None)

    def tell(what: str, **more: Any) -> None:
        if told is not None:
            line = json.dumps({"what": what, **more}).encode()
            told(line, ctypes.c_size_t(len(line)))

    with Log(acquire(path, clock)) as log:
        fill(log, clock, rng)
        tell("filled", now=clock.at, rows=rows(log))
        plant(planted)
        log.backup(kept(path))
        tell("backed up", lsn=log.lsn())
        keep_up(log, tell)
        restoring.examine = lambda place: Report(place, (), {}, True)
        restore(kept(path), restored(path))
        tell("restored")
        tell("done", rows=rows(log))


if __name__ == "__main__":
    main(*sys.argv[1:])
