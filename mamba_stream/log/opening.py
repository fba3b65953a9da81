"""Finding a log: one rule for every ``log=`` argument, address and ``mamba.open(...)``."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mamba_stream.core.diskmarks import disk_marks, marks_with
from mamba_stream.errors import InvalidInput
from mamba_stream.log.index import MAP_SIZE
from mamba_stream.log.log import Log
from mamba_stream.log.remote.address import Credentials, address_of, is_address
from mamba_stream.log.storage import Storage
from mamba_stream.log.store import acquire

Place = str | os.PathLike[str] | Log | None
"""What every ``log=`` takes: a directory, an address, an open log, or nothing."""

VARIABLE = "MAMBA_STREAM_LOG"
CONFIG = "mamba-stream.toml"


def open_log(path: str | os.PathLike[str], *, map_size: int = MAP_SIZE) -> Log:
    """Opens the log in a directory, created if missing.

    Args:
        path: The directory.
        map_size: The first size of the index's address space; it grows by itself.
    """
    return Log(acquire(Path(path), map_size=map_size))


def storage_of(
    place: str | os.PathLike[str] | None,
    environment: Mapping[str, str] | None = None,
    credentials: Credentials | None = None,
    disk: Mapping[str, Any] | None = None,
) -> Storage:
    """The storage that ``place`` means, by the one rule; a directory is created if missing.

    Args:
        place: A directory, an address, or nothing.
        environment: Instead of this process's.
        credentials: What is shown to a server; what the environment names unless told otherwise.
        disk: Marks of the disk of a directory, instead of what the environment says.
    """
    place = place_of(place, environment)
    if is_address(place):
        if disk is not None:
            raise InvalidInput(
                f"disk is for directories: at {place} it is the server that keeps room on its disk"
            )
        # Flight is slow to import, and a directory does without it.
        from mamba_stream.log.remote.storage import connect

        shown = credentials or Credentials.of(environment)
        return connect(address_of(str(place), shown), shown)
    if credentials is not None:
        raise InvalidInput(
            f"{place} is a directory, where nobody asks who comes: token=, ca=, certificate= and key= are for servers"
        )
    path = directory_of(place, environment)
    if disk is None:
        return acquire(path)
    return acquire(path, marks=marks_with(disk, disk_marks(environment)))


def place_of(
    place: str | os.PathLike[str] | None, environment: Mapping[str, str] | None = None
) -> str | os.PathLike[str]:
    """A directory or an address: what was given, or what holds where nothing was."""
    return _default(os.environ if environment is None else environment) if place is None else place


def locate(place: Place = None, environment: Mapping[str, str] | None = None) -> Log:
    """The log that ``place`` means: itself if open, else opened.

    Nothing means ``$MAMBA_STREAM_LOG``, else ``log`` in ``mamba-stream.toml`` of the working directory,
    else the user's data directory, which is named on standard error when it is created.
    """
    return place if isinstance(place, Log) else Log(storage_of(place, environment))


def directory_of(place: str | os.PathLike[str] | None, environment: Mapping[str, str] | None = None) -> Path:
    """The directory that ``place`` means, by the one rule; nothing is created."""
    if place is None:
        return Path(_default(os.environ if environment is None else environment))
    if not isinstance(place, str | os.PathLike):
        raise InvalidInput(f"log={place!r}: give a directory, an address, an open log, or nothing")
    if is_address(place):
        raise InvalidInput(f"{place} is the address of a server; this needs the directory of a log")
    if not os.fspath(place) or "\0" in os.fspath(place):
        raise InvalidInput(f"log={place!r} names no directory: give one, or leave log out for the default")
    return Path(place)


def _default(environment: Mapping[str, str]) -> str | Path:
    if environment.get(VARIABLE):
        return environment[VARIABLE]
    config = Path(CONFIG)
    if config.exists():
        try:
            value = tomllib.loads(config.read_text()).get("log")
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"{config.absolute()} is not valid TOML: {error}") from error
        if isinstance(value, str) and value:
            return value if is_address(value) else config.absolute().parent / value
        if value is not None:
            raise InvalidInput(f"{config.absolute()}: log = {value!r} must be a directory, as a string")
    path = _user_data(environment)
    if not path.exists():
        sys.stderr.write(f"mamba-stream: the log is in {path} (choose with {VARIABLE} or log=)\n")
    return path


def _user_data(environment: Mapping[str, str]) -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mamba-stream" / "log"
    if sys.platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or Path.home()) / "mamba-stream" / "log"
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mamba-stream" / "log"
