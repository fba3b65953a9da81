"""What each durability promises: a killed process loses nothing, a loss of power takes back a suffix of commits, as a whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.errors import CommitUnknown, DiskFull, InvalidInput, LogFailed, LogUnavailable, NotCommitted
from mamba_stream.log import recent
from mamba_stream.log.overlay import OverlaidView
from mamba_stream.log.recent import Recent
from tests import forking
from tests.log.neighbour import finished, script
from tests.log.outage import copied, lose_power
from tests.server.running import until

pytestmark = [pytest.mark.embedded, pytest.mark.synced]

WRITER = """
import sys
import mamba_stream as mamba
log = mamba.open(sys.argv[1], durability=sys.argv[2])
topic = log.create_topic("t", {"n": mamba_type()}, exist_ok=True)
first, count = int(sys.argv[3]), int(sys.argv[4])
for n in range(first, first + count):
    topic.append([{"n": n}])
    print(n, flush=True)
sys.stdin.read()
""".replace("mamba_type()", "__import__('polars').Int64")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "log"


def writer(place: Path, durability: str, first: int, count: int) -> forking.Process:
    return forking.Process(
        [sys.executable, "-c", WRITER, str(place), durability, str(first), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def numbers(place: Path) -> list[int]:
    with mamba.open(place) as log:
        return log["t"].scan().collect()["n"].to_list()


@pytest.mark.parametrize("durability", ["interval", "os"])
def test_a_process_that_is_killed_loses_nothing(place: Path, durability: str) -> None:
    with writer(place, durability, 0, 50) as process:
        for _ in range(50):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert numbers(place) == list(range(50))


def test_a_loss_of_power_takes_the_log_back_to_what_was_flushed(place: Path) -> None:
    with writer(place, "os", 0, 20) as process:
        for _ in range(20):
            process.stdout.readline()
        with mamba.open(place) as log:
            assert log["t"].scan().collect().height == 20
            log.create_topic("u", {"n": pl.Int64}).append([{"n": 1}])
            log["t"].append([{"n": 20}], durability="os")
            with log.transaction(durability="os") as tx:
                tx.append("t", [{"n": 21}])
                tx.append("u", [{"n": 2}])
            copy = copied(place)
        process.send_signal(signal.SIGKILL)
    lose_power(copy)
    assert numbers(copy) == list(range(20))
    with mamba.open(copy) as log:
        assert log["u"].scan().collect().rows() == [(1,)]
        log["t"].append([{"n": 77}])
    assert numbers(copy) == [*range(20), 77]
    assert numbers(place) == list(range(22))


def test_whoever_closes_a_log_has_it_flushed_and_so_has_flush(place: Path) -> None:
    with mamba.open(place, durability="os") as log:
        log.create_topic("t", {"n": pl.Int64}).append([{"n": 0}])
        log.flush()
        log["t"].append([{"n": 1}])
        copy = copied(place)
    lose_power(copy)
    assert numbers(copy) == [0]
    lose_power(place)
    assert numbers(place) == [0, 1]


def test_interval_is_flushed_by_itself(place: Path) -> None:
    with mamba.open(place, durability="interval") as log:
        log.create_topic("t", {"n": pl.Int64})
        for n in range(3):
            log["t"].append([{"n": n}])
            until(lambda: not waits(log))
        copy = copied(place)
        log["t"].append([{"n": 3}], durability="os")
        assert waits(log)
    lose_power(copy)
    assert numbers(copy) == [0, 1, 2]
    assert numbers(place) == [0, 1, 2, 3]


def left_open(place: Path) -> None:
    log = mamba.open(place)
    topic = log.create_topic("t", {"n": pl.Int64})
    topic.append([{"n": 0}])
    topic.append([{"n": 1}], durability="interval")


@pytest.mark.parametrize("child", [False, True])
def test_interval_is_flushed_by_a_program_that_ends_without_closing_its_log(place: Path, child: bool) -> None:
    """It ends within the half second after which that would be done; a child of multiprocessing ends in its own way."""
    if child:
        process = multiprocessing.get_context("spawn").Process(target=left_open, args=(place,))
        process.start()
        process.join()
        assert process.exitcode == 0
    else:
        code = "import sys, tests.log.test_durability as t; t.left_open(t.Path(sys.argv[1]))"
        finished(script(code, place))
    lose_power(place)
    assert numbers(place) == [0, 1]


def waits(log: mamba.Log) -> bool:
    """Whether anything waits for the disk."""
    with log._shared.index.view() as view:
        return isinstance(view, OverlaidView)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_of_several_writers_at_any_durability_is_a_prefix(place: Path, seed: int) -> None:
    chance = random.Random(seed)
    with mamba.open(place) as log:
        log.create_topic("t", {"n": pl.Int64})
    levels = [chance.choice(["commit", "interval", "os", "os"]) for _ in range(3)]
    processes = [writer(place, level, 1_000 * number, 60) for number, level in enumerate(levels)]
    for _ in range(chance.randrange(20, 60)):
        chance.choice(processes).stdout.readline()
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
    copy = copied(place)
    lose_power(copy)
    left, whole = numbers(copy), numbers(place)
    assert left == whole[: len(left)]
    for number, level in enumerate(levels):
        mine = [n for n in whole if n // 1_000 == number]
        assert mine == list(range(1_000 * number, 1_000 * number + len(mine)))
        if level == "commit":
            # One that was killed before it could say so may be left out of nothing.
            assert [n for n in left if n // 1_000 == number] == mine
    with mamba.open(copy) as log:
        assert log.statistics() is not None
        log["t"].append([{"n": -1}])


def test_statistics_say_which_commit_a_loss_of_power_would_leave(place: Path) -> None:
    with mamba.open(place, durability="os") as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        flushed = log.statistics().lsn
        assert log.statistics().flushed_lsn == flushed
        for n in range(3):
            topic.append([{"n": n}])
        found = log.statistics()
        assert (found.lsn, found.flushed_lsn) == (flushed + 3, flushed)
        copy = copied(place)
        log.flush()
        assert log.statistics().flushed_lsn == flushed + 3
    lose_power(copy)
    with mamba.open(copy) as log:
        assert log.lsn() == flushed


def test_levels_are_checked(place: Path) -> None:
    with pytest.raises(InvalidInput, match="did you mean 'interval'"):
        mamba.open(place, durability="intervall")  # type: ignore[arg-type]
    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        with pytest.raises(InvalidInput, match="choose 'commit'"):
            topic.append([{"n": 1}], durability="fsync")  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="open it anew"):
            mamba.open(log, durability="os")


def test_what_the_disk_refuses_stops_all_who_commit_and_can_be_read(place: Path, monkeypatch) -> None:
    with mamba.open(place, durability="os") as log:
        log.create_topic("t", {"n": pl.Int64}).append([{"n": 0}])
        log.flush()
        log["t"].append([{"n": 1}])
        synced = os.fdatasync

        def broken(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(LogFailed, match="look at the disk"):
            log.flush()
        # The system took it for written, and says nothing the second time.
        monkeypatch.setattr(os, "fdatasync", synced)
        for durability in ("commit", "os"):
            with pytest.raises(LogFailed):
                log["t"].append([{"n": 2}], durability=durability)
    with mamba.open(place) as log:
        assert log["t"].scan().collect()["n"].to_list() == [0, 1]
        with pytest.raises(LogFailed, match="copy what you need"):
            log["t"].append([{"n": 3}])


def test_who_has_no_descriptor_left_flushes_nothing_and_leaves_it_to_others(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that the disk knows nothing: what waits for it is as good as before."""
    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}], durability="os")
        opened = os.open

        def none_left(path: str | Path, *rest: int) -> int:
            if str(path).endswith(".commit"):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return opened(path, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", none_left)
            with pytest.raises(NotCommitted, match="Close some files"):
                log.flush()
            with pytest.raises(NotCommitted, match="Close some files"):
                topic.append([{"n": 1}])
        topic.append([{"n": 2}])
        assert not waits(log)
    lose_power(place)
    assert numbers(place) == [0, 2]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), DiskFull),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), LogUnavailable),
        (lmdb.DiskError(f"mdb_env_open: {os.strerror(errno.ENOSPC)}"), DiskFull),
        (lmdb.Error(f"mdb_env_open: {os.strerror(errno.EMFILE)}"), LogUnavailable),
    ],
)
def test_where_what_waits_cannot_be_kept_nothing_is_committed_and_later_it_can(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        with monkeypatch.context() as patched:
            patched.setattr(recent, "environment", refused)
            with pytest.raises(kind):
                topic.append([{"n": 0}], durability="os")
        assert topic.append([{"n": 1}], durability="os") == {0: (0, 1)}
    assert numbers(place) == [1]


def test_a_commit_that_took_along_what_waited_has_happened_though_that_cannot_be_emptied(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows must not be taken back for want of room: the index names them already."""
    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}], durability="os")
        emptied = Recent.empty

        def full(self: Recent, upper: lmdb.Transaction, generation: int) -> None:
            emptied(self, upper, generation)
            raise lmdb.DiskError(f"mdb_put: {os.strerror(errno.ENOSPC)}")

        monkeypatch.setattr(Recent, "empty", full)
        topic.append([{"n": 1}])
        monkeypatch.setattr(Recent, "empty", emptied)
        assert topic.scan().collect()["n"].to_list() == [0, 1]
        topic.append([{"n": 2}], durability="os")
        topic.append([{"n": 3}])
        assert topic.scan().collect()["n"].to_list() == [0, 1, 2, 3]
    assert numbers(place) == [0, 1, 2, 3]


def test_what_was_flushed_and_not_emptied_is_emptied_by_the_next_commit(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}], durability="os")
        with monkeypatch.context() as patched:
            patched.setattr(Recent, "empty", lambda *_: (_ for _ in ()).throw(lmdb.DiskError("full")))
            topic.append([{"n": 1}])
        above = log._shared.index._recent
        with above.begin() as upper:
            assert above.pending(upper)
        topic.append([{"n": 2}])
        with above.begin() as upper:
            assert not above.pending(upper)
        assert topic.scan().collect()["n"].to_list() == [0, 1, 2]


def test_nobody_knows_of_a_commit_that_failed_where_what_waits_is_published(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there had been no room for the page that publishes it: what lies there can be used no more."""
    with mamba.open(place) as log:
        topic = log.create_topic("t", {"n": pl.Int64})
        topic.append([{"n": 0}], durability="os")
        log.flush()

        def published(*_: object, **__: object) -> None:
            def begin(*_: object, **__: object) -> None:
                raise lmdb.PanicError("mdb_txn_begin")

            monkeypatch.setattr(Recent, "begin", begin)
            raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}")

        monkeypatch.setattr(Recent, "mark", published)
        with pytest.raises(CommitUnknown):
            topic.append([{"n": 1}], durability="os")
