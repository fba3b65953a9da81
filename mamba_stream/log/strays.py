"""Files that the index does not know: which of them are leftovers, and which may be all there is of some rows.

A commit that fails leaves a file that nobody knows. An index that was damaged, or put back from an older copy,
has forgotten files that rows lie in. The two are told apart by what is in the file, never by the index alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mamba_stream.log import contents, files, rows
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import FileRow

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
    """Whether the log has the batch in another file, which is there."""
    value = view.get(rows.entry_key(toc.topic_id, toc.partition, batch.offset))
    if value is None:
        return False
    entry = rows.unpack_entry(value)
    place = files.path_of(segment.parent, entry.file, entry.kind)
    try:
        size = place.stat().st_size
    except FileNotFoundError:
        return False
    return place != segment and entry.header == batch.header and entry.position + entry.length <= size
