"""What opening puts right after processes that died, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import signal
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

import pytest

from mamba_stream.log import directory, open_log, recovery
from mamba_stream.log.log import Log
from mamba_stream.log.store import acquire
from tests.log.neighbour import Neighbour, script
from tests.log.outage import copied, lose_power
from tests.log.pictures import picture, rows_of, unsound

pytestmark = pytest.mark.embedded

TABLE = {"partitions": 1, "key": [], "time": None, "compression": "none", "exist_ok": True}


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 1_800_000_000_000_000

    def now(self) -> int:
        return self.time

    def monotonic(self) -> float:
        return self.time / 1e6


def opened(path: Path, clock: Clock) -> Log:
    return Log(acquire(path, clock))


def names(path: Path) -> set[str]:
    return set(os.listdir(path / "files"))


def test_a_file_of_trash_goes_when_its_delay_is_over(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 1}])
        log.seal()
        assert len(names(tmp_path)) == 3
    clock.time += recovery.TRASH_DELAY - 1
    with opened(tmp_path, clock) as log:
        assert len(names(tmp_path)) == 3
    clock.time += 1
    with opened(tmp_path, clock) as log:
        assert {Path(name).suffix for name in names(tmp_path)} == {".arrows", ".toc"}
        assert log.statistics().trash == 0
        assert rows_of(log["plain"]) == [(0, 0, (1,))]
    assert unsound(tmp_path) == []


def test_a_file_that_is_trash_only_as_long_as_power_lasts_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trim was committed without waiting for the disk: a loss of power brings its rows back."""
    clock, place = Clock(), tmp_path / "log"
    copies: list[Path] = []
    with opened(place, clock) as log:
        plain = log.create_topic("plain", {"n": int})
        plain.append([{"n": 1}, {"n": 2}])
        log.seal()
        with log.transaction(durability="os") as tx:
            tx.trim("plain", {0: 2})
        clock.time += recovery.TRASH_DELAY
        synced = directory.sync

        def lost(path: Path) -> None:
            synced(path)
            copies.append(copied(place, f"copy-{len(copies)}"))

        monkeypatch.setattr(directory, "sync", lost)
        log.maintain()
        monkeypatch.setattr(directory, "sync", synced)
        log.maintain()
        assert names(place) == set()
    assert copies
    for copy in copies:
        lose_power(copy)
        assert unsound(copy) == []
        with opened(copy, clock) as log:
            assert rows_of(log["plain"]) in ([], [(0, 0, (1,)), (0, 1, (2,))])


def test_the_time_of_appending_never_runs_backwards_though_the_clock_does(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as log:
        topic = log.create_topic("plain", {"n": int})
        times = []
        for step in (0, 5, -3_600_000_000, 1, 7_200_000_000, -1):
            clock.time += step
            times.append(clock.time)
            topic.append([{"n": len(times)}])
        assert [batch.append_time for batch in topic.read()] == list(accumulate(times, max))
        for time in times:
            first = next(batch.offset for batch in topic.read() if batch.append_time >= time)
            assert topic.offset_at(datetime.fromtimestamp(time / 1e6, UTC), by="append") == {0: first}


def test_a_trimmed_segment_goes_with_its_table_of_contents(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as log:
        topic = log.create_topic("plain", {"n": int})
        topic.append([{"n": 1}])
        log.seal()
        topic.trim(1)
    clock.time += recovery.TRASH_DELAY
    with opened(tmp_path, clock):
        assert names(tmp_path) == set()


def test_a_reader_whose_file_is_gone_finds_its_rows_where_they_are_now(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as log:
        topic = log.create_topic("plain", {"n": int})
        for n in range(3):
            topic.append([{"n": n}])
        reader = topic.reader()
        reader.poll(max_rows=1)
        log.seal()
        clock.time += recovery.TRASH_DELAY
        log.seal()
        assert {Path(name).suffix for name in names(tmp_path)} == {".arrows", ".toc"}
        assert [n for batch in reader.poll() for n in batch.data["n"].to_pylist()] == [1, 2]


@pytest.mark.parametrize("name", ["0000ffff.commit", "0000ffff.toc"])
def test_a_file_that_nobody_knows_and_no_row_can_lie_in_is_removed(tmp_path: Path, name: str) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 1}])
        before = picture(log)
    (tmp_path / "files" / name).write_bytes(b"")
    with open_log(tmp_path) as log:
        assert names(tmp_path) == {"00000001.commit"}
        assert picture(log) == before


