"""Repairing a log: what is damaged is put aside, and a new index takes the place of the old one in one step.

Whoever repairs has the log alone. Everything is prepared beside the log, in ``quarantine/``, where the old index and
the files with damaged bytes stay; until the new index is renamed into its place the log is as it was, and from then on
it is repaired. Nothing is deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import xxhash

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.machine import boot
from mamba_stream.core.schemas import schema_from_bytes
from mamba_stream.errors import DiskFull, LogInUse, LogUnavailable
from mamba_stream.log import contents, directory, files, format, rows, store
from mamba_stream.log.alone import alone
from mamba_stream.log.doctor import Report, examine
from mamba_stream.log.environment import by_itself
from mamba_stream.log.findings import Finding, frame_problems
from mamba_stream.log.index import MAP_SIZE
from mamba_stream.log.mending import Mending, Put
from mamba_stream.log.publishing import listed
from mamba_stream.log.rows import FileRow, Meta, OnceRow, Ticks
from mamba_stream.log.salvage import DATA, Salvaged, salvage
from mamba_stream.log.tables import Tables

_NEW: Final = "new"
_REPORT: Final = "report.json"
_MAP_SIZE: Final = 1 << 40
_LSN_AHEAD: Final = 1 << 20
"""By so much the number of commits goes ahead where the last one is not known any more: none is given twice."""
_OTHERS: Final = {
    rows.OFFSET: "offsets of groups",
    rows.RECORD: "records",
    rows.PRODUCER: "producers' numbers",
    rows.SEQUENCE: "producers' answers",
    rows.SCHEMA: "schemas of earlier",
    rows.ONCE: "answers to commits",
}
"""Rows that nothing else counts, in words."""


@dataclass(frozen=True)
class Repaired:
    """What a repair came to.

    Attributes:
        before: What the doctor said before it.
        after: What it says now: the same where nothing was done.
        changes: What is lost, by topic, partition and offsets (``loss``), and what else was decided (``note``).
        aside: Where the old index and the damaged files are; ``None`` where the log was sound.
    """

    before: Report
    after: Report
    changes: tuple[Finding, ...] = ()
    aside: Path | None = None

    @property
    def lost(self) -> tuple[Finding, ...]:
        """What is lost."""
        return tuple(change for change in self.changes if change.severity == "loss")


def repair(path: str | os.PathLike[str], *, clock: Clock | None = None) -> Repaired:
    """Repairs the log in a directory, if it is damaged.

    Args:
        path: The directory.
        clock: What time it is; this machine's unless told otherwise.

    Raises:
        NotALog: There is no log, nor what is left of one.
        LogInUse: Somebody has the log open.
        DiskFull: There is no room for what is put aside.
        LogUnavailable: The disk fails.
    """
    log = Path(path).absolute()
    try:
        return _repaired(log, clock or SystemClock())
    except OSError as error:
        again = "nothing is lost by it; repair it again"
        if error.errno in directory.NO_ROOM:
            raise DiskFull(f"{log}: {error.strerror}; {again} once there is room") from error
        raise LogUnavailable(f"{log}: the repair was cut short: {error}; {again}") from error


def _repaired(log: Path, clock: Clock) -> Repaired:
    if store.is_open(log):
        raise LogInUse(f"{log} is open in this process: close it, and try again")
    if not (log / directory.INDEX / DATA).exists():
        # Says so where there is nothing to repair, before anything is made.
        examine(log)
    (log / directory.INDEX).mkdir(exist_ok=True)
    (log / directory.FILES).mkdir(exist_ok=True)
    with alone(log):
        before = examine(log, alone=True)
        found = salvage(log)
        if before.sound and not found.notes and not found.holes:
            return Repaired(before, before)
        work = _Repair(log, found, clock.now())
        work.run(before)
    return Repaired(before, examine(log), tuple(work.changes), work.aside)


class _Repair:
    """One repair of a log that nobody else has open."""

    def __init__(self, log: Path, found: Salvaged, now: int) -> None:
        self._log = log
        self._files = log / directory.FILES
        self._found = found
        self._now = now
        self._away: list[Path] = []
        self.aside = _fresh(log / directory.QUARANTINE, now)
        self._uuid = ""
        self._unframed: dict[int, Path] = {}
        self.changes = [Finding("loss", note) for note in found.notes]

    def run(self, before: Report) -> None:
        rowed = self._rowed()
        tables = Tables.read(
            self._files, self._uuids(), [n for n, row in rowed.items() if row.state == "trash"]
        )
        for number, path in self._numbered():
            if path.suffix == ".arrows" and _unframed(path, rowed.get(number)):
                self._unframed[number] = path
        (self.aside / _NEW).mkdir()
        mending: Mending | None = None

        def write(put: Put) -> None:
            nonlocal mending
            mending = Mending(self._files, self._found, tables, put, self._unframed)
            mending.run()
            self._others(put, mending)
            self._file_rows(put, mending, rowed)
            self._numbers(put, mending, tables)

        _written(self.aside / _NEW, write)
        assert mending is not None
        self.changes += mending.findings
        for number, path in self._unframed.items():
            if mending.inside[number]:
                self._frame(mending, number, path)
        for number in mending.live:
            # What was committed without waiting for the disk is in the new index, which is synced.
            _sync(files.path_of(self._files, number, mending.live[number].kind))
        # Whoever is killed behind the exchange tells nobody what is lost, and the next repair finds nothing to do.
        _note(self.aside / _REPORT, before, self.changes)
        self._exchange()

    def _rowed(self) -> dict[int, FileRow]:
        return {
            int.from_bytes(key[1:], "big"): rows.unpack(FileRow, value)
            for key, value in self._found.few.items()
            if key[:1] == rows.FILE
        }

    def _uuids(self) -> tuple[str, ...]:
        value = self._found.few.get(rows.META)
        if value is None:
            return ()
        meta: Meta = rows.unpack(Meta, value)
        return (meta.uuid, *meta.origins)

    def _numbered(self) -> list[tuple[int, Path]]:
        found = ((files.number_of(path.name), path) for path in sorted(self._files.iterdir()))
        return [(number, path) for number, path in found if number is not None]

    def _others(self, put: Put, mending: Mending) -> None:
        """Rows that nothing else can tell of: they are taken as they are, if what they are of is there."""
        written = (rows.HEAD, rows.TOPIC, rows.NAME, rows.FILE, rows.TICKS, rows.META, rows.RECENT)
        for key, value in self._found.few.items():
            kind = key[:1]
            if kind in written or (kind == rows.OFFSET and rows.offset_place(key)[1] not in mending.topics):
                continue
            put(key, value)
        for hole in self._found.holes:
            between = [
                words
                for kind, words in _OTHERS.items()
                if hole.low[:1] <= kind and (hole.high is None or kind <= hole.high[:1])
            ]
            if between:
                self.changes.append(
                    Finding(
                        "loss",
                        f"{hole.why}: {', '.join(between)} may be missing {_between(hole.low, hole.high)}",
                    )
                )

    def _file_rows(self, put: Put, mending: Mending, rowed: dict[int, FileRow]) -> None:
        """Which files there are from now on; those with nothing in them that is known go aside."""
        known: set[int] = set()
        for number, lying in mending.live.items():
            row = rowed.get(number)
            path = files.path_of(self._files, number, lying.kind)
            size = path.stat().st_size
            if lying.kind == "commit":
                size = min(max(lying.end, row.end if row else 0), size)
            elif number in self._unframed:
                size = lying.end + len(format.END_OF_STREAM)
            opened = row.opened if row else self._now
            whose = (lying.topic, lying.partition) if lying.kind == "segment" else (0, 0)
            now = FileRow(
                lying.kind, "closed", size, lying.entries, lying.internal, opened, self._now, *whose
            )
            put(rows.number_key(rows.FILE, number), rows.pack(now))
            known.add(number)
            if number in mending.hurt or (row is not None and row.live > lying.entries):
                self._keep(path)
        for number, row in rowed.items():
            path = files.path_of(self._files, number, row.kind)
            if number not in known and (row.state == "trash" or (row.live == 0 and path.exists())):
                put(rows.number_key(rows.FILE, number), rows.pack(row))
                known.add(number)
        for number, path in self._numbered():
            if number not in known:
                self._keep(path)
                self._away.append(path)
                if path.suffix != files.CONTENTS:
                    self.changes.append(
                        Finding("note", f"{path.name} is put aside: nobody knows (any more) what lies in it")
                    )

    def _numbers(self, put: Put, mending: Mending, tables: Tables) -> None:
        few = self._found.few
        value = few.get(rows.META)
        if value is None:
            value = rows.pack(Meta(directory.FORMAT, tables.log or os.urandom(16).hex(), self._now))
        put(rows.META, value)
        self._uuid = rows.unpack(Meta, value).uuid
        ticks = Ticks() if rows.TICKS not in few else rows.unpack_ticks(few[rows.TICKS])
        if rows.TICKS not in few:
            told = [rows.unpack(OnceRow, value).lsn for key, value in few.items() if key[:1] == rows.ONCE]
            ticks = Ticks(max(told, default=0) + _LSN_AHEAD)
            self.changes.append(
                Finding("note", f"the number of the last commit is not known: it is {ticks.lsn} now")
            )
        put(
            rows.TICKS,
            Ticks(
                ticks.lsn,
                max([ticks.file, *mending.live, *(number for number, _ in self._numbered())]),
                max([ticks.topic, *mending.topics, *(topic.schema for topic in mending.topics.values())]),
            ).pack(),
        )
        flushed = few.get(rows.RECENT)
        if flushed is not None or self._found.generation:
            taken = max(int.from_bytes(flushed or b"", "big"), self._found.generation)
            put(rows.RECENT, taken.to_bytes(8, "big"))

    def _frame(self, mending: Mending, number: int, path: Path) -> None:
        """Writes anew what lies around the batches of a segment: its opening, its end, its table of contents."""
        inside = mending.inside[number]
        topic, partition, _ = inside[0]
        entries = sorted((placed.offset, placed.entry) for _, _, placed in inside)
        schema = mending.schema(entries[0][1].schema)
        opening = format.schema_message(schema_from_bytes(schema))
        last = max(entry.position + entry.length for _, entry in entries)
        self._keep(path, copied=True)
        table = files.contents_path(path)
        if table.exists():
            self._keep(table)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(fd, opening, 0)
            os.ftruncate(fd, last)
            os.pwrite(fd, format.END_OF_STREAM, last)
            os.fsync(fd)
        finally:
            os.close(fd)
        found = contents.Contents(
            log=self._uuid,
            topic=topic.name,
            topic_id=topic.id,
            partition=partition,
            schema=schema,
            schema_id=entries[0][1].schema,
            batches=tuple(listed(offset, entry) for offset, entry in entries),
            size=last + len(format.END_OF_STREAM),
            opening=xxhash.xxh3_64_intdigest(opening),
            row=topic,
        )
        fresh = self.aside / _NEW / table.name
        fresh.write_bytes(contents.encode(found))
        _sync(fresh)
        os.rename(fresh, table)
        what = f"{path.name}: its opening, its end and its table of contents are written anew"
        self.changes.append(Finding("note", what))

    def _keep(self, path: Path, *, copied: bool = False) -> None:
        """Keeps a file in the quarantine: under a second name, or as it is now."""
        place = self.aside / directory.FILES / path.name
        place.parent.mkdir(exist_ok=True)
        if copied:
            place.unlink(missing_ok=True)
            shutil.copyfile(path, place)
        elif not place.exists():
            os.link(path, place)

    def _exchange(self) -> None:
        """Puts the new index into the place of the old one."""
        index = self._log / directory.INDEX
        old = self.aside / directory.INDEX
        old.mkdir()
        if (index / DATA).exists():
            os.link(index / DATA, old / DATA)
        above = self._log / directory.RECENT / boot()
        if above.exists() and not self._found.generation:
            # What is not taken must not lie over the new index either.
            os.rename(above, self.aside / directory.RECENT)
        for place in (old, self.aside, self._files, self._log):
            directory.sync(place)
        os.rename(self.aside / _NEW / DATA, index / DATA)
        directory.sync(index)
        if above.exists():
            os.rename(above, self.aside / directory.RECENT)
        for path in self._away:
            path.unlink(missing_ok=True)
        directory.sync(self._files)
        shutil.rmtree(self.aside / _NEW)
        # The table of readers is made anew by who has it alone, before anybody else comes.
        with by_itself(index, MAP_SIZE, writable=True):
            pass


def _unframed(path: Path, row: FileRow | None) -> bool:
    return any(True for _ in frame_problems(path, None if row is None else row.end))


def _written(place: Path, write: Callable[[Put], None]) -> None:
    """A new index, synced."""
    with (
        by_itself(place, _MAP_SIZE, writable=True) as env,
        env.begin(write=True) as transaction,
    ):

        def put(key: bytes, value: bytes) -> None:
            transaction.put(key, rows.seal(key, value))

        write(put)
    (place / "lock.mdb").unlink(missing_ok=True)


def _fresh(quarantine: Path, now: int) -> Path:
    """A directory of its own for what is put aside now."""
    stamp = datetime.fromtimestamp(now / 1e6, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    quarantine.mkdir(exist_ok=True)
    place = quarantine / stamp
    number = 1
    while place.exists():
        place = quarantine / f"{stamp}-{number}"
        number += 1
    place.mkdir()
    return place


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _note(path: Path, before: Report, changes: list[Finding]) -> None:
    told = {
        "before": [asdict(finding) for finding in before.findings],
        "changes": [asdict(change) for change in changes],
    }
    path.write_text(json.dumps(told, indent=1) + "\n")
    _sync(path)


def _between(low: bytes, high: bytes | None) -> str:
    return f"between the rows {low[:32].hex() or 'at the start'} and {'the end' if high is None else high[:32].hex()}"
