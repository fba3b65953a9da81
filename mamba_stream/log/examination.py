"""Examines a whole log: every row of the index, every byte of the files, and the one against the other.

It reads, and changes nothing; it may run beside writers. Damage to the index can crash the database
library, so :mod:`mamba_stream.log.doctor` runs this module as a process of its own::

    python -m mamba_stream.log.examination DIRECTORY [--alone]

which prints its findings as JSON, one a line.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import lmdb
import pyarrow as pa
import xxhash

from mamba_stream.core.schemas import fingerprint, schema_from_bytes
from mamba_stream.errors import LogUnavailable, MambaStreamError
from mamba_stream.log import contents, directory, dropping, files, format, recent, rows, strays
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, FileRow, Head, Meta, TopicRow
from mamba_stream.log.views import View

_MASK = (1 << 64) - 1
_PAGE = 2048
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is missing then is not in the file."""
ALONE = "--alone"
"""Said to the process that examines: whoever began it has the log alone."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        severity: ``damage`` (data or index), ``loss`` (published bytes are gone), or ``note`` (harmless).
        what: In words.
        topic: The topic, where known; likewise partition and the first and next offset.
    """

    severity: str
    what: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    next_offset: int | None = None


@dataclass
class _Found:
    topics: dict[int, TopicRow] = field(default_factory=dict)
    layouts: dict[int, format.Layout] = field(default_factory=dict)
    files: dict[int, FileRow] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)
    ranges: dict[int, list[tuple[int, int, str]]] = field(default_factory=dict)
    rows: int = 0
    batches: int = 0
    bytes: int = 0


def examine(path: Path, report: Callable[[Finding], None], *, lock: bool = True) -> dict[str, int]:
    """Examines the log in ``path``; reports each finding, and returns what was looked at, counted.

    Without ``lock`` nobody may have the log open but whoever had this called.
    """
    found = _Found()
    if why := recent.missing(path / directory.RECENT):
        report(Finding("loss", why))
    index = path / directory.INDEX
    env = lmdb.open(str(index), subdir=True, readonly=True, max_readers=1024, lock=lock)
    try:
        for finding in _index(env, found):
            report(finding)
        for place in sorted(found.topics):
            for finding in _topic(env, path / directory.FILES, found, found.topics[place]):
                report(finding)
        # Files come and go while writers work: what was met is held against the rows as they are now.
        with env.begin() as transaction:
            for key, sealed in _between(transaction, rows.FILE, rows.OFFSET):
                with contextlib.suppress(Damaged, ValueError):
                    list(_noted(key, rows.unseal(key, sealed), found))
        for finding in _files(env, path / directory.FILES, found):
            report(finding)
        for finding in _unknown(env, path / directory.FILES):
            report(finding)
    finally:
        env.close()
    return {
        "topics": len(found.topics),
        "files": len(found.files),
        "batches": found.batches,
        "rows": found.rows,
        "bytes": found.bytes,
    }


def _index(env: lmdb.Environment, found: _Found) -> Iterator[Finding]:
    """Every row's checksum, and that rows which name each other exist."""
    names: dict[bytes, int] = {}
    schemas: dict[int, bytes] = {}
    heads: set[tuple[int, int]] = set()
    # All but the entries are few, and read as of one moment: a writer at work is not damage.
    with env.begin() as transaction:
        few = list(_between(transaction, b"\x01", rows.ENTRY))
        astray = _astray(transaction, few)
    for key, sealed in few:
        try:
            value = rows.unseal(key, sealed)
            if key[:1] == rows.NAME:
                names[key] = int.from_bytes(value, "big")
            elif key[:1] == rows.SCHEMA:
                schemas[int.from_bytes(key[1:], "big")] = value
            elif key[:1] == rows.HEAD:
                rows.unpack_head(value)
                heads.add(rows.partition_place(key))
            else:
                yield from _noted(key, value, found)
        except (Damaged, ValueError) as error:
            yield Finding("damage", f"index: {error}")
    yield from _topics(found, names, schemas, heads)
    orphans: set[int] = set()
    for key, sealed in _entries(env, astray):
        try:
            rows.unseal(key, sealed)
            topic = rows.entry_place(key)[0]
            if topic not in found.topics:
                orphans.add(topic)
        except (Damaged, ValueError, struct.error) as error:
            yield Finding("damage", f"index: {error}", **_where(key, found))
    for topic in orphans:
        with env.begin() as transaction:
            created = transaction.get(rows.number_key(rows.TOPIC, topic)) is not None
            deleted = transaction.get(dropping.record_key(topic)) is not None
        if not created and not deleted:
            yield Finding("damage", f"index: entries of topic #{topic}, which does not exist")
    for key in astray:
        yield Finding(
            "damage",
            f"index: the row {key[:64].hex()} is not found by its key; a page that leads to it is damaged",
            **_where(key, found),
        )


