"""Sealing: the same rows in files that any Arrow tool opens, at no moment anywhere else than the index says."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import polars as pl
import pyarrow as pa
import pytest

from mamba_stream.core.schemas import schema_from_bytes
from mamba_stream.errors import CommitUnknown, DiskFull, NotCommitted
from mamba_stream.log import Log, Topic, contents, open_log, repacking, sealing
from mamba_stream.log.index import Index
from tests.log.neighbour import Neighbour
from tests.log.pictures import picture, rows_of, unsound


def segments(log: Log) -> dict[tuple[str, int], list[Path]]:
    """The segments by topic and partition, in order."""
    found: dict[tuple[str, int], list[Path]] = {}
    for path in sorted((log.path / "files").glob("*.arrows")):
        table = contents.decode(path.with_suffix(".toc").read_bytes())
        found.setdefault((table.topic, table.partition), []).append(path)
    return found


def in_index(log: Log) -> set[int]:
    return {
        placed.entry.file
        for name in log.topics(internal=True)
        for p, (begin, _) in log[name].offsets().items()
        for placed in log._store.shelf.entries(log[name]._row, p, begin, 1 << 20)
    }


@pytest.fixture
def filled(trades: Topic) -> Iterator[Topic]:
    for at in range(6):
        trades.append(
            pl.DataFrame(
                {
                    "ts": [None, None], "symbol": [f"s{at}", f"s{at + 1}"],
                    "price": [at / 2, None], "size": [at, -at],
                },
                schema=trades.polars_schema,
            )
        )  # fmt: skip
    return trades


@pytest.mark.embedded
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_a_segment_is_an_ordinary_stream_for_pyarrow_and_polars(log: Log, compression: str) -> None:
    topic = log.create_topic("plain", {"n": int, "s": str}, compression=compression)
    for n in range(5):
        topic.append([{"n": n, "s": f"row {n}"}] * 3)
    expected = pl.concat(pl.DataFrame(batch.data) for batch in topic.read())
    assert log.seal() == 1
    [path] = segments(log)["plain", 0]
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        assert reader.schema.equals(topic.schema)
        batches = list(reader)
    assert len(batches) == 1, "small ones that follow each other are merged"
    assert pl.DataFrame(pa.Table.from_batches(batches)).equals(expected)
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as reader:
        assert reader.read_all().num_rows == 15
    assert pl.read_ipc_stream(path).equals(expected)


def test_sealing_changes_where_rows_lie_and_nothing_that_can_be_seen(log: Log, filled: Topic) -> None:
    before, described = picture(log), filled.describe()
    assert log.seal() == 1
    after = picture(log)
    for seen in (before, after):
        # How partitions take turns goes by batches.
        offsets, ended, rows = seen["topics"]["trades"]
        seen["topics"]["trades"] = offsets, ended, sorted(rows, key=lambda row: row[:2])
    assert after == before
    now = filled.describe()
    assert now.batches == sum(begin < end for begin, end in filled.offsets().values())
    assert {p: facts.rows for p, facts in now.by_partition.items()} == {
        p: facts.rows for p, facts in described.by_partition.items()
    }
    kept = {name: getattr(described, name) for name in ("batches", "bytes", "by_partition")}
    assert replace(now, **kept) == described
    statistics = log.statistics()
    assert (statistics.commit_files, statistics.trash) == (0, 1)
    assert statistics.segments == sum(begin < end for begin, end in filled.offsets().values())


@pytest.mark.embedded
def test_what_is_sealed_already_is_left_alone(log: Log, filled: Topic) -> None:
    assert log.seal() == 1
    names = set(os.listdir(log.path / "files"))
    assert log.seal() == 0
    assert set(os.listdir(log.path / "files")) == names


def test_a_log_without_rows_has_nothing_to_seal(log: Log, plain: Topic) -> None:
    assert log.seal() == 0


@pytest.mark.embedded
def test_appending_and_sealing_go_on_in_turns(log: Log, plain: Topic) -> None:
    for n in range(5):
        plain.append([{"n": n}])
        assert log.seal() == 1
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(5)]
    assert len(segments(log)["plain", 0]) == 5
    assert rows_of(plain, start=3) == [(0, 3, (3,)), (0, 4, (4,))]


@pytest.mark.embedded
def test_the_table_of_contents_says_what_the_index_says(log: Log, filled: Topic) -> None:
    log.seal()
    for (name, partition), paths in segments(log).items():
        table = contents.decode(paths[0].with_suffix(".toc").read_bytes())
        assert (table.log, table.topic_id) == (log._store.meta.uuid, log[name]._row.id)
        assert schema_from_bytes(table.schema).equals(log[name].schema)
        assert table.size == paths[0].stat().st_size
        entries = log._store.shelf.entries(log[name]._row, partition, 0, 100)
        assert [batch.offset for batch in table.batches] == [placed.offset for placed in entries]
        for batch, placed in zip(table.batches, entries, strict=True):
            for field in (
                "position",
                "length",
                "rows",
                "span",
                "min_time",
                "max_time",
                "running_time",
                "header",
                "flags",
            ):
                assert getattr(batch, field) == getattr(placed.entry, field)


@pytest.mark.embedded
def test_segments_are_cut_at_a_size(log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEGMENT_BYTES", 1000)
    for n in range(7):
        plain.append([{"n": n}])
    log.seal()
    assert len(segments(log)["plain", 0]) == 3
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(7)]


@pytest.mark.embedded
def test_trimmed_rows_are_not_sealed_and_internal_topics_stay_in_commit_files(log: Log, plain: Topic) -> None:
    hidden = log.create_topic("_hidden", {"n": int}, internal=True)
    for n in range(4):
        plain.append([{"n": n}])
        hidden.append([{"n": n}])
    plain.trim(3)
    log.seal()
    assert set(segments(log)) == {("plain", 0)}
    assert pl.read_ipc_stream(segments(log)["plain", 0][0])["n"].to_list() == [3]
    assert [row for _, _, row in rows_of(hidden)] == [(n,) for n in range(4)]


def test_a_segment_whose_last_rows_were_trimmed_is_trash(log: Log, plain: Topic) -> None:
    plain.append([{"n": 1}])
    log.seal()
    plain.trim(1)
    assert log.statistics().segments == 0
    assert log.statistics().trash == 2


@pytest.mark.embedded
def test_files_of_a_living_writer_are_left_alone(log: Log, neighbour: Neighbour) -> None:
    neighbour.do({"do": "open", "path": str(log.path)})
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
    log["t"].append([{"id": 1}])
    assert log.seal() == 1
    assert neighbour.do({"do": "append", "topic": "t", "rows": [[2, None, None, None]], "form": "dicts"})[
        "ok"
    ]
    assert [row[0] for _, _, row in rows_of(log["t"])] == [0, 1, 2]
    neighbour.do({"do": "close"})
    assert log.seal() == 1
    assert [row[0] for _, _, row in rows_of(log["t"])] == [0, 1, 2]


def test_readers_and_writers_go_on_while_files_are_sealed(log: Log, plain: Topic) -> None:
    total, seen, failed = 300, [], []

    def follow() -> None:
        try:
            seen.extend(n for batch in plain.read(follow=True) for n in batch.data["n"].to_pylist())
        except Exception as error:
            failed.append(error)

    def write() -> None:
        for n in range(total):
            plain.append([{"n": n}])
        plain.end()

    threads = [threading.Thread(target=follow), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    while threads[1].is_alive():
        log.seal()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert seen == list(range(total))
    assert [row[0] for _, _, row in rows_of(plain)] == seen


@pytest.mark.embedded
def test_a_topic_deleted_meanwhile_is_not_sealed(
    log: Log, plain: Topic, trades: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.append([{"n": 1}])
    trades.append([{"symbol": "a"}])
    copy = repacking._write

    def deleting(*arguments: Any) -> Any:
        copied = copy(*arguments)
        if "plain" in log:
            log.delete_topic("plain")
        return copied

    monkeypatch.setattr(repacking, "_write", deleting)
    log.seal()
    assert {name for name, _ in segments(log)} == {"trades"}
    assert len(rows_of(trades)) == 1


@pytest.mark.embedded
def test_rows_trimmed_meanwhile_stay_trimmed(log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(4):
        plain.append([{"n": n}])
    copy = repacking._write

    def trimming(*arguments: Any) -> Any:
        copied = copy(*arguments)
        plain.trim(2)
        return copied

    monkeypatch.setattr(repacking, "_write", trimming)
    log.seal()
    assert rows_of(plain) == [(0, 2, (2,)), (0, 3, (3,))]


@pytest.mark.embedded
@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EIO, NotCommitted)])
def test_what_cannot_be_copied_stays_where_it_was(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch, code: int, error: type[Exception]
) -> None:
    for n in range(4):
        plain.append([{"n": n}])
    before = picture(log)

    def failing(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(repacking, "_write", failing)
        with pytest.raises(error, match="stays as it is"):
            log.seal()
    assert picture(log) == before
    assert [path.suffix for path in (log.path / "files").iterdir()] == [".commit"], "no half segment is left"
    plain.append([{"n": 4}])
    assert log.seal() == 2
    assert [row for _, _, row in rows_of(plain)] == [(n,) for n in range(5)]


class Failing:
    """The index, at the change that moves a segment's entries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempt, self.calls = Index._attempt, 0
        monkeypatch.setattr(Index, "_attempt", lambda index, change: self(index, change))

    def moves(self, change: Any) -> bool:
        return "publish" in change.__qualname__ and "lambda" not in change.__qualname__

    def __call__(self, index: Index, change: Any) -> Any:
        return self.attempt(index, change)


