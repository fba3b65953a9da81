"""Which files there are: globs and directories, without what is hidden, temporary, or still being written."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from mamba_stream.core.clock import Clock
from mamba_stream.errors import ConnectorFailed, InvalidInput

TEMPORARY = (".tmp", ".temp", ".part", ".partial", ".crdownload", ".filepart", ".swp", "~")
"""Endings of files that are not complete yet: they are renamed when they are."""
_MAGIC = "*?["


@dataclass(frozen=True, slots=True)
class Found:
    """A complete file.

    Attributes:
        name: Where it is from the listing's root on, with slashes; what positions call it.
        path: Where it is.
        size: In bytes.
        modified: When it was written last, in nanoseconds since the epoch.
    """

    name: str
    path: Path
    size: int
    modified: int

    @property
    def key(self) -> bytes:
        """Eight bytes that stand for its name."""
        return key_of(self.name)

    @property
    def state(self) -> bytes:
        """Four bytes that are others once it was written to."""
        return xxhash.xxh32_digest(f"{self.size} {self.modified}".encode())


def key_of(name: str) -> bytes:
    """Eight bytes that stand for a file's name."""
    return xxhash.xxh3_64_digest(name.encode("utf-8", "surrogateescape"))


def found_at(name: str, path: Path) -> Found | None:
    """The file as it is now; ``None`` if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConnectorFailed(f"cannot look at file {path}: {error.strerror}") from error
    return Found(name, path, status.st_size, status.st_mtime_ns)


class Listing:
    """Files by patterns, in the order of their names."""

    def __init__(self, patterns: Sequence[str], *, settle_us: int, clock: Clock) -> None:
        """Says where to look, without looking.

        Args:
            patterns: Globs (``**`` goes through directories), files, or directories, which mean the files in them.
            settle_us: How long a file must not have been written to before it counts, in microseconds.
            clock: Tells the time that it is judged by.
        """
        self.patterns = tuple(os.path.abspath(pattern) for pattern in patterns)  # noqa: PTH100 - a glob is no path
        fixed = [_fixed_part(pattern) for pattern in self.patterns]
        self.root = Path(os.path.commonpath(fixed))
        self._settle = settle_us
        self._clock = clock

    def files(self) -> list[Found]:
        """The complete files that are there now."""
        now = self._clock.now()
        found = [self._found(path) for path in sorted(self._paths())]
        # Away from now either way: with a clock that is behind the file server's, files come from the future.
        settled = [file for file in found if file and abs(now - file.modified // 1_000) >= self._settle]
        return sorted(settled, key=lambda file: file.name)

    def _paths(self) -> set[str]:
        paths: set[str] = set()
        for pattern in self.patterns:
            if Path(pattern).is_dir():
                paths.update(glob.iglob(f"{glob.escape(pattern)}{os.sep}*"))  # noqa: PTH207 - a glob is no path
            elif any(mark in pattern for mark in _MAGIC):
                paths.update(glob.iglob(pattern, recursive=True))  # noqa: PTH207
            elif Path(pattern).exists():
                paths.add(pattern)
        return paths

    def _found(self, path: str) -> Found | None:
        name = Path(path).relative_to(self.root).as_posix()
        if any(part.startswith((".", "_")) for part in name.split("/")) or name.endswith(TEMPORARY):
            return None
        return None if Path(path).is_dir() else found_at(name, Path(path))


def _fixed_part(pattern: str) -> str:
    """The directory below which everything lies that a pattern matches."""
    if Path(pattern).is_dir():
        return pattern
    parts = Path(pattern).parts
    fixed = next(
        (at for at, part in enumerate(parts) if any(mark in part for mark in _MAGIC)), len(parts) - 1
    )
    return str(Path(*parts[: max(1, min(fixed, len(parts) - 1))]))


def checked_patterns(paths: Any) -> list[str]:
    """What a user passed as paths, as a list.

    Raises:
        InvalidInput: They are none.
    """
    several = paths if isinstance(paths, list | tuple) else [paths]
    if not several or not all(isinstance(path, str | os.PathLike) and os.fspath(path) for path in several):
        raise InvalidInput(
            "files.source takes a glob such as 'in/*.parquet', a file, a directory, or a list of them, "
            f"not {paths!r:.80}"
        )
    return [os.fspath(path) for path in several]
