"""Damages a small log in every way a disk can, and looks at what readers and the doctor say: a process of its own.

    python -m tests.crash.damage MODE DIRECTORY SCRATCH < cases

A case is a line of JSON: a list of ``[file, position, mask]`` (the byte there is changed by exclusive or) and
``[file, length, null]`` (the file is cut to this length), files by their names in the log's directory. Every case
is answered by a line, ``{"case": number, "outcome": word, "why": text}``. The modes, and their outcomes:

``read``
    An open log reads what its files hold: ``same`` (all rows as they were), ``refused`` (the damaged batches, and
    only they, are said to be damaged, each at its place), ``wrong``.
``doctor``
    The files are examined: ``told`` and ``silent``, where each is right, and ``wrong``.
``use``
    A process opens the log, reads, appends, seals and reads again: outcomes as those of ``read``.
``index-read``
    A process opens a log with a damaged index, reads, appends and reads again: ``same``, ``error`` (one of the
    project's tree, and all else as it was), ``raw`` (an error of another kind), ``other`` (other answers: rows
    may be missing, or trimmed ones be back), ``wrong`` (rows that never were).
``index-doctor``
    The index's pages and the log are examined: ``told`` or ``silent``.

The number of the case at work is kept in ``SCRATCH``, so that a process that dies has shown where. One that hangs
dies of a timer.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from lmdb.verify import VerifyError, verify

from mamba_stream.errors import DataCorrupted, MambaStreamError
from mamba_stream.log import Log, contents, doctor, open_log, recovery, rows
from mamba_stream.log.examination import examine
from mamba_stream.log.files import path_of
from mamba_stream.log.findings import Finding
from tests.crash.planting import plant

INDEX = "index/data.mdb"
Case = list[tuple[str, int, int | None]]
Answer = dict[str, Any]
_PATIENCE = 60

Batches = dict[tuple[str, int, int], list[Any]]
"""Rows by topic, partition and first offset."""

PLAIN = pa.schema([("n", pa.int64()), ("text", pa.large_string()), ("flag", pa.bool_())])
NESTED = pa.schema(
    [
        ("items", pa.large_list(pa.struct([("a", pa.int32()), ("b", pa.large_string())]))),
        ("when", pa.timestamp("us")),
        ("nothing", pa.null()),
        ("amount", pa.decimal128(20, 3)),
    ]
)


def build(path: Path) -> None:
    """A log with a segment for every kind of topic, and a commit file with live, trimmed and abandoned bytes."""
    with open_log(path) as log:
        for compression in ("none", "lz4", "zstd"):
            log.create_topic(compression, PLAIN, compression=compression, partitions=2)
        log.create_topic("nested", NESTED, time="when")
        log.create_topic("dropped", PLAIN)
        for turn in range(2):
            for number in range(2 + turn):
                start = 100 * turn + 10 * number
                for name in ("none", "lz4", "zstd"):
                    log[name].append(_plain(start), partition=number % 2)
                log["nested"].append(_nested(start))
                log["dropped"].append(_plain(start))
            if not turn:
                log["none"].append(_plain(50), partition=0)
                log.seal()
        # Bytes that no row lies in: of a topic that went, of trimmed rows, and of a commit that did not happen.
        log["none"].append(_plain(300), partition=1, producer="p", sequence=0)
        log.delete_topic("dropped")
        log["none"].trim({0: 4})
        with log.transaction() as tx:
            tx.commit_offsets("group", {("none", 1): 1})
            tx.put_record("space", "key", b"value")
    with max((path / "files").glob("*.commit")).open("r+b") as file:
        abandoned = file.read(1024)
        file.seek(0, os.SEEK_END)
        file.write(abandoned)


def _plain(start: int) -> pa.Table:
    return pa.table(
        [
            [start, None, start + 2],
            ["x" * (start % 7), "zebra", None],
            [True, None, False],
        ],
        schema=PLAIN,
    )


def _nested(start: int) -> pa.Table:
    rows = [{"a": start, "b": "one"}, {"a": None, "b": None}]
    return pa.Table.from_pylist(
        [
            {"items": rows, "when": start, "nothing": None, "amount": None},
            {"items": None, "when": None, "nothing": None, "amount": 12},
            {"items": [], "when": start + 5, "nothing": None, "amount": -1},
        ],
        schema=NESTED,
    )


@dataclass(frozen=True)
class Range:
    """Bytes of a file that a batch lies in."""

    start: int
    stop: int
    batch: tuple[str, int, int]


class Reading:
    """An open log whose files are damaged under it, as a process finds them that reads for the first time."""

    def __init__(self, path: Path) -> None:
        self.log = open_log(path)
        self.store = self.log._store
        self.ranges: dict[str, list[Range]] = {}
        for row in self.store.topics():
            for partition, head in self.store.shelf.heads(row).items():
                for placed in self.store.shelf.entries(row, partition, head.begin, 1 << 20):
                    entry = placed.entry
                    name = path_of(Path("files"), entry.file, entry.kind)
                    batch = (row.name, partition, max(placed.offset, head.begin))
                    found = Range(entry.position, entry.position + entry.length, batch)
                    self.ranges.setdefault(str(name), []).append(found)
        self.expected, damaged = look(self.log)
        assert not damaged
        assert self.expected

    def rows(self) -> Iterator[tuple[str, rows.FileRow]]:
        """The files that the index knows."""
        for key, value in self.store.items(rows.FILE):
            row = rows.unpack(rows.FileRow, value)
            yield str(path_of(Path("files"), int.from_bytes(key[1:], "big"), row.kind)), row

    def hurt(self, case: Case) -> list[Range]:
        """Where the damage meets a batch."""
        return [
            r
            for name, at, mask in case
            for r in self.ranges.get(name, [])
            if at < r.stop and (mask is None or r.start <= at)
        ]

    def forget(self) -> None:
        """Nothing is mapped, nothing is known to be sound."""
        self.store.maps.clear()
        self.store.shelf._verified.clear()

    def wrong(self, case: Case) -> list[str]:
        """What is wrong with what readers say of this damage."""
        hurt = {r.batch for r in self.hurt(case)}
        wrong = judged(self.expected, hurt, *look(self.log))
        # A reader of one column, alone, gives the right values or none.
        near = {batch[:2] for batch in hurt}
        for column in sorted({column for name, _ in near for column in self.log[name].schema.names}):
            self.store.shelf._verified.clear()
            places = {place for place in near if column in self.log[place[0]].schema.names}
            for place, values in look(self.log, places, [column])[0].items():
                if values != [{column: row[column]} for row in self.expected[place]]:
                    wrong.append(f"other values of {column} at {place}")
        return wrong


def look(
    log: Log, only: set[tuple[str, int]] | None = None, columns: list[str] | None = None
) -> tuple[Batches, set[tuple[str, int, int]]]:
    """All batches that can be read, and the places of those that are said to be damaged."""
    found: Batches = {}
    damaged = set()
    for name in log.topics():
        topic = log[name]
        for partition in range(topic.partitions):
            if only is not None and (name, partition) not in only:
                continue
            reader = topic.reader(partitions=[partition], columns=columns)
            while not reader.at_end:
                position = reader.positions[partition]
                try:
                    [batch] = reader.poll(max_rows=1)
                except DataCorrupted as error:
                    assert (error.topic, error.partition) == (name, partition), str(error)
                    damaged.add((name, partition, position))
                    row = log._store.topic(name)
                    assert row is not None
                    placed = log._store.shelf.entry(row, partition, position)
                    assert placed is not None
                    assert error.offset == placed.offset
                    reader.seek({partition: placed.next_offset})
                else:
                    found[name, partition, batch.offset] = batch.data.to_pylist()
    return found, damaged


def judged(
    expected: Batches,
    hurt: set[tuple[str, int, int]],
    found: Batches,
    damaged: set[tuple[str, int, int]],
) -> list[str]:
    """What is wrong with these rows and this damage, where some batches are hurt."""
    wrong = []
    if damaged != hurt:
        wrong.append(f"{sorted(hurt)} are damaged, {sorted(damaged)} are said to be")
    sound = _by_row({place: batch for place, batch in expected.items() if place not in hurt})
    seen = _by_row(found)
    if seen != sound:
        differing = [p for p in seen.keys() | sound.keys() if seen.get(p) != sound.get(p)]
        wrong.append(f"other rows at {sorted(differing)}")
    return wrong


def _by_row(batches: Batches) -> dict[tuple[str, int, int], Any]:
    """Row by row: to seal a log makes other batches of them."""
    return {
        (topic, partition, offset + at): row
        for (topic, partition, offset), batch in batches.items()
        for at, row in enumerate(batch)
    }


def _read(path: Path, cases: Iterator[Case]) -> Iterator[Answer]:
    reading = Reading(path)
    for case in cases:
        with damaged(path, case):
            reading.forget()
            wrong = reading.wrong(case)
            reading.store.maps.clear()
        yield _outcome(wrong, "refused" if reading.hurt(case) else "same")
    reading.forget()
    assert not judged(reading.expected, set(), *look(reading.log))
    reading.log.close()


def _doctor(path: Path, cases: Iterator[Case]) -> Iterator[Answer]:
    """The doctor finds what hits a live batch, a segment's frame, or a table of contents; nothing else."""
    reading = Reading(path)
    known = dict(reading.rows())
    reading.log.close()
    gone = {name for name, row in known.items() if row.state == "trash"}
    dead = {name: _dead(path / name, reading.ranges.get(name, [])) for name in known}
    assert findings(path) == []
    for case in cases:
        with damaged(path, case):
            found = findings(path)
        [[name, at, mask]] = case
        if name.replace(".toc", ".arrows") in gone:
            told = False
        elif name.endswith(".commit"):
            told = bool(reading.hurt(case)) or (mask is None and at < known[name].end)
        else:
            # The opening and the end of a segment belong to no batch; those that were trimmed away to nobody.
            told = mask is None or not any(start <= at < stop for start, stop in dead.get(name, []))
        wrong = (
            [f"the doctor says {found}, where {reading.hurt(case)} are hurt"] if told != bool(found) else []
        )
        yield _outcome(wrong, "told" if told else "silent")