@pytest.mark.embedded
def test_a_segment_whose_commit_may_have_happened_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AfterTheCommit(Failing):
        def __call__(self, index: Index, change: Any) -> Any:
            result = self.attempt(index, change)
            if self.moves(change):
                raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.EIO)}")
            return result

    log = open_log(tmp_path)
    plain = log.create_topic("plain", {"n": int})
    for n in range(4):
        plain.append([{"n": n}])
    with monkeypatch.context() as patched:
        AfterTheCommit(patched)
        with pytest.raises(CommitUnknown):
            log.seal()
    log.close()
    with open_log(tmp_path) as log:
        assert [row for _, _, row in rows_of(log["plain"])] == [(n,) for n in range(4)]
        assert len(segments(log)["plain", 0]) == 1
    assert unsound(tmp_path) == []


@pytest.mark.embedded
def test_a_segment_whose_commit_did_not_happen_is_removed(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(Failing):
        def __call__(self, index: Index, change: Any) -> Any:
            if self.moves(change):
                raise lmdb.DiskError(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}")
            return self.attempt(index, change)

    plain.append([{"n": 1}])
    with monkeypatch.context() as patched:
        FullDisk(patched)
        with pytest.raises(DiskFull):
            log.seal()
    assert segments(log) == {}
    assert rows_of(plain) == [(0, 0, (1,))]


@pytest.mark.embedded
def test_a_segment_is_published_although_the_index_has_to_grow_for_it(
    log: Log, plain: Topic, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And although another process takes the next number, and names a file by it, before the second try."""
    neighbour.do({"do": "open", "path": str(log.path)})

    class FullAtFirst(Failing):
        def __call__(self, index: Index, change: Any) -> Any:
            if self.moves(change) and not self.calls:
                self.calls += 1
                with pytest.raises(ZeroDivisionError):
                    self.attempt(index, lambda draft: (change(draft), 1 / 0))
                neighbour.do({"do": "append", "topic": "t", "rows": [[7, None, None, None]], "form": "dicts"})
                raise lmdb.MapFullError("full")
            return self.attempt(index, change)

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
    plain.append([{"n": 1}])
    with monkeypatch.context() as patched:
        FullAtFirst(patched)
        assert log.seal() == 1
    neighbour.do({"do": "close"})
    assert rows_of(plain) == [(0, 0, (1,))]
    assert [row[0] for _, _, row in rows_of(log["t"])] == [7]
    assert in_index(log) == {
        int(p.stem, 16) for p in (log.path / "files").iterdir() if p.suffix != ".toc"
    } - {1}


@pytest.mark.embedded
def test_an_opening_beside_it_takes_no_unfinished_segment_away(
    log: Log, plain: Topic, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Failing):
        def __call__(self, index: Index, change: Any) -> Any:
            if self.moves(change):
                # Named, and not yet in the index: whoever opens the log now sees a file of nobody.
                assert neighbour.do({"do": "open", "path": str(log.path)}) == {"ok": None}
                self.calls += 1
            return self.attempt(index, change)

    plain.append([{"n": 1}])
    with monkeypatch.context() as patched:
        opened = Opened(patched)
        assert log.seal() == 1
        assert opened.calls == 1
    neighbour.do({"do": "close"})
    assert len(segments(log)["plain", 0]) == 1
    assert rows_of(plain) == [(0, 0, (1,))]
