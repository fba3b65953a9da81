"""Files that the index does not know: which of them are leftovers, and which may be all there is of some rows.

A commit that fails leaves a file that nobody knows. An index that was damaged, or put back from an older copy,
has forgotten files that rows lie in. The two are told apart by what is in the file, never by the index alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_stream.log import contents, files, format, origins, rows
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, FileRow

if TYPE_CHECKING:
    from mamba_stream.log.views import View


def belongs(path: Path, row: FileRow) -> bool:
    """Whether this is the file, or its table of contents, that the index knows by the number in its name."""
    number = files.number_of(path.name)
    expected = None if number is None else files.path_of(path.parent, number, row.kind)
    return expected is not None and path in (expected, files.contents_path(expected))


def needless(view: View, path: Path) -> bool:
    """Whether no row is lost with this file, which the index does not know."""
    try:
        if path.suffix == ".commit":
            # Bytes come only once the index knows the file.
            return path.stat().st_size == 0
        segment = path.with_suffix(".arrows")
        if not segment.exists():
            return True
        toc = contents.decode(files.contents_path(segment).read_bytes())
    except FileNotFoundError:
        # Without its table of contents nobody knows what a segment holds.
        return not path.exists()
    except (Damaged, OSError):
        return False
    head = view.get(rows.head_key(toc.topic_id, toc.partition))
    if head is None:
        return False
    begin = rows.unpack_head(head).begin
    return all(
        batch.offset + batch.span <= begin or _elsewhere(view, segment, toc, batch) for batch in toc.batches
    )


def _elsewhere(view: View, segment: Path, toc: contents.Contents, batch: contents.Batch) -> bool:
    """Whether the log has the batch's rows in other files, which are there."""
    end = batch.offset + batch.span
    found = _entries(view, toc, batch.offset, end)
    if not found or found[-1][0] + found[-1][1].span < end:
        return False
    for _, entry in found:
        place = files.path_of(segment.parent, entry.file, entry.kind)
        try:
            size = place.stat().st_size
        except FileNotFoundError:
            return False
        if place == segment or entry.position + entry.length > size:
            return False
    if len(found) == 1 and found[0][0] == batch.offset and found[0][1].header == batch.header:
        return True
    # One of them is merged: the same rows are those of the same offsets that were appended at the same moments.
    here = _appends(segment, batch.offset, batch.position, batch.length, batch.append_time, batch.flags)
    there: list[tuple[int, int]] = []
    for offset, entry in found:
        place = files.path_of(segment.parent, entry.file, entry.kind)
        there += _appends(place, offset, entry.position, entry.length, entry.append_time, entry.flags)
    return _moments(here, batch.offset, end) == _moments(there, batch.offset, end)


def _entries(view: View, toc: contents.Contents, begin: int, end: int) -> list[tuple[int, Entry]]:
    """What the log has at these offsets, if that is without gaps."""
    prefix = rows.entry_prefix(toc.topic_id, toc.partition)
    start = view.floor(rows.entry_key(toc.topic_id, toc.partition, begin), prefix)
    found: list[tuple[int, Entry]] = []
    for key, value in view.items(prefix, start) if start is not None else ():
        offset = rows.entry_place(key)[2]
        if offset >= end:
            break
        entry = rows.unpack_entry(value)
        expected = found[-1][0] + found[-1][1].span if found else offset
        if offset != expected:
            return []
        if offset + entry.span > begin:
            found.append((offset, entry))
    return found


def _appends(
    place: Path, offset: int, position: int, length: int, append_time: int, flags: int
) -> list[tuple[int, int]]:
    """(first offset, moment) of the appends that a batch is made of."""
    if not flags & rows.MERGED:
        return [(offset, append_time)]
    with place.open("rb") as file:
        message = os.pread(file.fileno(), length, position)
    found = origins.unpack(format.origins_in(message), None)
    return [(offset + int(first), int(time)) for first, time in zip(found.firsts, found.times, strict=True)]


def _moments(appends: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """From which offset on rows were appended when, between two of them."""
    found: list[tuple[int, int]] = []
    for first, time in appends:
        at = max(first, begin)
        if found and found[-1][0] == at:
            found.pop()
        if at < end and (not found or found[-1][1] != time):
            found.append((at, time))
    return found