def _dead(path: Path, live: list[Range]) -> list[tuple[int, int]]:
    """Where in a segment batches lie that no longer are in the log."""
    if path.suffix != ".arrows":
        return []
    toc = contents.decode(path.with_suffix(".toc").read_bytes())
    starts = {r.start for r in live}
    return [(b.position, b.position + b.length) for b in toc.batches if b.position not in starts]


def findings(path: Path) -> list[str]:
    """What the doctor calls damaged or lost."""
    found: list[Finding] = []
    examine(path, found.append)
    return [f.what for f in found if f.severity != "note"]


def _use(path: Path, cases: Iterator[Case]) -> Iterator[Answer]:
    reading = Reading(path)
    reading.log.close()
    pristine = Picture(path)
    for case in cases:
        hurt = {r.batch for r in reading.hurt(case)}
        pristine.restore(case)
        with open_log(path) as log:
            wrong = judged(reading.expected, hurt, *look(log))
            expected = reading.expected | _appended(log)
            log.seal()
            log._store.maps.clear()
            log._store.shelf._verified.clear()
            wrong += judged(expected, hurt, *look(log))
        yield _outcome(wrong, "refused" if hurt else "same")


def _appended(log: Log) -> Batches:
    """Rows that are appended now."""
    found: Batches = {}
    for name in ("none", "lz4", "nested"):
        table = _nested(700) if name == "nested" else _plain(700)
        [(first, _)] = log[name].append(table, partition=0).values()
        found[name, 0, first] = table.to_pylist()
    return found


