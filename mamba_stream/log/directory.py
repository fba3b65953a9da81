"""The directory of a log: what lies where, and which directories cannot be one."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from mamba_stream.errors import DiskFull, LogUnavailable, NetworkFileSystem, NotALog, ReadOnlyLog

FORMAT = 1
"""The version of everything on disk: the index's rows, commit files, segments and their contents."""

INDEX = "index"
FILES = "files"
WAKE = "wake"
JOBS = "jobs"
RECENT = "recent"
UPKEEP = "upkeep"
QUARANTINE = "quarantine"
BACKUP = "backup"
BALLAST = "ballast"
_OWN = frozenset({INDEX, FILES, WAKE, JOBS, RECENT, UPKEEP, QUARANTINE, BACKUP, BALLAST})
_NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs 9p afs ceph glusterfs lustre beegfs fuse.sshfs fuse.s3fs "
    "fuse.gcsfuse fuse.rclone fuse.glusterfs fuse.ceph davfs fuse.davfs2 ncpfs".split()
)
_MOUNTS = Path("/proc/self/mountinfo")
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where a write finds no room."""
_HEADROOM = 1 << 20


def prepare(path: Path, mounts: Path = _MOUNTS) -> None:
    """Makes the directory ready to hold a log; refuses one that holds something else."""
    try:
        _check(path, mounts)
        make(path)
        for name in (INDEX, FILES, WAKE, JOBS):
            (path / name).mkdir(exist_ok=True)
    except NotADirectoryError as error:
        raise NotALog(f"{path} cannot be a directory: something above it is a file") from error
    except OSError as error:
        raise unopened(path, error) from error
    for place in (path, path / INDEX, path / FILES):
        if not os.access(place, os.W_OK):
            raise ReadOnlyLog(f"{place} cannot be written to: give write permission, or open a copy")


def unopened(path: Path, error: OSError) -> LogUnavailable | DiskFull:
    """What an error of the operating system means to whoever opens the log there."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ReadOnlyLog(
            f"{path} cannot be written to ({error.strerror}): give write permission, or open a copy"
        )
    if error.errno in NO_ROOM:
        return DiskFull(
            f"{path}: {error.strerror}; it was not opened, and nothing committed. Free some space"
        )
    return LogUnavailable(f"{path} cannot be opened: {error.strerror}")


def _check(path: Path, mounts: Path) -> None:
    if path.exists() and not path.is_dir():
        raise NotALog(f"{path} is a file; a log is a directory")
    existing = path
    while not existing.exists():
        existing = existing.parent
    kind = file_system(existing, mounts)
    if kind in _NETWORK:
        raise NetworkFileSystem(
            f"{path} lies on a network file system ({kind}), where the index of a log is not safe; "
            "use a directory on a local disk"
        )
    if path.exists() and not (path / INDEX / "data.mdb").exists():
        foreign = sorted(e.name for e in os.scandir(path) if e.name not in _OWN and e.name[0] != ".")
        if foreign:
            raise NotALog(
                f"{path} is not a log: it holds {', '.join(foreign[:3])}"
                f"{' …' if len(foreign) > 3 else ''}; name an empty or a new directory"
            )


def full(directory: Path) -> bool:
    """Whether the disk has no room for the next megabyte, by trying: quotas and reserves count too."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            left = _HEADROOM
            while left:
                left -= os.write(file.fileno(), bytes(left))
    except OSError as error:
        return error.errno in NO_ROOM
    return False


def make(path: Path) -> None:
    """Makes a directory, and those above it that are missing, durably."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync(place.parent)


def sync(directory: Path) -> None:
    """Makes created, renamed and removed names in the directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of file system under the path, or ``None`` where the system does not tell."""
    try:
        table = mounts.read_text()
    except OSError:
        return None
    target = os.path.realpath(path)
    best, kind = "", None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:
            continue
        point = fields[4].replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind
