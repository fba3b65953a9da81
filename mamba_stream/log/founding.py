"""What a log is called and which format it has: looked up, or noted when the log begins."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mamba_stream.core.clock import Clock
from mamba_stream.errors import DataCorrupted, NewerFormat, NotALog
from mamba_stream.log import directory, files, rows
from mamba_stream.log.index import Index
from mamba_stream.log.rows import Meta
from mamba_stream.log.views import Draft


def meta_of(index: Index, path: Path, clock: Clock) -> Meta:
    """What the index says of the log in this directory, which begins here if it says nothing.

    Raises:
        NewerFormat: A later version wrote it.
        NotALog: The index is the database of something else.
        DataCorrupted: The index is empty, and there are rows.
    """

    def found(draft: Draft) -> bytes:
        value = draft.get(rows.META)
        if value is None:
            if draft.rows:
                raise NotALog(f"{path / directory.INDEX} is the database of something else")
            _check_unfounded(path)
            value = rows.pack(Meta(directory.FORMAT, os.urandom(16).hex(), clock.now()))
            draft.put(rows.META, value)
        return value

    with index.view() as view:
        value = view.get(rows.META)
    if value is None:
        # The index is durable once the names that lead to it are. Before the first commit, so that whoever
        # finds that one need not ask.
        directory.sync(path / directory.INDEX)
        directory.sync(path)
        with contextlib.suppress(PermissionError):
            # Where we may not look into it, somebody else has made the log's directory before.
            directory.sync(path.parent)
        value = index.update(found)
    meta: Meta = rows.unpack(Meta, value)
    if meta.format > directory.FORMAT:
        raise NewerFormat(
            f"{path} has format {meta.format}, and this version of mamba-stream reads up to "
            f"{directory.FORMAT}: upgrade it with pip install -U mamba-stream"
        )
    return meta


def _check_unfounded(path: Path) -> None:
    """Refuses to begin a log anew where files of an earlier one hold rows: its index is gone."""
    held = [
        item.name
        for item in os.scandir(path / directory.FILES)
        if files.number_of(item.name) is not None and item.stat().st_size
    ]
    if held:
        raise DataCorrupted(
            f"{path / directory.INDEX} is empty, but {path / directory.FILES} holds {len(held)} files of "
            "a log: its index was deleted or cut off. Put the index back from a copy, or have what is sealed put "
            f"together again: mamba-stream doctor {path} --repair. To begin anew, move these files away"
        )
