"""The files of a log against what its index knows of them."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from mamba_stream.log import files, rows, strays
from mamba_stream.log.findings import Finding, Found, frame_problems
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import FileRow
from mamba_stream.log.views import View
from mamba_stream.log.walking import sound_entries


def known_files(env: lmdb.Environment, where: Path, found: Found) -> Iterator[Finding]:
    """What is wrong with files that the index knows, or that entries name."""
    for number, row in sorted(found.files.items()):
        for finding in _file(where, found, number, row):
            # Otherwise it went meanwhile, as files go in which nothing lies any more.
            if _is_in_use(env, number):
                yield finding
    unknown = found.live.keys() - found.files.keys()
    if unknown:
        unknown &= {rows.unpack_entry(value).file for value in sound_entries(env)}
    for number in unknown:
        yield Finding(
            "damage", f"index: {found.live[number]} batches lie in file #{number}, which it does not know"
        )


def _file(where: Path, found: Found, number: int, row: FileRow) -> Iterator[Finding]:
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
    for one, other in _overlapping(found.ranges.get(number, array("q"))):
        names = [found.topics[each].name for each in (one, other)]
        yield Finding("damage", f"index: batches of {names[0]} and {names[1]} overlap in {path.name}")


def _overlapping(ranges: array[int]) -> Iterator[tuple[int, int]]:
    """The topics of ranges of which the second begins before the first one's end."""
    each = np.frombuffer(ranges, np.int64).reshape(-1, 3)
    each = each[np.lexsort((each[:, 1], each[:, 0]))]
    starts, ends, topics = each[:, 0], each[:, 0] + each[:, 1], each[:, 2]
    for number in np.flatnonzero(starts[1:] < ends[:-1]).tolist():
        yield int(topics[number]), int(topics[number + 1])


def _is_in_use(env: lmdb.Environment, number: int) -> bool:
    """Whether the index knows a file, as of now, and something lies in it."""
    with env.begin() as transaction:
        try:
            value = View(transaction).get(rows.number_key(rows.FILE, number))
            return value is not None and rows.unpack(FileRow, value).state != "trash"
        except (Damaged, ValueError):
            return True


def unknown_files(env: lmdb.Environment, where: Path) -> Iterator[Finding]:
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
