"""How another process comes to a log that is open here: what is told to it, and what it does with that."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from mamba_stream.core.diskmarks import DiskMarks
from mamba_stream.log import directory
from mamba_stream.log.log import Log
from mamba_stream.log.opening import storage_of
from mamba_stream.log.registering import SocketRegistrar
from mamba_stream.log.remote.address import Credentials
from mamba_stream.log.store import Store, acquire


@dataclass(frozen=True)
class Way:
    """The way to a log.

    Attributes:
        place: A directory, or an address.
        credentials: What is shown to a server; ``None`` where the log is a directory.
        marks: Of the disk of a directory.
    """

    place: str
    credentials: Credentials | None = None
    marks: DiskMarks | None = None

    @property
    def is_directory(self) -> bool:
        """Whether the log is a directory, whose index is to have one writer."""
        return self.credentials is None


def way_to(log: Log) -> Way:
    """The way to an open log."""
    storage = log._shared
    if isinstance(storage, Store):
        return Way(os.path.abspath(storage.path), marks=storage.room.marks)
    # Flight is slow to import, and a directory does without it.
    from mamba_stream.log.remote.storage import RemoteStorage

    assert isinstance(storage, RemoteStorage)
    return Way(storage.place, storage.credentials)


def go(way: Way, registry: socket.socket) -> Log:
    """Opens the log in another process.

    Args:
        way: The way to it.
        registry: The socket over which the index of a directory is written, which is not open in this process yet;
            closed where the log is a server's.

    Raises:
        LogUnavailable: It cannot be opened, or nobody answers.
    """
    if way.is_directory:
        path = Path(way.place)
        return Log(acquire(path, marks=way.marks, through=SocketRegistrar(registry, path / directory.FILES)))
    registry.close()
    return Log(storage_of(way.place, credentials=way.credentials))
