"""Damages a small log in every way a disk can, and looks at what readers and the doctor say: a process of its own.

    python -m tests.crash.damage MODE DIRECTORY SCRATCH < cases

``MODE`` is ``read`` or ``doctor``: a case is a line of JSON, ``[file, position, mask]`` (the byte there is changed
by exclusive or) or ``[file, length, null]`` (the file is cut to this length), and what is wrong is answered by a
line of JSON. Or ``index-read`` and ``index-doctor``: a case is a list of ``[position, mask]`` in the index, and
every one is answered. The number of the case at work is kept in ``SCRATCH``, so that a process that dies has shown
where.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from lmdb.verify import VerifyError, verify

from mamba_stream.errors import DataCorrupted, MambaStreamError
from mamba_stream.log import Log, contents, open_log, rows
from mamba_stream.log.examination import Finding, examine
from mamba_stream.log.files import path_of

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
    """A log with a segment for every kind of topic, and a commit file with live, trimmed and refused bytes."""
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
        # Bytes that no row lies in: of a repeated append, of a topic that went, and of trimmed rows.
        for _ in range(2):
            log["none"].append(_plain(300), partition=1, producer="p", sequence=0)
        log.delete_topic("dropped")
        log["none"].trim({0: 2})
        with log.transaction() as tx:
            tx.commit_offsets("group", {("none", 1): 1})
            tx.put_record("space", "key", b"value")


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
                    name = path_of(self.store.files, entry.file, entry.kind).name
                    batch = (row.name, partition, max(placed.offset, head.begin))
                    found = Range(entry.position, entry.position + entry.length, batch)
                    self.ranges.setdefault(name, []).append(found)
        self.expected, damaged = self.look()
        assert not damaged
        assert self.expected

    def gone(self) -> set[str]:
        """The files in which nothing lies any more, and that only wait for their removal."""
        found = set()
        for key, value in self.store.items(rows.FILE):
            row = rows.unpack(rows.FileRow, value)
            if row.state == "trash":
                path = path_of(self.store.files, int.from_bytes(key[1:], "big"), row.kind)
                found |= {path.name, path.with_suffix(".toc").name}
        return found

    def forget(self) -> None:
        """Nothing is mapped, nothing is known to be sound."""
        self.store.maps.clear()
        self.store.shelf._verified.clear()

    def look(
        self, only: set[tuple[str, int]] | None = None, columns: list[str] | None = None
    ) -> tuple[Batches, set[tuple[str, int, int]]]:
        """All batches that can be read, and the places of those that are said to be damaged."""
        found: Batches = {}
        damaged = set()
        for name in self.log.topics():
            topic = self.log[name]
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
                        row = self.store.topic(name)
                        assert row is not None
                        placed = self.store.shelf.entry(row, partition, position)
                        assert placed is not None
                        assert error.offset == placed.offset
                        reader.seek({partition: placed.next_offset})
                    else:
                        found[name, partition, batch.offset] = batch.data.to_pylist()
        return found, damaged

    def wrong(self, case: list[Any], *, wide: bool) -> list[str]:
        """What is wrong with what readers say of this damage; ``wide``: of all batches, not only of the damaged."""
        name, at, mask = case
        ranges = self.ranges.get(name, [])
        hurt = {r.batch for r in ranges if (r.start <= at < r.stop if mask is not None else at < r.stop)}
        near = {batch[:2] for batch in hurt}
        if not wide:
            return [f"{place} is damaged, and is read" for place in sorted(hurt) if not self._refused(*place)]
        found, damaged = self.look()
        expected = {place: batch for place, batch in self.expected.items() if place not in hurt}
        wrong = []
        if damaged != hurt:
            wrong.append(f"{sorted(hurt)} are damaged, {sorted(damaged)} are said to be")
        if found != expected:
            differing = [p for p in found.keys() | expected.keys() if found.get(p) != expected.get(p)]
            wrong.append(f"other rows at {sorted(differing)}")
        for column in self._columns(near):
            wrong += self._column(column, near)
        return wrong

    def _refused(self, name: str, partition: int, offset: int) -> bool:
        """Whether a reader that stands there is told that the batch is damaged."""
        reader = self.log[name].reader(start={partition: offset}, partitions=[partition])
        try:
            reader.poll(max_rows=1)
        except DataCorrupted as error:
            return (error.topic, error.partition) == (name, partition)
        return False

    def _columns(self, near: set[tuple[str, int]]) -> list[str]:
        return sorted({column for name, _ in near for column in self.log[name].schema.names})

    def _column(self, column: str, near: set[tuple[str, int]]) -> list[str]:
        """A reader of one column, alone, gives the right values or none."""
        wrong = []
        places = {place for place in near if column in self.log[place[0]].schema.names}
        self.store.shelf._verified.clear()
        found, _ = self.look(places, [column])
        for place, values in found.items():
            if values != [{column: row[column]} for row in self.expected[place]]:
                wrong.append(f"other values of {column} at {place}")
        return wrong


def _read(path: Path, cases: list[list[Any]], working: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    reading = Reading(path)
    for number, case in enumerate(cases):
        working(number)
        with damaged(path / "files" / case[0], case[1], case[2]):
            reading.forget()
            wrong = reading.wrong(case, wide=number % 16 == 0)
            reading.store.maps.clear()
        if wrong:
            yield {"case": case, "wrong": wrong}
    reading.forget()
    found, _ = reading.look()
    assert found == reading.expected
    reading.log.close()


def _doctor(path: Path, cases: list[list[Any]], working: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """The doctor finds what hits a live batch, a segment's frame, or a table of contents; nothing else."""
    reading = Reading(path)
    ranges = reading.ranges
    gone = reading.gone()
    reading.log.close()
    frames = {p.name: p.stat().st_size for p in (path / "files").iterdir()}
    assert findings(path) == []
    for number, case in enumerate(cases):
        working(number)
        name, at, mask = case
        with damaged(path / "files" / name, at, mask):
            found = findings(path)
        live = [
            r for r in ranges.get(name, []) if (r.start <= at < r.stop if mask is not None else at < r.stop)
        ]
        if name in gone:
            told = False
        elif name.endswith(".commit"):
            told = bool(live) or (mask is None and at < frames[name])
        else:
            # The opening and the end of a segment belong to no batch; those that were trimmed away to nobody.
            dead = [r for r in _dead(path, name, ranges.get(name, [])) if r[0] <= at < r[1]]
            told = mask is None or not dead
        if told != bool(found):
            yield {"case": case, "wrong": [f"the doctor says {found}, where batches are {live}"]}


