"""Which directories can be a log, and which file systems."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mamba_stream.errors import LogUnavailable, NetworkFileSystem, NotALog, ReadOnlyLog
from mamba_stream.log import directory, open_log
from tests.log.neighbour import environment
from tests.log.pictures import rows_of

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, for whom permissions mean nothing")
MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / {place}/srv rw,relatime - {kind} server:/export rw
31 30 0:27 / {place}/srv/local rw,relatime - xfs /dev/vdb rw
32 22 0:28 / {place}/a\\040b rw,relatime - {kind} server:/other rw
garbage
"""


@pytest.fixture(params=["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mounts(tmp_path: Path, kind: str) -> Path:
    """A table of mounts in which some directories lie on another machine."""
    for place in ("srv/local", "srvx", "a b"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "mounts").write_text(MOUNTS.format(kind=kind, place=tmp_path))
    return tmp_path / "mounts"


@pytest.mark.parametrize("place", ["srv/data", "srv", "srv/deep/er", "a b/log"])
def test_a_network_file_system_is_refused_before_anything_is_made(
    mounts: Path, tmp_path: Path, kind: str, place: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        NetworkFileSystem, match=rf"{place} lies on a network file system \({kind}\).* local disk"
    ):
        directory.prepare(tmp_path / place, mounts)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_innermost_mount_counts(mounts: Path, tmp_path: Path, kind: str) -> None:
    found = {
        place: directory.file_system(tmp_path / place, mounts)
        for place in ("srv/local", "srv/local/log", "srvx", "srv/x", ".", "a b/c")
    }
    assert found == {
        "srv/local": "xfs", "srv/local/log": "xfs", "srvx": "ext4", "srv/x": kind, ".": "ext4", "a b/c": kind
    }  # fmt: skip
    directory.prepare(tmp_path / "srv" / "local" / "log", mounts)
    assert directory.file_system(tmp_path, tmp_path / "missing") is None


def test_the_real_table_of_mounts_is_understood(tmp_path: Path) -> None:
    assert directory.file_system(Path("/proc/self")) == "proc"
    directory.prepare(tmp_path / "log")
    assert {item.name for item in (tmp_path / "log").iterdir()} == {"index", "files", "wake", "jobs"}


def test_a_directory_is_made_with_those_above_it(tmp_path: Path) -> None:
    with open_log(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c" / "index" / "data.mdb").exists()


def test_an_empty_directory_or_one_with_hidden_files_becomes_a_log(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*")
    with open_log(tmp_path) as log:
        assert log.topics() == []


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    for name in ("thesis.tex", "b", "c", "d"):
        (tmp_path / name).write_text("?")
    with pytest.raises(NotALog, match=r"is not a log: it holds b, c, d …; name an empty or a new directory"):
        open_log(tmp_path)
    assert len(os.listdir(tmp_path)) == 4


def test_a_file_is_not_a_log_and_nothing_lies_below_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("?")
    with pytest.raises(NotALog, match="is a file; a log is a directory"):
        open_log(tmp_path / "file")
    with pytest.raises(NotALog, match="something above it is a file"):
        open_log(tmp_path / "file" / "log")


def test_a_name_that_the_system_refuses_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match=r"x cannot .*: File name too long"):
        open_log(tmp_path / ("x" * 300))


AS_NOBODY = """
import os, sys
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import open_log
os.setgid(65534), os.setuid(65534)
try:
    with open_log(sys.argv[1]) as log:
        print(log.topics())
except MambaStreamError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.root
@root
def test_a_directory_without_permission_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with open_log(tmp_path / "log") as log:
        log.create_topic("plain", {"n": int})
    (tmp_path / "closed").mkdir()
    for part in (tmp_path, *tmp_path.parents):
        if part.stat().st_mode & 0o005 != 0o005:
            part.chmod(part.stat().st_mode | 0o055)
    (tmp_path / "closed").chmod(0o700)

    def as_nobody(place: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(place)],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        return done.stdout + done.stderr

    assert as_nobody(tmp_path / "new").startswith("ReadOnlyLog")
    assert "give write permission, or open a copy" in as_nobody(tmp_path / "log")
    assert as_nobody(tmp_path / "log").startswith("ReadOnlyLog")
    assert as_nobody(tmp_path / "closed" / "log").startswith("ReadOnlyLog")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A log on a file system that was mounted again for reading only."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "mounted"
    place.mkdir()
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=16m") != 0:
        pytest.skip(f"cannot mount here: {os.strerror(ctypes.get_errno())}")
    try:
        with open_log(place / "log", map_size=1 << 20) as log:
            log.create_topic("plain", {"n": int}).append([{"n": 1}])
        assert libc.mount(b"tmpfs", bytes(place), b"tmpfs", 32 | 1, None) == 0  # MS_REMOUNT | MS_RDONLY
        yield place
        assert libc.mount(b"tmpfs", bytes(place), b"tmpfs", 32, None) == 0
        with open_log(place / "log") as log:
            assert rows_of(log["plain"]) == [(0, 0, (1,))]
    finally:
        libc.umount2(bytes(place), 2)


@pytest.mark.root
@root
def test_a_read_only_file_system_is_refused_with_what_to_do(read_only: Path) -> None:
    with pytest.raises(ReadOnlyLog, match="cannot be written to.*open a copy"):
        open_log(read_only / "log")
    with pytest.raises(ReadOnlyLog, match="cannot be written to"):
        open_log(read_only / "new")