def _noted(key: bytes, value: bytes, found: _Found) -> Iterator[Finding]:
    if key[:1] == rows.META:
        meta = rows.unpack(Meta, value)
        if meta.format > directory.FORMAT:
            yield Finding("note", f"the log has the newer format {meta.format}")
    elif key[:1] == rows.TOPIC:
        topic = rows.unpack(TopicRow, value)
        found.topics[topic.id] = topic
    elif key[:1] == rows.FILE:
        found.files[int.from_bytes(key[1:], "big")] = rows.unpack(FileRow, value)


def _topics(
    found: _Found, names: dict[bytes, int], schemas: dict[int, bytes], heads: set[tuple[int, int]]
) -> Iterator[Finding]:
    """That every topic has its name, its schema and its partitions, and every name its topic."""
    for number, topic in list(found.topics.items()):
        if names.pop(rows.name_key(topic.name), None) != number:
            yield Finding("damage", "index: the topic's name leads elsewhere", topic.name)
        for partition in range(topic.partitions):
            if (number, partition) not in heads:
                yield Finding("damage", "index: the partition's state is missing", topic.name, partition)
        for version, _ in topic.versions:
            try:
                schema = schema_from_bytes(schemas[version])
                found.layouts[version] = format.Layout.of(schema, fingerprint(schema))
            except (KeyError, MambaStreamError):
                which = "schema" if version == topic.schema else f"earlier schema #{version}"
                yield Finding("damage", f"index: the topic's {which} is missing or damaged", topic.name)
        if topic.schema not in found.layouts:
            del found.topics[number]
    for key in names:
        yield Finding("damage", f"index: the name {key[1:].decode(errors='replace')!r} leads nowhere")


def _topic(env: lmdb.Environment, where: Path, found: _Found, topic: TopicRow) -> Iterator[Finding]:
    for partition in range(topic.partitions):
        # One view of head and entries, so that a writer at work is not taken for damage.
        with env.begin() as transaction:
            sealed = transaction.get(rows.head_key(topic.id, partition))
            if sealed is None:
                continue
            try:
                head = rows.unpack_head(rows.unseal(rows.head_key(topic.id, partition), sealed))
            except Damaged:
                continue
            prefix = rows.entry_prefix(topic.id, partition)
            entries: list[tuple[bytes, bytes]] = []
            with transaction.cursor() as cursor:
                if cursor.set_range(prefix):
                    for key, value in cursor.iternext():
                        if not key.startswith(prefix):
                            break
                        entries.append((key, value))
        yield from _partition(env, where, found, topic, partition, head, entries)


def _partition(
    env: lmdb.Environment,
    where: Path,
    found: _Found,
    topic: TopicRow,
    partition: int,
    head: Head,
    entries: list[tuple[bytes, bytes]],
) -> Iterator[Finding]:
    chain, expected, seen = 0, None, 0
    told: set[int] = set()
    for key, sealed in entries:
        try:
            value = rows.unseal(key, sealed)
            entry = rows.unpack_entry(value)
        except (Damaged, ValueError):
            expected = None
            continue
        offset = rows.entry_place(key)[2]
        place: dict[str, Any] = {"topic": topic.name, "partition": partition}
        if expected is not None and offset != expected:
            yield Finding(
                "damage",
                "index: entries do not follow each other",
                **place,
                offset=expected,
                next_offset=offset,
            )
        expected = offset + entry.span
        chain = (chain + rows.entry_hash(key, value)) & _MASK
        seen += 1
        if entry.lost:
            what = "lost: a repair has given up what was damaged there"
            yield Finding("note", what, **place, offset=offset, next_offset=expected)
            continue
        found.live[entry.file] = found.live.get(entry.file, 0) + 1
        found.ranges.setdefault(entry.file, []).append(
            (entry.position, entry.position + entry.length, topic.name)
        )
        found.rows += entry.rows
        found.batches += 1
        found.bytes += entry.length
        now: tuple[int, Entry] | None = offset, entry
        while (problem := problem_of(where, found.layouts.get(entry.schema), entry)) is not None:
            now = _holding(env, topic.id, partition, offset)
            if now is None or now == (offset, entry):
                break
            # It was sealed or merged meanwhile.
            offset, entry = now
        if problem is not None and now is not None and offset not in told:
            severity, what = problem
            told.add(offset)
            yield Finding(severity, what, **place, offset=offset, next_offset=offset + entry.span)
    if seen != head.entries or chain != head.chain:
        yield Finding(
            "damage",
            f"index: the partition has {seen} sound entries where its state counts {head.entries}"
            if seen != head.entries
            else "index: the partition's entries do not match the checksum over them",
            topic.name,
            partition,
        )
    elif expected is not None and expected != head.end:
        yield Finding(
            "damage",
            f"index: the last entry ends at {expected}, the partition at {head.end}",
            topic.name,
            partition,
        )


