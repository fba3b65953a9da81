"""Files: names that come from numbers, commit files that outlive their writer, and maps that never lie."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import lmdb
import polars as pl
import pytest

from mamba_stream.errors import DiskFull
from mamba_stream.log import Log, Topic, files, open_log
from mamba_stream.log.files import Maps, number_of, path_of
from mamba_stream.log.index import Index
from tests.log.neighbour import Neighbour
from tests.log.pictures import rows_of, unsound

pytestmark = pytest.mark.embedded


def commit_files(path: Path) -> list[str]:
    return sorted(item.name for item in (path / "files").iterdir() if item.suffix == ".commit")


@pytest.mark.parametrize("number", [1, 255, 2**32 - 1, 2**40])
@pytest.mark.parametrize("kind", ["commit", "segment"])
def test_names_lead_to_numbers_and_back(number: int, kind: str) -> None:
    path = path_of(Path("files"), number, kind)
    assert number_of(path.name) == number
    assert number_of(files.contents_path(path).name) == number


@pytest.mark.parametrize(
    "name", ["README.txt", "cafe.parquet", "00000001", "0000001.commit", "new-1-2-3", "x"]
)
def test_names_that_are_not_the_logs_have_no_number(name: str) -> None:
    assert number_of(name) is None


def test_the_next_process_goes_on_in_the_file_that_the_last_one_left(tmp_path: Path) -> None:
    for n in range(3):
        with open_log(tmp_path) as log:
            log.create_topic("plain", {"n": int}, exist_ok=True).append([{"n": n}])
    assert commit_files(tmp_path) == ["00000001.commit"]
    with open_log(tmp_path) as log:
        assert [row for _, _, row in rows_of(log["plain"])] == [(0,), (1,), (2,)]


def test_what_lies_behind_the_published_end_is_cut_off_before_anything_is_added(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 0}])
    path = tmp_path / "files" / "00000001.commit"
    end = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"half a batch that nobody was told of" * 100)
    with open_log(tmp_path) as log:
        assert [row for _, _, row in rows_of(log["plain"])] == [(0,)]
        log["plain"].append([{"n": 1}])
        assert [row for _, _, row in rows_of(log["plain"])] == [(0,), (1,)]
    assert path.stat().st_size == 2 * end
    assert unsound(tmp_path) == []


def test_small_batches_are_written_before_zeros_that_go_when_the_log_is_closed(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        topic = log.create_topic("plain", {"n": int})
        sizes = set()
        for n in range(200):
            topic.append([{"n": n}])
            sizes.add((tmp_path / "files" / "00000001.commit").stat().st_size)
        assert len(sizes) < 8, "few appends made the file longer"
        assert all(size % 4096 == 0 for size in sizes)
        end = log._store.committer._open[False].end
        assert max(sizes) <= 2 * end + 4096
    assert unsound(tmp_path) == []
    assert (tmp_path / "files" / "00000001.commit").stat().st_size == end
    with open_log(tmp_path) as log:
        assert [row for _, _, row in rows_of(log["plain"])] == [(n,) for n in range(200)]


def test_large_batches_are_followed_by_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append(pl.DataFrame({"n": range(20_000)}))
        assert (tmp_path / "files" / "00000001.commit").stat().st_size == log._store.committer._open[
            False
        ].end


def test_where_there_is_no_room_for_zeros_there_may_be_for_the_batch(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev

    def small(fd: int, parts: list[Any], position: int) -> int:
        if position + sum(map(len, parts)) > 400:
            real(fd, parts[:1], position)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, parts, position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", small)
        assert plain.append([{"n": 1}]) == {0: (0, 1)}
        with pytest.raises(DiskFull):
            plain.append([{"n": 2}])
    assert plain.append([{"n": 3}]) == {0: (1, 2)}
    assert [row for _, _, row in rows_of(plain)] == [(1,), (3,)]


def test_a_file_that_is_let_go_of_keeps_what_another_wrote_behind(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        topic = log.create_topic("plain", {"n": int})
        topic.append([{"n": 0}])
        theirs = log._store.committer._open[False]
        # As a process that was forked here has it, which knows nothing of what its parent appends after.
        ours = files.CommitFile(theirs.number, theirs.path, os.dup(theirs._fd), theirs.end, False)
        ours._filled = theirs._filled
        topic.append([{"n": 1}])
        ours.let_go()
        assert [row for _, _, row in rows_of(topic)] == [(0,), (1,)]


def test_a_file_that_lost_published_bytes_is_left_as_it_is(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 0}])
    path = tmp_path / "files" / "00000001.commit"
    os.truncate(path, 100)
    with open_log(tmp_path) as log:
        assert log["plain"].append([{"n": 1}]) == {0: (1, 2)}
        assert path.stat().st_size == 100
        assert rows_of(log["plain"], start=1) == [(0, 1, (1,))]
    assert [finding.severity for finding in unsound(tmp_path)] == ["loss", "loss"]


def test_writers_that_live_at_the_same_time_have_files_of_their_own(
    tmp_path: Path, neighbour: Neighbour
) -> None:
    neighbour.do({"do": "open", "path": str(tmp_path)})
    neighbour.do(
        {
            "do": "create",
            "topic": "t",
            "partitions": 1,
            "key": [],
            "time": None,
            "compression": "none",
            "exist_ok": False,
        }
    )
    neighbour.do({"do": "append", "topic": "t", "rows": [[0, None, None, None]], "form": "dicts"})
    with open_log(tmp_path) as log:
        log["t"].append([{"id": 1}])
        assert len(commit_files(tmp_path)) == 2
        neighbour.do({"do": "append", "topic": "t", "rows": [[2, None, None, None]], "form": "dicts"})
        assert [row[0] for _, _, row in rows_of(log["t"])] == [0, 1, 2]
    neighbour.do({"do": "close"})
    with open_log(tmp_path) as log:
        log["t"].append([{"id": 3}])
        assert len(commit_files(tmp_path)) == 2, "one that was left is gone on with"


def test_a_new_file_is_registered_although_the_index_has_to_grow_for_it(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Index._attempt
    grown: list[int] = []

    def full_at_first(index: Index, change: Any) -> Any:
        if len(grown) < 2:
            grown.append(1)
            # Runs the change, and throws it away: as when the map is full at its last row.
            with pytest.raises(ZeroDivisionError):
                attempt(index, lambda draft: (change(draft), 1 / 0))
            raise lmdb.MapFullError("full")
        return attempt(index, change)

    monkeypatch.setattr(Index, "_attempt", full_at_first)
    assert plain.append([{"n": 1}]) == {0: (0, 1)}
    assert len(list((log.path / "files").iterdir())) == 1


def test_a_file_is_adopted_although_the_index_has_to_grow_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append([{"n": 0}])
    attempt = Index._attempt
    grown: list[int] = []

    def full_at_first(index: Index, change: Any) -> Any:
        if not grown:
            grown.append(1)
            with pytest.raises(ZeroDivisionError):
                attempt(index, lambda draft: (change(draft), 1 / 0))
            raise lmdb.MapFullError("full")
        return attempt(index, change)

    with open_log(tmp_path) as log:
        open_files = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(Index, "_attempt", full_at_first)
        log["plain"].append([{"n": 1}])
        assert commit_files(tmp_path) == ["00000001.commit"]
        assert len(os.listdir("/proc/self/fd")) - open_files == 1


def test_a_disk_without_room_for_another_file_is_full(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and "new-" in str(path):
            raise OSError(28, os.strerror(28))
        return real(path, flags, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(DiskFull, match="nothing was committed"):
            plain.append([{"n": 1}])
    assert plain.append([{"n": 2}]) == {0: (0, 1)}


class TestMaps:
    """Bytes of files, for readers."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        path_of(tmp_path, 1, "commit").write_bytes(bytes(range(200)))
        return tmp_path

    def test_bytes_are_where_they_were_asked_for(self, place: Path) -> None:
        maps = Maps(place)
        assert maps.read(1, "commit", 10, 3) is not None
        assert [bytes(maps.read(1, "commit", at, 3) or b"") for at in (0, 197)] == [
            b"\0\1\2",
            bytes([197, 198, 199]),
        ]

    def test_a_file_that_is_shorter_gives_none(self, place: Path) -> None:
        maps = Maps(place)
        assert maps.read(1, "commit", 198, 3) is None

    def test_a_file_that_grew_is_seen_as_it_is(self, place: Path) -> None:
        maps = Maps(place)
        assert maps.read(1, "commit", 0, 200) is not None
        with path_of(place, 1, "commit").open("ab") as file:
            file.write(b"more" * (3 << 20))
        for at, length in ((200, 4), (204, 8), (200, 12 << 20)):
            assert bytes(maps.read(1, "commit", at, length) or b"")[:4] == b"more"

    def test_a_missing_file_is_missing(self, place: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Maps(place).read(2, "commit", 0, 1)

    def test_bytes_outlive_their_file_and_their_map(self, place: Path) -> None:
        maps = Maps(place)
        held = maps.read(1, "commit", 0, 200)
        path_of(place, 1, "commit").unlink()
        maps.forget(1)
        maps.clear()
        assert bytes(held or b"") == bytes(range(200))

    def test_a_map_of_a_removed_file_goes_when_the_next_file_is_mapped(self, place: Path) -> None:
        maps = Maps(place)
        maps.read(1, "commit", 0, 200)
        path_of(place, 1, "commit").unlink()
        path_of(place, 2, "segment").write_bytes(b"others")
        assert bytes(maps.read(2, "segment", 0, 6) or b"") == b"others"
        assert list(maps._maps) == [2]

    def test_only_so_many_files_stay_mapped(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "_OPEN_MAPS", 3)
        maps = Maps(place)
        for number in range(1, 9):
            path_of(place, number, "commit").write_bytes(bytes([number]) * 10)
            maps.read(number, "commit", 0, 10)
        assert len(maps._maps) == 3
        assert [bytes(maps.read(n, "commit", 0, 1) or b"") for n in range(1, 9)] == [
            bytes([n]) for n in range(1, 9)
        ]


def test_rows_that_a_user_holds_stay_when_their_files_are_gone(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.create_topic("plain", {"n": int}).append(pl.DataFrame({"n": range(1000)}))
        [batch] = log["plain"].read()
        log.delete_topic("plain")
    for path in (tmp_path / "files").iterdir():
        path.unlink()
    assert batch.data["n"].to_pylist() == list(range(1000))


def test_a_file_that_loses_its_spare_room_while_it_is_mapped_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "00000001.commit").write_bytes(b"row" + bytes(10_000))
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        found = real(fd)
        os.truncate(tmp_path / "00000001.commit", 3)
        return found

    monkeypatch.setattr(files.os, "fstat", fstat)
    read = files.Maps(tmp_path).read(1, "commit", 0, 3)
    assert read is not None and read.to_pybytes() == b"row"
