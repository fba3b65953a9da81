"""What is found wrong with a log, and what is wrong with the bytes of its batches and segments."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import xxhash

from mamba_stream.core.schemas import schema_from_bytes
from mamba_stream.errors import LogUnavailable, MambaStreamError
from mamba_stream.log import contents, files, format
from mamba_stream.log.format import Damaged
from mamba_stream.log.rows import Entry, FileRow, TopicRow

_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is missing then is not in the file."""


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
class Found:
    """What was met on the way through a log."""

    topics: dict[int, TopicRow] = field(default_factory=dict)
    layouts: dict[int, format.Layout] = field(default_factory=dict)
    files: dict[int, FileRow] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)
    ranges: dict[int, array[int]] = field(default_factory=dict)
    """By file: where each batch in it begins, its length, and its topic's number, one behind the other."""
    rows: int = 0
    batches: int = 0
    bytes: int = 0

    def count(self, entry: Entry) -> None:
        """A batch that the index has."""
        self.rows += entry.rows
        self.batches += 1
        self.bytes += entry.length

    def meet(self, entry: Entry, topic: int) -> None:
        """A batch that is to be in its file."""
        self.live[entry.file] = self.live.get(entry.file, 0) + 1
        self.ranges.setdefault(entry.file, array("q")).extend((entry.position, entry.length, topic))


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
