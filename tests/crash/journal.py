"""What a writing process tried and what was acknowledged to it, in a mapped file that outlives its death.

Writing to it takes no system call, so that those of the log alone are counted when failures are injected
there; where the recorder of the power loss tests is loaded, every line goes into its trace as well.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from pathlib import Path
from typing import Any

ROOM = 4 << 20


class Journal:
    """The side file of one life of one writer."""

    def __init__(self, path: Path, writer: int) -> None:
        self._writer = writer
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.ftruncate(fd, ROOM)
        self._map = mmap.mmap(fd, ROOM)
        os.close(fd)
        self._end = 0
        self._mark = getattr(ctypes.CDLL(None), "recorder_mark", None)

    def write(self, **event: Any) -> None:
        """Appends a line; it counts once its end is there."""
        line = json.dumps({"w": self._writer, **event}).encode()
        self._map[self._end : self._end + len(line)] = line
        self._map[self._end + len(line) : self._end + len(line) + 1] = b"\n"
        self._end += len(line) + 1
        if self._mark is not None:
            self._mark(line, ctypes.c_size_t(len(line)))


class Tail:
    """The complete lines of a journal, read as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._events: list[dict[str, Any]] = []

    def events(self) -> list[dict[str, Any]]:
        """All lines so far."""
        if not self._path.exists():
            return []
        data = bytearray()
        with self._path.open("rb") as file:
            file.seek(self._position)
            while piece := file.read(1 << 12):
                data += piece
                if piece[-1] == 0:
                    break
        *lines, _ = bytes(data).rstrip(b"\0").split(b"\n")
        self._position += sum(len(line) + 1 for line in lines)
        self._events.extend(map(json.loads, lines))
        return self._events


def events(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a journal."""
    return Tail(path).events()