def _dead(path: Path, name: str, live: list[Range]) -> list[tuple[int, int]]:
    """Where in a segment batches lie that no longer are in the log."""
    if not name.endswith(".arrows"):
        return []
    toc = contents.decode((path / "files" / name).with_suffix(".toc").read_bytes())
    starts = {r.start for r in live}
    return [(b.position, b.position + b.length) for b in toc.batches if b.position not in starts]


def findings(path: Path) -> list[str]:
    """What the doctor calls damaged or lost."""
    found: list[Finding] = []
    examine(path, found.append)
    return [f.what for f in found if f.severity != "note"]


class damaged:  # noqa: N801  # reads as a word in a with statement
    """A file with one byte changed, or cut short, for as long as the block lasts."""

    def __init__(self, path: Path, at: int, mask: int | None) -> None:
        self._path = path
        self._at = at
        self._mask = mask

    def __enter__(self) -> None:
        if self._mask is None:
            self._whole = self._path.read_bytes()
            os.truncate(self._path, self._at)
        else:
            self._flip()

    def __exit__(self, *_: object) -> None:
        if self._mask is None:
            self._path.write_bytes(self._whole)
        else:
            self._flip()

    def _flip(self) -> None:
        fd = os.open(self._path, os.O_RDWR)
        try:
            [byte] = os.pread(fd, 1, self._at)
            os.pwrite(fd, bytes([byte ^ (self._mask or 0)]), self._at)
        finally:
            os.close(fd)


def _index_read(
    path: Path, cases: list[list[Any]], working: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """What readers see through a damaged index: ``same``, ``error`` (one of the tree), ``raw`` (another), ``other``."""
    index = path / "index" / "data.mdb"
    pristine = index.read_bytes()
    with open_log(path) as log:
        expected = _everything(log)
    for number, flips in enumerate(cases):
        working(number)
        index.write_bytes(_flipped(pristine, flips))
        # Whoever opens it first sets the table of locks right.
        (path / "index" / "lock.mdb").unlink(missing_ok=True)
        outcome, why = "same", ""
        try:
            with open_log(path) as log:
                found = _everything(log)
            for place in sorted(expected.keys() | found.keys()):
                before, after = expected.get(place), found.get(place)
                if isinstance(after, MambaStreamError):
                    if outcome == "same":
                        outcome, why = "error", f"{place}: {type(after).__name__}: {after}"
                elif after != before:
                    outcome, why = "other", f"{place}: {str(before)[:80]} became {str(after)[:80]}"
                    break
        except MambaStreamError as error:
            outcome, why = "error", f"{type(error).__name__}: {error}"
        except Exception as error:
            outcome, why = "raw", repr(error)
        yield {"case": number, "outcome": outcome, "why": why}


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


def _index_doctor(
    path: Path, cases: list[list[Any]], working: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """What the doctor says of a damaged index."""
    index = path / "index" / "data.mdb"
    pristine = index.read_bytes()
    for number, flips in enumerate(cases):
        working(number)
        index.write_bytes(_flipped(pristine, flips))
        (path / "index" / "lock.mdb").unlink(missing_ok=True)
        try:
            told = verify(str(path / "index"))
        except VerifyError as error:
            told = [str(error)]
        try:
            told += findings(path)
        except Exception as error:
            # The doctor runs this in a process of its own, whose end by an error is a finding.
            told.append(repr(error))
        yield {"case": number, "told": told[:4]}


def _flipped(data: bytes, flips: list[list[int]]) -> bytes:
    changed = bytearray(data)
    for at, mask in flips:
        changed[at] ^= mask
    return bytes(changed)


def main() -> None:
    mode, path, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    cases = [json.loads(line) for line in sys.stdin]
    with scratch.open("w+b") as file:
        file.truncate(8)
        progress = mmap.mmap(file.fileno(), 8)

    def working(number: int) -> None:
        struct.pack_into("<q", progress, 0, number)

    for answer in _MODES[mode](path, cases, working):
        print(json.dumps(answer), flush=True)
    working(len(cases))


_MODES = {"read": _read, "doctor": _doctor, "index-read": _index_read, "index-doctor": _index_doctor}

if __name__ == "__main__":
    main()