def _holding(env: lmdb.Environment, topic: int, partition: int, offset: int) -> tuple[int, Entry] | None:
    """The entry that holds an offset as of now, and where it begins; ``None`` where it was trimmed or deleted."""
    prefix = rows.entry_prefix(topic, partition)
    with env.begin() as transaction, contextlib.suppress(Damaged):
        view = View(transaction)
        key = view.floor(rows.entry_key(topic, partition, offset), prefix)
        value = None if key is None else view.get(key)
        if key is not None and value is not None:
            first, entry = rows.entry_place(key)[2], rows.unpack_entry(value)
            return (first, entry) if offset < first + entry.span else None
    return None


def problem_of(where: Path, layout: format.Layout | None, entry: Entry) -> tuple[str, str] | None:
    """What is wrong with a batch's bytes, and how severe that is; ``None`` if nothing.

    Raises:
        LogUnavailable: They cannot be looked at now.
    """
    path = files.path_of(where, entry.file, entry.kind)
    try:
        with path.open("rb") as file:
            data = os.pread(file.fileno(), entry.length, entry.position)
    except FileNotFoundError:
        return "loss", f"its file {path.name} is missing"
    except OSError as error:
        if error.errno in _SHORT:
            raise LogUnavailable(f"{path} cannot be read now: {error.strerror}") from error
        return "damage", f"{path.name} cannot be read: {error.strerror}"
    if len(data) < entry.length:
        return "loss", f"its file {path.name} ends before it"
    if layout is None:
        return "damage", "its schema is unknown"
    try:
        view = memoryview(data)
        table = format.verify_header(view, layout, entry.header)
        format.verify_columns(view, table, range(len(table.checksums)))
        batch = format.decode(pa.py_buffer(data), layout, None, entry.compressed)
        batch.validate(full=True)
        if batch.num_rows != entry.rows:
            return "damage", f"it holds {batch.num_rows} rows, the index says {entry.rows}"
    except (Damaged, pa.ArrowInvalid) as error:
        return "damage", f"its bytes in {path.name} are damaged: {error}"
    return None


def _files(env: lmdb.Environment, where: Path, found: _Found) -> Iterator[Finding]:
    for number, row in sorted(found.files.items()):
        for finding in _file(where, found, number, row):
            # Otherwise it went meanwhile, as files go in which nothing lies any more.
            if _is_in_use(env, number):
                yield finding
    unknown = found.live.keys() - found.files.keys()
    if unknown:
        unknown &= {rows.unpack_entry(value).file for value in _sound_entries(env)}
    for number in unknown:
        yield Finding(
            "damage", f"index: {found.live[number]} batches lie in file #{number}, which it does not know"
        )


def _file(where: Path, found: _Found, number: int, row: FileRow) -> Iterator[Finding]:
    path = files.path_of(where, number, row.kind)
    if number not in found.live and row.state == "trash":
        return
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        yield Finding("loss", f"{path.name} is missing; {row.live} batches lie in it")
        return
    if size < row.end:
        yield Finding("loss", f"{path.name} has {size} bytes, {row.end} are published")
    if row.kind == "segment":
        yield from frame_problems(path, row.end)
    ranges = sorted(found.ranges.get(number, []))
    for (_, end, one), (start, _, other) in pairwise(ranges):
        if start < end:
            yield Finding("damage", f"index: batches of {one} and {other} overlap in {path.name}")


def _is_in_use(env: lmdb.Environment, number: int) -> bool:
    """Whether the index knows a file, as of now, and something lies in it."""
    with env.begin() as transaction:
        try:
            value = View(transaction).get(rows.number_key(rows.FILE, number))
            return value is not None and rows.unpack(FileRow, value).state != "trash"
        except (Damaged, ValueError):
            return True


