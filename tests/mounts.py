"""File systems of a few megabytes, for tests of disks that are full."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mount = Callable[..., Path]
NO_MARKS = {f"MAMBA_STREAM_DISK_{name}": "off" for name in ("SOFT", "HARD", "BALLAST")}
"""Said in the environment of those that are to find no room rather than a mark."""
_DETACH = 2
_PAGE = 4096


@contextlib.contextmanager
def mounts(where: Path) -> Iterator[Mount]:
    """Gives what mounts a file system of so many bytes; all are gone at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted: list[Path] = []

    def mount(size: int, options: str = "") -> Path:
        place = where / f"disk-{len(mounted)}"
        place.mkdir()
        if os.geteuid() != 0:
            pytest.skip("needs to be root, to mount a file system of its own")
        if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}{options}".encode()) != 0:
            pytest.skip(f"mounting a tmpfs is not permitted here: {os.strerror(ctypes.get_errno())}")
        mounted.append(place)
        return place

    try:
        yield mount
    finally:
        for place in mounted:
            assert libc.umount2(bytes(place), _DETACH) == 0


@contextlib.contextmanager
def ext4(where: Path, size: int) -> Iterator[Path]:
    """A file system as most disks have it, in a file of so many bytes."""
    place, image = where / "ext4", where / "image"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs to be root, and mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a file is not permitted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def free(place: Path) -> int:
    """Bytes that are left there."""
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize


def leave(place: Path, size: int) -> Path:
    """Takes room until so many bytes are left, without a word to the log; the file that takes it."""
    taken = place / "taken"
    with taken.open("ab", buffering=0) as file:
        os.posix_fallocate(file.fileno(), file.tell(), free(place) - size - _PAGE)
    return taken


def take_all(place: Path) -> Path:
    """Takes all room that is left, to the last byte."""
    crumbs = place / "crumbs"
    with crumbs.open("wb", buffering=0) as file:
        for size in (1 << 20, _PAGE, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return crumbs
