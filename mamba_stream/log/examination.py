"""Examines a whole log: every row of the index, every byte of the files, and the one against the other.

It reads, and changes nothing; it may run beside writers. Damage to the index can crash the database
library, so :mod:`mamba_stream.log.doctor` runs this module as a process of its own::

    python -m mamba_stream.log.examination DIRECTORY [--alone]

which prints its findings as JSON, one a line.
"""

from __future__ import annotations

import contextlib
import gc
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lmdb

from mamba_stream.core.schemas import fingerprint, schema_from_bytes
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import directory, dropping, format, recent, rows
from mamba_stream.log.batchproblems import batch_problems
from mamba_stream.log.fileproblems import known_files, unknown_files
from mamba_stream.log.findings import Finding, Found
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import FileRow, Meta, TopicRow
from mamba_stream.log.walking import between, entries, not_found_by_key, of_partition

_MASK = (1 << 64) - 1
ALONE = "--alone"
"""Said to the process that examines: whoever began it has the log alone."""


def examine(path: Path, report: Callable[[Finding], None], *, lock: bool = True) -> dict[str, int]:
    """Examines the log in ``path``; reports each finding, and returns what was looked at, counted.

    Without ``lock`` nobody may have the log open but whoever had this called.
    """
    found = Found()
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
            for key, sealed in between(transaction, rows.FILE, rows.OFFSET):
                with contextlib.suppress(Damaged, ValueError):
                    list(_noted(key, rows.unseal(key, sealed), found))
        for finding in known_files(env, path / directory.FILES, found):
            report(finding)
        for finding in unknown_files(env, path / directory.FILES):
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


def _index(env: lmdb.Environment, found: Found) -> Iterator[Finding]:
    """Every row's checksum, and that rows which name each other exist."""
    names: dict[bytes, int] = {}
    schemas: dict[int, bytes] = {}
    heads: set[tuple[int, int]] = set()
    # All but the entries are few, and read as of one moment: a writer at work is not damage.
    with env.begin() as transaction:
        few = list(between(transaction, b"\x01", rows.ENTRY))
        astray = not_found_by_key(transaction, few)
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
    for key, sealed in entries(env, astray):
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
            # One that came and went meanwhile has none any more.
            left = any(between(transaction, rows.entry_prefix(topic, 0), rows.entry_prefix(topic + 1, 0)))
        if left and not created and not deleted:
            yield Finding("damage", f"index: entries of topic #{topic}, which does not exist")
    for key in astray:
        yield Finding(
            "damage",
            f"index: the row {key[:64].hex()} is not found by its key; a page that leads to it is damaged",
            **_where(key, found),
        )


def _noted(key: bytes, value: bytes, found: Found) -> Iterator[Finding]:
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
    found: Found, names: dict[bytes, int], schemas: dict[int, bytes], heads: set[tuple[int, int]]
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


def _topic(env: lmdb.Environment, where: Path, found: Found, topic: TopicRow) -> Iterator[Finding]:
    for partition in range(topic.partitions):
        # One view of head and entries, so that a writer at work is not taken for damage.
        with env.begin() as transaction:
            findings = list(_partition(transaction, found, topic, partition))
        yield from findings
        yield from batch_problems(env, where, found, topic, partition)


def _partition(
    transaction: lmdb.Transaction, found: Found, topic: TopicRow, partition: int
) -> Iterator[Finding]:
    """What is wrong with a partition's entries among each other, and with its state."""
    place: dict[str, Any] = {"topic": topic.name, "partition": partition}
    name = rows.head_key(topic.id, partition)
    try:
        head = rows.unpack_head(rows.unseal(name, bytes(transaction.get(name, b""))))
    except Damaged:
        # Which was said before.
        return
    chain, expected, seen = 0, None, 0
    for key, sealed in of_partition(transaction, topic.id, partition):
        try:
            value = rows.unseal(key, sealed)
            entry = rows.unpack_entry(value)
        except (Damaged, ValueError):
            expected = None
            continue
        offset = rows.entry_place(key)[2]
        if expected is not None and offset != expected:
            what = "index: entries do not follow each other"
            yield Finding("damage", what, **place, offset=expected, next_offset=offset)
        expected = offset + entry.span
        chain = (chain + rows.entry_hash(key, value)) & _MASK
        seen += 1
        if not entry.lost:
            found.count(entry)
    if seen != head.entries:
        what = f"the partition has {seen} sound entries where its state counts {head.entries}"
    elif chain != head.chain:
        what = "the partition's entries do not match the checksum over them"
    elif expected is not None and expected != head.end:
        what = f"the last entry ends at {expected}, the partition at {head.end}"
    else:
        return
    yield Finding("damage", f"index: {what}", **place)


def _where(key: bytes, found: Found) -> dict[str, Any]:
    if key[:1] == rows.ENTRY and len(key) == 15:
        topic, partition, offset = rows.entry_place(key)
        known = found.topics.get(topic)
        return {"topic": known.name if known else None, "partition": partition, "offset": offset}
    return {}


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