def _sound_entries(env: lmdb.Environment) -> Iterator[bytes]:
    """The values of all entries as of now."""
    for key, sealed in _entries(env, []):
        with contextlib.suppress(Damaged):
            yield rows.unseal(key, sealed)


def _unknown(env: lmdb.Environment, where: Path) -> Iterator[Finding]:
    """Files that the index does not know. Listed before it is asked: a writer at work names its file first."""
    for item in sorted(os.listdir(where)):
        number = files.number_of(item)
        if number is None:
            if not item.startswith("new-"):
                yield Finding("note", f"{item} is not the log's")
                continue
            what: Finding | None = _leftover(item)
        else:
            with env.begin() as transaction:
                what = _stray(View(transaction), where / item, number)
        if what is not None:
            yield what


def _stray(view: View, path: Path, number: int) -> Finding | None:
    try:
        value = view.get(rows.number_key(rows.FILE, number))
        if value is not None and strays.belongs(path, rows.unpack(FileRow, value)):
            return None
        if strays.needless(view, path):
            return _leftover(path.name)
    except (Damaged, ValueError):
        # The row is damaged, which was said before.
        return None
    return Finding(
        "damage",
        f"{path.name} is not known to the index, and rows may lie in it that nobody else has; it is kept. The index "
        "was damaged, or put back from an older copy",
    )


def _leftover(name: str) -> Finding:
    return Finding("note", f"{name} belongs to nobody; it is removed when the log is opened next")


def frame_problems(path: Path, end: int | None) -> Iterator[Finding]:
    """What is wrong with a segment beside its batches: its opening, its end, its table of contents.

    ``end`` is where it ends, if the index knows.
    """
    try:
        toc = contents.decode(files.contents_path(path).read_bytes())
        with path.open("rb") as file:
            opening = file.read(len(format.schema_message(schema_from_bytes(toc.schema))))
            file.seek(toc.size - len(format.END_OF_STREAM))
            closing = file.read()
        if xxhash.xxh3_64_intdigest(opening) != toc.opening:
            yield Finding("damage", f"{path.name}: the schema message at its start is damaged")
        if toc.size != (toc.size if end is None else end) or closing != format.END_OF_STREAM:
            yield Finding("damage", f"{path.name}: the end of the stream is not where it should be")
    except FileNotFoundError:
        yield Finding("damage", f"{path.name}: its table of contents is missing")
    except (Damaged, MambaStreamError, OSError, ValueError) as error:
        yield Finding("damage", f"{path.name}: {error}")


def _where(key: bytes, found: _Found) -> dict[str, Any]:
    if key[:1] == rows.ENTRY and len(key) == 15:
        topic, partition, offset = rows.entry_place(key)
        known = found.topics.get(topic)
        return {"topic": known.name if known else None, "partition": partition, "offset": offset}
    return {}


def _between(
    transaction: lmdb.Transaction, start: bytes, end: bytes, most: int = sys.maxsize
) -> Iterator[tuple[bytes, bytes]]:
    with transaction.cursor() as cursor:
        if cursor.set_range(start):
            for number, (raw, value) in enumerate(cursor.iternext()):
                key = bytes(raw)
                if key >= end or number >= most:
                    return
                yield key, bytes(value)


def _astray(transaction: lmdb.Transaction, met: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The rows that a walk has met and a look-up does not: it goes another way through the pages."""
    astray = []
    for key, sealed in met:
        try:
            found = transaction.get(key)
        except lmdb.Error:
            found = None
        if found != sealed:
            astray.append(key)
    return astray


def _entries(env: lmdb.Environment, astray: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """All entries, a page at a time: no read transaction is held over the work. Says which are not found by key."""
    position = rows.ENTRY
    while True:
        with env.begin() as transaction:
            page = list(_between(transaction, position, b"\xff", _PAGE))
            astray += _astray(transaction, page)
        yield from page
        if len(page) < _PAGE:
            return
        position = page[-1][0] + b"\0"


def _main(path: str, *, lock: bool) -> None:
    def report(finding: Finding) -> None:
        sys.stdout.write(json.dumps(asdict(finding)) + "\n")
        sys.stdout.flush()

    try:
        counts = examine(Path(path), report, lock=lock)
    except (lmdb.Error, OSError) as error:
        report(Finding("damage", f"index: {error}"))
        counts = {}
    sys.stdout.write(json.dumps({"counts": counts}) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1], lock=sys.argv[2:] != [ALONE])
    # Nothing of it is looked for as garbage: all of it goes with the process.
    gc.freeze()