def test_a_segment_that_nobody_knows_is_removed_while_its_rows_are_elsewhere(tmp_path: Path) -> None:
    """As after a crash between naming it and telling the index."""
    clock = Clock()
    with opened(tmp_path, clock) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 1}])
        log.seal()
    for suffix in ("arrows", "toc"):
        shutil.copy(tmp_path / "files" / f"00000002.{suffix}", tmp_path / "files" / f"0000ffff.{suffix}")
    with opened(tmp_path, clock):
        assert {name for name in names(tmp_path) if "ffff" in name} == set()


@pytest.mark.parametrize("suffix", ["commit", "arrows"])
def test_a_file_that_the_index_has_forgotten_is_kept_and_its_number_not_given_again(
    tmp_path: Path, suffix: str
) -> None:
    """As after an index was put back from an older copy: the rows are there, if only in the file."""
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int})
    index = tmp_path / "index" / "data.mdb"
    older = index.read_bytes()
    with open_log(tmp_path) as log:
        log["plain"].append([{"n": 1}])
        if suffix == "arrows":
            log.seal()
    files = {p.name: p.read_bytes() for p in (tmp_path / "files").glob(f"*.{suffix}")}
    assert files
    index.write_bytes(older)
    assert any("nobody else has" in finding.what for finding in unsound(tmp_path))
    with open_log(tmp_path) as log:
        for n in range(2):
            log["plain"].append([{"n": n}])
            log.seal()
        assert [row for _, _, row in rows_of(log["plain"])] == [(0,), (1,)]
    assert {name: (tmp_path / "files" / name).read_bytes() for name in files} == files


@pytest.mark.parametrize("name", ["README", "cafe.parquet", "deadbeef", "0001.commit", "new-1-2-3"])
def test_a_file_that_is_not_the_logs_or_brand_new_is_left_alone(tmp_path: Path, name: str) -> None:
    with open_log(tmp_path):
        (tmp_path / "files" / name).write_bytes(b"?")
    with open_log(tmp_path):
        assert names(tmp_path) == {name}


def test_a_file_that_never_got_a_name_goes_after_an_hour(tmp_path: Path) -> None:
    with open_log(tmp_path):
        path = tmp_path / "files" / "new-1-2-3"
        path.write_bytes(b"?")
    long_ago = path.stat().st_mtime - 3_700
    os.utime(path, (long_ago, long_ago))
    with open_log(tmp_path):
        assert names(tmp_path) == set()


def test_nothing_of_a_living_writer_is_touched(tmp_path: Path) -> None:
    """It lives, holds its file's lock, and has written bytes that nobody was told of yet."""
    with Neighbour() as writer:
        writer.do({"do": "open", "path": str(tmp_path)})
        writer.do({"do": "create", "topic": "t", **TABLE})
        writer.do({"do": "append", "topic": "t", "rows": [[0, None, None, None]], "form": "dicts"})
        path = tmp_path / "files" / "00000001.commit"
        with path.open("ab") as file:
            file.write(b"x" * 1000)
        size = path.stat().st_size
        with open_log(tmp_path) as log:
            log["t"].append([{"id": 1}])
            assert path.stat().st_size == size
            assert len(names(tmp_path)) == 2
        assert writer.do(
            {"do": "append", "topic": "t", "rows": [[2, None, None, None]], "form": "dicts"}
        ) == {"ok": [[0, 2, 3]]}
    assert unsound(tmp_path) == []


def test_a_writer_that_was_killed_leaves_its_file_to_the_next(tmp_path: Path) -> None:
    with Neighbour() as writer:
        writer.do({"do": "open", "path": str(tmp_path)})
        writer.do({"do": "create", "topic": "t", **TABLE})
        writer.do({"do": "append", "topic": "t", "rows": [[0, None, None, None]], "form": "dicts"})
        writer.process.send_signal(signal.SIGKILL)
        writer.process.wait()
    with open_log(tmp_path) as log:
        log["t"].append([{"id": 1}])
        assert names(tmp_path) == {"00000001.commit"}
        assert [row[0] for _, _, row in rows_of(log["t"])] == [0, 1]
    assert unsound(tmp_path) == []


def test_a_log_opened_by_many_processes_at_once_is_made_once(tmp_path: Path) -> None:
    code = """
import sys
from mamba_stream.log import open_log
sys.stdin.readline()
with open_log(sys.argv[1]) as log:
    topic = log.create_topic("t", {"n": int}, exist_ok=True)
    topic.append([{"n": int(sys.argv[2])}])
    print(log._store.meta.uuid)
"""
    processes = [script(code, tmp_path / "new" / "log", number) for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    assert len({out for out, _ in results}) == 1
    with open_log(tmp_path / "new" / "log") as log:
        assert sorted(row[0] for _, _, row in rows_of(log["t"])) == [0, 1, 2, 3]
    assert unsound(tmp_path / "new" / "log") == []
