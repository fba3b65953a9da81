"""A flush that was killed when the index had all of it, and before those who read the index could know."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import polars as pl
import pytest

import mamba_stream as mamba
from tests import forking
from tests.log.neighbour import script

pytestmark = [pytest.mark.embedded, pytest.mark.synced]

KILLED = """
import os, signal, struct, sys
import mamba_stream as mamba
from mamba_stream.log.recent import Recent

def killed(*_):
    # As if a moment before: the commit is on the disk, readers were not told, and the lock of whoever writes is held.
    held = log._shared.index._env.begin(write=True)
    fd = os.open(sys.argv[1] + "/index/lock.mdb", os.O_RDWR)
    last = struct.pack("@N", log._shared.index._env.info()["last_txnid"])
    at = os.pread(fd, 128, 0).index(last)
    os.pwrite(fd, struct.pack("@N", struct.unpack("@N", last)[0] - 1), at)
    os.kill(os.getpid(), signal.SIGKILL)

log = mamba.open(sys.argv[1], durability="os")
if sys.argv[2:]:
    log["t"].append([{"n": int(sys.argv[2])}])
print(flush=True)
sys.stdin.readline()
Recent.empty = killed
log.flush()
"""


def test_what_is_committed_after_it_is_not_taken_for_flushed(tmp_path: Path) -> None:
    place = tmp_path / "log"
    with mamba.open(place, durability="os") as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}])
        log.flush()
        done = forking.run([sys.executable, "-c", KILLED, str(place), "1"], input=b"", check=False)
        assert done.returncode == -signal.SIGKILL
        topic.append([{"n": 2}])
        topic.append([{"n": 3}], durability="commit")
        topic.append([{"n": 4}])
        log.flush()
        assert topic.scan().collect()["n"].to_list() == [0, 1, 2, 3, 4]
        assert topic.offsets() == {0: (0, 5)}


def test_nor_is_that_by_whoever_committed_last_before_it(tmp_path: Path) -> None:
    """Nothing that lies over the index has changed since, and yet it counts no more."""
    place = tmp_path / "log"
    with mamba.open(place, durability="os") as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}])
        flusher = script(KILLED, place)
        flusher.stdout.readline()
        topic.append([{"n": 1}])
        flusher.communicate()
        assert flusher.returncode == -signal.SIGKILL
        topic.append([{"n": 2}])
        topic.append([{"n": 3}], durability="commit")
        assert topic.scan().collect()["n"].to_list() == [0, 1, 2, 3]