def _outcome(wrong: list[str], right: str) -> Answer:
    return {"outcome": "wrong", "why": "; ".join(wrong)} if wrong else {"outcome": right, "why": ""}


class Picture:
    """What a log's index and files hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = {name: (path / name).read_bytes() for name in files_of(path)}

    def restore(self, case: Case) -> None:
        """Puts everything back as it was, but for the damage of this case."""
        for file in (self._path / "files").iterdir():
            if f"files/{file.name}" not in self._held:
                file.unlink()
        for name, data in self._held.items():
            (self._path / name).write_bytes(changed(data, [c for c in case if c[0] == name]))
        # Whoever opens it first sets the table of locks right.
        (self._path / "index" / "lock.mdb").unlink(missing_ok=True)


def files_of(path: Path) -> list[str]:
    """The names of a log's files that may be damaged, in its directory."""
    return [INDEX, *sorted(f"files/{file.name}" for file in (path / "files").iterdir())]


def changed(data: bytes, damage: Case) -> bytes:
    """The bytes with this damage."""
    new = bytearray(data)
    for _, at, mask in damage:
        if mask is None:
            del new[at:]
        else:
            new[at] ^= mask
    return bytes(new)


@contextmanager
def damaged(path: Path, case: Case) -> Iterator[None]:
    """Files are damaged, in place, for as long as the block lasts."""
    before = {name: (path / name).read_bytes() for name, _, _ in case}
    for name, data in before.items():
        _overwrite(path / name, changed(data, [c for c in case if c[0] == name]))
    yield
    for name, data in before.items():
        _overwrite(path / name, data)


