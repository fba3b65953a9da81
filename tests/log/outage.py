"""A loss of power, as it can be had at any moment without one: what was not synced is forgotten."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mamba_stream.log import directory, files, rows
from mamba_stream.log.index import Index


def copied(place: Path, name: str = "copy") -> Path:
    """A copy of a log to which nobody writes at this moment, beside it."""
    return shutil.copytree(place, place.with_name(name), ignore=shutil.ignore_patterns("wake"))


def lose_power(place: Path) -> None:
    """What the machine has forgotten when it starts again: what was never synced."""
    for boot in (place / directory.RECENT).glob("*"):
        boot.rename(boot.with_name("before"))
    index = Index(place / directory.INDEX)
    with index.view() as view:
        ends = {key[1:]: rows.unpack(rows.FileRow, value).end for key, value in view.items(rows.FILE)}
    index.close()
    for path in (place / directory.FILES).glob("*.commit"):
        end = ends.get((files.number_of(path.name) or 0).to_bytes(4, "big"), 0)
        os.truncate(path, min(path.stat().st_size, end))
