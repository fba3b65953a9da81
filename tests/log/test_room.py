"""Marks of a disk, its ballast, and upkeep on it: small file systems that others fill."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.core.clock import SystemClock
from mamba_stream.core.diskmarks import DiskMarks, marks_with
from mamba_stream.errors import DiskFull, DiskNearlyFull, InvalidInput
from mamba_stream.log import Log, ballast, commit_together
from mamba_stream.log.recovery import TRASH_DELAY
from mamba_stream.log.room import Room
from mamba_stream.log.store import Store, acquire
from mamba_stream.log.ways import way_to
from tests.log.desk import SCHEMA, frame_of
from tests.log.handclock import DAY, HandClock
from tests.log.neighbour import Neighbour
from tests.log.pictures import picture, unsound
from tests.mounts import Mount, ext4, free, leave, mounts, take_all
from tests.served import serving

pytestmark = pytest.mark.embedded

COLUMNS = {"n": int, "body": bytes}
SIZE = 16 << 20
SOFT, HARD = SIZE // 10, SIZE // 20
MAP_SIZE = 4 << 20


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with mounts(tmp_path) as mount:
        yield mount


@pytest.fixture
def disk(mount: Mount) -> Path:
    """A file system of sixteen megabytes; the log there must be sound when the test is over."""
    return mount(SIZE)


def row(number: int, size: int = 100_000) -> list[dict[str, Any]]:
    return [{"n": number, "body": os.urandom(size)}]


def fill(log: Log, topic: str) -> int:
    """Appends until that is refused; how many rows were taken."""
    taken = 0
    with pytest.raises(
        DiskNearlyFull, match=r"behind its soft mark, 1\.6 MiB, it takes no rows; nothing was committed"
    ):
        while True:
            log[topic].append(row(taken))
            taken += 1
    return taken


def opened(disk: Path, clock: HandClock, **marks: Any) -> Log:
    return Log(acquire(disk / "log", clock, MAP_SIZE, marks=marks_with(marks, DiskMarks())))


def storage(log: Log) -> Store:
    assert isinstance(log._shared, Store)
    return log._shared


# --- the soft mark ----------------------------------------------------------------------------------------------


@pytest.mark.root
def test_behind_the_soft_mark_rows_are_refused_and_everything_else_goes_on(
    disk: Path, clock: HandClock
) -> None:
    with opened(disk, clock) as log:
        topic = log.create_topic("t", COLUMNS)
        taken = fill(log, "t")
        assert SOFT <= free(disk) < SOFT + 300_000
        before = picture(log)
        with pytest.raises(DiskNearlyFull), log.transaction() as tx:
            tx.append("t", row(-1, 5_000_000))
            tx.put_record("a", "b", b"c")
        assert picture(log) == before
        assert storage(log).room.state == "ample", (
            "what would go behind the mark is refused before it is reached"
        )
        leave(disk, SOFT - 100_000)
        clock.at += 1_000_000
        with pytest.raises(DiskNearlyFull):
            topic.append(row(-1, 1))
        found = log.statistics()
        assert (found.disk_state, found.disk_bytes, found.disk_refused) == ("soft", SIZE, 3)
        assert found.disk_free == free(disk)

        assert [n for batch in topic.read() for n in batch.data["n"].to_pylist()] == list(range(taken))
        with log.transaction() as tx:
            tx.commit_offsets("group", {("t", 0): taken})
            tx.put_record("a", "b", b"c")
        log.create_topic("new", COLUMNS)
        log.alter_topic("t", retention="1d")
        topic.trim(taken - 1)
        log.maintain()
        clock.at += TRASH_DELAY
        (disk / "taken").unlink()
        log.maintain()
        assert topic.append(row(-2)) == {0: (taken, taken + 1)}, "without opening it again"
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_two_processes_and_clients_of_a_server_go_by_the_same_marks(disk: Path, neighbour: Neighbour) -> None:
    with mamba.open(disk / "log") as log, serving(disk / "log") as address, mamba.open(address) as client:
        topic = log.create_topic("t", SCHEMA)
        rows = [[1, 0, "a", 0.5]]
        theirs = {"do": "append", "topic": "t", "rows": rows, "form": "dicts"}
        topic.append(frame_of(rows, "dicts"))
        room = leave(disk, SOFT - 100_000)
        assert "ok" in neighbour.do({"do": "open", "path": log.place})
        try:
            assert neighbour.do(theirs)["error"] == "DiskNearlyFull"
            storage(log).room.look()
            for handle in (log, client):
                with pytest.raises(DiskNearlyFull, match="are free on the disk"):
                    handle["t"].append(frame_of(rows, "dicts"))
            client["t"].trim(1)
            assert client.statistics().disk_state == "soft"
            room.unlink()
            assert neighbour.do(theirs) == {"ok": [[0, 1, 2]]}
        finally:
            neighbour.do({"do": "close"})
        assert client["t"].append(frame_of(rows, "dicts")) == {0: (2, 3)}
        assert topic.append(frame_of(rows, "dicts")) == {0: (3, 4)}
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_a_large_commit_in_pieces_is_refused_at_the_piece_that_goes_behind_the_mark(
    disk: Path, clock: HandClock
) -> None:
    with opened(disk, clock) as log:
        topic = log.create_topic("t", COLUMNS)
        before = picture(log)
        stage = storage(log).stage()
        with pytest.raises(DiskNearlyFull):
            for at in range(400):
                stage.write(topic._intake.batches(row(at)))
        stage.close()
        assert picture(log) == before
        assert free(disk) > SIZE - (2 << 20)
        topic.append(row(1))
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_a_job_that_comes_to_the_mark_goes_on_once_there_is_room(disk: Path) -> None:
    with mamba.open(disk / "log", disk={"ballast": 0}) as log:
        log.create_topic("in", {"n": int}).append(pl.DataFrame({"n": range(100_000)}))
        log["in"].end()
        pipeline = mamba.pipeline("copy", mamba.stream("in").with_columns(m=pl.col("n") * 2).to("out"))
        room = leave(disk, SOFT + 100_000)
        storage(log).room.look()
        with pytest.raises(DiskNearlyFull, match="nothing was committed"):
            mamba.run(pipeline, log=log)
        room.unlink()
        mamba.run(pipeline, log=log)
        assert log["out"].scan().collect()["m"].to_list() == list(range(0, 200_000, 2))
    assert unsound(disk / "log") == []


# --- the hard mark ----------------------------------------------------------------------------------------------


@pytest.mark.root
def test_behind_the_hard_mark_the_index_does_not_grow_and_upkeep_only_deletes(
    disk: Path, clock: HandClock
) -> None:
    with opened(disk, clock) as log:
        topic = log.create_topic("t", COLUMNS, retention="1d")
        kept = log.create_topic("kept", COLUMNS)
        for at in range(20):
            topic.append(row(at))
            kept.append(row(at, 1000))
        with log.transaction() as tx:
            tx.put_record("a", "there", b"1")
            tx.put_record("a", "gone", b"1")
        storage(log).committer.roll()
        room = leave(disk, HARD - 100_000)
        clock.at += 1_000_000
        for refused in (
            lambda: topic.append(row(-1, 1)),
            lambda: log.create_topic("new", COLUMNS),
            lambda: log.alter_topic("t", add={"more": int}),
        ):
            with pytest.raises(DiskNearlyFull, match="mark"):
                refused()
        with pytest.raises(
            DiskNearlyFull, match=r"behind its hard mark, 819\.2 KiB, it takes no new records"
        ):
            with log.transaction() as tx:
                tx.put_record("a", "there", b"2")
                tx.put_record("a", "new", b"2")
        with log.transaction() as tx:
            tx.put_record("a", "there", b"2")
            tx.delete_record("a", "gone")
            tx.commit_offsets("group", {("t", 0): 3})
        assert log.records("a") == {"there": b"2"}
        log.alter_topic("t", retention_bytes="1GB")

        clock.at += DAY + 1
        done = log.maintain()
        assert (done.trimmed_rows, done.short_of_room, done.done, done.written_bytes) == (20, True, False, 0)
        clock.at += TRASH_DELAY
        log.maintain()
        assert [n for batch in kept.read() for n in batch.data["n"].to_pylist()] == list(range(20))
        room.unlink()
        done = log.maintain()
        assert (done.short_of_room, done.done) == (False, True)
        assert done.written_bytes
        topic.append(row(1))
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_upkeep_writes_no_more_than_the_hard_mark_leaves(disk: Path, clock: HandClock) -> None:
    with opened(disk, clock) as log:
        topic = log.create_topic("t", COLUMNS, partitions=8)
        for at in range(64):
            topic.append(row(at), partition=at % 8)
        leave(disk, HARD + 1_000_000)
        done = log.maintain()
        assert not done.done
        assert 0 < done.written_bytes < 2_000_000
        assert free(disk) > HARD - 1_000_000
    assert unsound(disk / "log") == []


# --- the ballast ------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("size", ["3MiB", "off"])
def test_what_deletes_finds_room_on_a_full_disk_where_there_is_ballast(
    disk: Path, clock: HandClock, size: str
) -> None:
    with opened(disk, clock, soft="off", hard="off", ballast=size) as log:
        topic = log.create_topic("t", COLUMNS)
        for at in range(8):
            with log.transaction() as tx:
                tx.append("t", row(at))
                for record in range(150):
                    tx.put_record("state", f"{at}-{record}", bytes(1_000))

        def delete() -> None:
            """Touches all pages of the index, none of which goes."""
            with log.transaction() as tx:
                tx.trim("t", {0: 7})
                for record in range(0, 150, 3):
                    for at in range(8):
                        tx.delete_record("state", f"{at}-{record}")

        crumbs = take_all(disk)
        file = disk / "log" / "ballast"
        assert file.exists() is (size != "off")
        with pytest.raises(DiskFull):
            topic.append(row(-1))
        if size == "off":
            before = picture(log)
            with pytest.raises(DiskFull):
                delete()
            assert picture(log) == before
        else:
            assert file.exists(), "it is for what deletes"
            delete()
            assert not file.exists()
            assert (topic.offsets(), len(log.records("state"))) == ({0: (7, 8)}, 800)
        crumbs.unlink()
        log.maintain()
        wanted = 0 if size == "off" else 3 << 20
        assert ballast.size(disk / "log") == log.statistics().ballast_bytes == wanted
        assert topic.append(row(9)) == {0: (8, 9)}
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_what_deletes_does_not_fail_with_those_who_append(disk: Path, clock: HandClock) -> None:
    with opened(disk, clock, soft="off", hard="off", ballast="256KiB") as log:
        topic = log.create_topic("t", COLUMNS)
        for at in range(3):
            topic.append(row(at, 1_000_000))
        take_all(disk)
        appending, trimming = log.transaction(), log.transaction()
        appending.append("t", row(3, 1_000_000))
        trimming.trim("t", {0: 3})
        found = commit_together(log, [appending, trimming])
        assert isinstance(found[0], DiskFull)
        assert found[1] is None
        assert topic.offsets() == {0: (3, 3)}
    assert unsound(disk / "log") == []


@pytest.mark.root
def test_whenever_the_disk_is_full_to_the_last_byte_what_deletes_is_done_and_the_rest_refused(
    disk: Path, clock: HandClock
) -> None:
    full_at_every_step(disk, clock, ballast="512KiB")


@pytest.mark.root
@pytest.mark.slow
def test_that_is_so_on_a_disk_that_keeps_a_journal(tmp_path: Path, clock: HandClock) -> None:
    with ext4(tmp_path, 64 << 20) as disk:
        full_at_every_step(disk, clock)


def full_at_every_step(disk: Path, clock: HandClock, **marks: Any) -> None:
    steps: list[Callable[[Log], Any]] = [
        lambda log: log.create_topic("t", COLUMNS, exist_ok=True),
        lambda log: log["t"].append(row(0)),
        lambda log: log["t"].append(row(1), durability="os"),
        lambda log: log["t"].trim(1),
        lambda log: log.seal(),
        lambda log: log.maintain(),
    ]
    taken = 0
    for at in range(len(steps)):
        path = disk / f"log-{at}"
        with Log(acquire(path, clock, MAP_SIZE, marks=marks_with(marks, DiskMarks()))) as log:
            topic = log.create_topic("t", COLUMNS)
            for step in steps[: at + 1]:
                step(log)
            _, end = topic.offsets()[0]
            held = [n for batch in topic.read() for n in batch.data["n"].to_pylist()]
            assert log.statistics().ballast_bytes
            crumbs = take_all(disk)
            clock.at += 1_000_000
            with pytest.raises(DiskNearlyFull):
                topic.append(row(9))
            assert [n for batch in topic.read() for n in batch.data["n"].to_pylist()] == held
            with log.transaction() as tx:
                tx.trim("t", {0: end})
                tx.commit_offsets("group", {("t", 0): end})
            assert topic.offsets() == {0: (end, end)}
            taken += ballast.size(path) == 0
            log.alter_topic("t", retention="1d")
            assert log.maintain().short_of_room
            crumbs.unlink()
            assert topic.append(row(9)) == {0: (end, end + 1)}
            log.delete_topic("t")
        assert unsound(path) == []
    assert taken, "there was always room to delete without it"


@pytest.mark.root
def test_ballast_grows_with_the_index_and_comes_back(
    disk: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "_IN_MEMORY", frozenset())
    ballast._in_memory.cache_clear()
    with opened(disk, clock) as log:
        assert log.statistics().ballast_bytes == SIZE // 16, "a part of the disk at most"
        monkeypatch.setattr(ballast, "_SHARE", 4)
        for at in range(10):
            with log.transaction() as tx:
                for record in range(50):
                    tx.put_record("a", f"{at}-{record}", bytes(1_800))
        assert ballast.size(log.path) < 2 << 20
        clock.at += 1_000_000
        log.create_topic("t", COLUMNS).append(row(1))
        assert ballast.size(log.path) == 4 << 20
        assert ballast.give_up(log.path)
        assert not ballast.give_up(log.path)
        clock.at += 1_000_000
        log["t"].append(row(2))
        assert ballast.size(log.path) == 4 << 20
        ballast.give_up(log.path)
        leave(disk, SOFT + (1 << 20))
        log.maintain()
        assert ballast.size(log.path) == 0, "it is not to take what rows are to have"


def test_a_log_has_ballast_for_the_size_of_its_index_and_it_is_no_part_of_it(
    tmp_path: Path, log: Log
) -> None:
    file = Path(log.place) / "ballast"
    assert ballast.size(log.path) == file.stat().st_size == 1 << 20
    log.create_topic("t", COLUMNS).append(row(1))
    log.backup(tmp_path / "backups")
    assert sum(each.stat().st_size for each in (tmp_path / "backups").rglob("*") if each.is_file()) < 900_000
    log.close()
    with mamba.open(log.place, disk={"ballast": 0}):
        assert not file.exists()


# --- looking ----------------------------------------------------------------------------------------------------


def test_the_disk_is_looked_at_once_a_second_and_when_what_was_left_has_come(
    tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    left = [30_000]

    def statvfs(path: object) -> os.statvfs_result:
        nonlocal looks
        looks += 1
        return os.statvfs_result((1000, 1000, 100, left[0] // 1000, left[0] // 1000, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    called: list[str] = []
    room = Room(tmp_path, marks_with({"soft": "80%", "hard": "90%"}, DiskMarks()), clock)
    room.narrowed = lambda: called.append("narrow")
    assert all(room.refusal(1000) is None for _ in range(10))
    assert looks == 1
    assert not room.tight()
    assert looks == 1
    left[0] = 20_000
    assert room.refusal(1000) is not None, "what was left by the first look has come"
    assert looks == 2
    left[0] = 25_000
    assert room.refusal(1000) is None, "at each attempt while it is refused"
    left[0] = 5_000
    assert not room.tight()
    clock.at += 1_000_000
    assert room.tight()
    assert room.refusal(0) is not None
    left[0] = 60_000
    assert not room.tight()
    assert called == ["narrow"]


def test_where_the_system_does_not_say_what_is_left_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statvfs(path: object) -> os.statvfs_result:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(os, "statvfs", statvfs)
    room = Room(tmp_path, DiskMarks(), SystemClock())
    assert room.refusal(1 << 60) is None
    assert not room.tight()
    assert room.within(5) == 5


def test_marks_are_of_a_directory_and_the_same_for_all_who_have_it_open_in_a_process(tmp_path: Path) -> None:
    with mamba.open(tmp_path / "log", disk={"soft": "80%"}) as log:
        with mamba.open(tmp_path / "log") as again, mamba.open(tmp_path / "log", disk={"soft": 0.8}):
            assert again._shared is log._shared
        assert way_to(log).marks == storage(log).room.marks == marks_with({"soft": "80%"}, DiskMarks())
        with pytest.raises(InvalidInput, match="open in this process already, with other marks of its disk"):
            mamba.open(tmp_path / "log", disk={"soft": "70%"})
        with pytest.raises(InvalidInput, match="disk is for opening one"):
            mamba.open(log, disk={"soft": "80%"})
    with pytest.raises(InvalidInput, match="disk is for directories"):
        mamba.open("localhost:1", disk={"soft": "80%"})