def _overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def _index_read(path: Path, cases: Iterator[Case]) -> Iterator[Answer]:
    pristine = Picture(path)
    with open_log(path) as log:
        before = _everything(log)
        added = _appended(log)
        after = {**_everything(log), "lsn": None}
    for case in cases:
        pristine.restore(case)
        outcome, why = "same", ""
        try:
            with open_log(path) as log:
                outcome, why = _compared(before, _everything(log))
                if outcome == "same":
                    assert _appended(log) == added
                    outcome, why = _compared(after, {**_everything(log), "lsn": None})
        except MambaStreamError as error:
            outcome, why = "error", f"{type(error).__name__}: {error}"
        except Exception as error:
            outcome, why = "raw", repr(error)
        yield {"outcome": outcome, "why": why}


def _compared(expected: dict[str, Any], found: dict[str, Any]) -> tuple[str, str]:
    errors, others = [], []
    for place, before in expected.items():
        after = found[place]
        if isinstance(after, MambaStreamError):
            errors.append(f"{place}: {type(after).__name__}: {after}")
        elif after != before:
            others.append(f"{place}: {str(before)[:80]} became {str(after)[:80]}")
            once = _TRIMMED if place == "none/0" else {}
            if "/" in place and not _by_offset(after).items() <= (_by_offset(before) | once).items():
                return "wrong", others[-1]
    if others:
        return "other", "; ".join(others)
    return ("error", errors[0]) if errors else ("same", "")


def _by_offset(batches: list[tuple[int, list[Any]]]) -> dict[int, str]:
    return {offset + n: repr(row) for offset, rows in batches for n, row in enumerate(rows)}


_TRIMMED = _by_offset([(0, _plain(0).to_pylist()), (3, _plain(50).to_pylist())])
"""The rows of ``none/0`` that an older state of the index still has."""


def _everything(log: Log) -> dict[str, Any]:
    """All that a log tells, by what was asked; an error of the tree stands for the answer it came instead of."""
    found: dict[str, Any] = {}

    def ask(what: str, question: Callable[[], Any]) -> None:
        try:
            found[what] = question()
        except MambaStreamError as error:
            found[what] = error

    for name in ("none", "lz4", "zstd", "nested"):
        for partition in range(1 if name == "nested" else 2):
            ask(
                f"{name}/{partition}",
                lambda n=name, p=partition: [  # type: ignore[misc]
                    (b.offset, b.data.to_pylist()) for b in log[n].read(partitions=[p])
                ],
            )
        ask(f"{name} ends", lambda n=name: log[n].offsets())  # type: ignore[misc]
    ask("topics", log.topics)
    ask("group", lambda: log.group_offsets("group"))
    ask("record", lambda: log.record("space", "key"))
    ask("lsn", log.lsn)
    return found


def _index_doctor(path: Path, cases: Iterator[Case]) -> Iterator[Answer]:
    pristine = Picture(path)
    for case in cases:
        pristine.restore(case)
        try:
            told = verify(str(path / "index"))
        except VerifyError as error:
            told = [str(error)]
        told += doctor.metas(path / "index")
        try:
            told += findings(path)
        except Exception as error:
            # The doctor runs this in a process of its own, whose end by an error is a finding.
            told.append(repr(error))
        yield {"outcome": "told" if told else "silent", "why": "; ".join(told[:4])}


def main() -> None:
    mode, path, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    cases: list[Case] = [json.loads(line) for line in sys.stdin]
    # What waits for its removal stays, however long this runs.
    recovery.TRASH_DELAY = 1 << 62
    plant(os.environ.get("CRASH_PLANT", ""))
    with scratch.open("w+b") as file:
        file.truncate(8)
        progress = mmap.mmap(file.fileno(), 8)

    def begun() -> Iterator[Case]:
        for number, case in enumerate(cases):
            struct.pack_into("<q", progress, 0, number)
            signal.alarm(_PATIENCE)
            yield case

    for number, answer in enumerate(_MODES[mode](path, begun())):
        print(json.dumps({"case": number, **answer}), flush=True)


_MODES = {
    "read": _read,
    "doctor": _doctor,
    "use": _use,
    "index-read": _index_read,
    "index-doctor": _index_doctor,
}

if __name__ == "__main__":
    main()
